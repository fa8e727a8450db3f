//! `director completions`: shell completions of Director's commands.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// Print the completions of a shell
///
/// The package installs those of bash, fish and zsh in their directories.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Written at once, because clap panics if the reader closes stdout early.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "director", &mut text);
    io::stdout().write_all(&text).context("cannot print")?;
    Ok(ExitCode::SUCCESS)
}
