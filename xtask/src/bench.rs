//! `cargo xtask bench`: builds the benchmark program (`tests/bench`) and runs it, as root if
//! possible.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    setup::{self, Need},
    sh, workspace,
};

/// Runs the benchmark program with `args`.
///
/// # Errors
///
/// Something needed cannot be installed, or the build fails. What the program itself finds missing
/// it reports, and runs the rest.
pub fn verb(args: &[OsString]) -> Result<ExitCode> {
    setup::ensure(&[Need::Build], false)?;
    let mut build = sh::cargo();
    build.args(["build", "--release", "--package", "director-userspace"]);
    build.args(["--package", "director-tests", "--bin", "director", "--bin", "director-bench"]);
    sh::run(&mut build)?;
    let bench = workspace::root().join("target/release/director-bench");
    let mut command = sh::as_root(&bench).unwrap_or_else(|_| std::process::Command::new(&bench));
    let status =
        command.args(args).status().with_context(|| format!("cannot run {}", bench.display()))?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    })
}
