//! `director completions`: what shells need to complete Director's commands.

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
/// The package has those of bash, fish and zsh where these look for them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Written at once: a reader that leaves early is no reason for a panic.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "director", &mut text);
    io::stdout().write_all(&text).context("cannot print")?;
    Ok(ExitCode::SUCCESS)
}
