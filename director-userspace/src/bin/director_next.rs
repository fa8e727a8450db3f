//! The `director` program with another XDP program, as a next version would have. For tests.

use std::process::ExitCode;

use clap::Parser as _;
use director_userspace::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    cli::main(Cli::parse()).await
}
