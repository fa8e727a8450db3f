//! `cargo xtask dist`: the `director` binary for distribution, and a Debian package of it.
//!
//! Everything in the package that is not the binary is in `dist/assets/`, or is what the binary says
//! of itself: manual pages, completions, the schema.

mod deb;
mod needs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    setup::{self, Need},
    sh, workspace,
};

/// What a package is made of, and where it goes.
#[derive(Clone, Debug)]
pub struct Package {
    /// The program, built for this machine; it is run, and packed without debug information.
    pub binary: PathBuf,
    /// The package's version, such as `0.1.0`.
    pub version: String,
    /// The directory that gets the package; made if it is missing.
    pub to: PathBuf,
}

impl Package {
    /// Builds `director_VERSION_ARCHITECTURE.deb` and returns its path.
    ///
    /// # Errors
    ///
    /// dpkg or binutils are missing, the program cannot be run, or a file cannot be written.
    pub fn build(&self) -> Result<PathBuf> {
        deb::build(self)
    }
}

/// Builds the program with a profile, and packages it: into `target/package`, or into `to`.
///
/// # Errors
///
/// Something needed cannot be installed, or the build fails.
pub fn verb(profile: &str, to: Option<PathBuf>) -> Result<()> {
    setup::ensure(&[Need::Build], false)?;
    sh::run(sh::cargo().args(["build", "--package", "director-userspace", "--profile", profile]))?;
    let directory = if profile == "dev" { "debug" } else { profile };
    let built = workspace::root().join("target").join(directory).join("director");
    let to = to.unwrap_or_else(|| workspace::root().join("target/package"));
    let package = Package { binary: built, version: env!("CARGO_PKG_VERSION").to_owned(), to };
    let deb = package.build()?;
    // Beside the package, for other distributions.
    let binary = package.to.join("director");
    strip(&package.binary, &binary)?;
    for file in [&binary, &deb] {
        let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
        println!("{}  {:.1} MB", file.display(), bytes as f64 / 1e6);
    }
    println!("needs glibc {} or newer", needs::glibc(&binary)?);
    Ok(())
}

/// Copies a program without what only debuggers read.
fn strip(program: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    sh::run_silently(strip.arg("-o").arg(to).arg(program))
        .with_context(|| format!("cannot strip {}", program.display()))
}
