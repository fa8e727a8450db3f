//! `director run`: the daemon.

use std::{io::IsTerminal as _, process::ExitCode};

use super::{ConfigFile, InstanceName};
use crate::daemon::{self, DaemonError};

/// Run the daemon: attach, apply the file and its changes, follow the host's neighbours and routes
///
/// Stopping it (SIGTERM, Ctrl-C) does not stop forwarding; `director detach` does. A file that is
/// changed is applied; an invalid one is refused whole. SIGHUP reads it again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    instance: InstanceName,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let path = args.file.config;
    let started = || {
        tracing::info!("running by {}; forwarding outlives this process", path.display());
    };
    match daemon::run(&path, &args.instance.instance, started).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(DaemonError::Config(errors)) => Err(errors.into()),
        Err(error) => Err(error.into()),
    }
}
