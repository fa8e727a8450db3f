//! `cargo xtask bench`: builds the rig (`tests/bench`) and runs it, as root where that can be had.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    setup::{self, Need},
    sh, workspace,
};

/// Runs the rig with `args`.
///
/// # Errors
///
/// Something needed cannot be installed, or the build fails. What the rig itself finds missing it
/// says, and runs the rest.
pub fn verb(args: &[OsString]) -> Result<ExitCode> {
    setup::ensure(&[Need::Build], false)?;
    let mut build = sh::cargo();
    build.args(["build", "--release", "--package", "director-userspace"]);
    build.args(["--package", "director-tests", "--bin", "director", "--bin", "director-bench"]);
    sh::run(&mut build)?;
    let rig = workspace::root().join("target/release/director-bench");
    let mut command = sh::as_root(&rig).unwrap_or_else(|_| std::process::Command::new(&rig));
    let status =
        command.args(args).status().with_context(|| format!("cannot run {}", rig.display()))?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    })
}
