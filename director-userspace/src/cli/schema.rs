//! `director schema`: the JSON Schema of the configuration file.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;

use crate::policy::config;

/// Print the JSON Schema (2020-12) of the configuration file
///
/// For editors with completion and validation. It has every key and the form of every value;
/// `director check` also checks dependencies between values.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let mut text = serde_json::to_vec_pretty(&config::schema::schema())?;
    text.push(b'\n');
    io::stdout().write_all(&text).context("cannot print")?;
    Ok(ExitCode::SUCCESS)
}
