//! `cargo xtask build`: the `director` binary, ready to be copied to a director or a real server.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    setup::{self, Need},
    sh, workspace,
};

/// Builds `director` with unoptimised userspace code and returns its path: it takes half the time,
/// and tests need the same build. The XDP programs are those of a release.
///
/// # Errors
///
/// The build fails.
pub fn unoptimised() -> Result<PathBuf> {
    sh::run(sh::cargo().args(["build", "--package", "director-userspace"]))?;
    Ok(workspace::root().join("target/debug/director"))
}

/// Builds the release binary and returns its path.
///
/// # Errors
///
/// Something needed cannot be installed, or the build fails.
pub fn director() -> Result<PathBuf> {
    setup::ensure(&[Need::Build], false)?;
    sh::run(sh::cargo().args(["build", "--release", "--package", "director-userspace"]))?;
    Ok(workspace::root().join("target/release/director"))
}
