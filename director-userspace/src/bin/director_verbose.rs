//! The `director` program whose XDP program logs what its slow path decides. For development.

use std::process::ExitCode;

use clap::Parser as _;
use director_userspace::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    cli::main(Cli::parse()).await
}
