//! `cargo xtask build`: the `director` binary, ready to be copied to a director or a real server.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    setup::{self, Need},
    sh, workspace,
};

/// Builds the release binary and returns where it is.
///
/// # Errors
///
/// Something needed cannot be installed, or the build fails.
pub fn director() -> Result<PathBuf> {
    setup::ensure(&[Need::Build], false)?;
    sh::run(sh::cargo().args(["build", "--release", "--package", "director-userspace"]))?;
    Ok(workspace::root().join("target/release/director"))
}
