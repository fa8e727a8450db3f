//! `director detach`: end forwarding.

use std::{io::Write as _, process::ExitCode};

use super::{DaemonOf, explained};
use crate::{
    control::director::{Director, DirectorError},
    kernel::{datapath::DatapathError, net::Netlink},
    serve::api::types::{DetachRequest, Detached},
};

/// Take the program off interfaces: off all, if none is named, and with the last one everything
/// that was pinned
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Interfaces to take it off
    #[arg(value_name = "INTERFACE")]
    interfaces: Vec<String>,
    #[command(flatten)]
    daemon: DaemonOf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.daemon.client();
    if client.is_there().await {
        let request = DetachRequest { interfaces: args.interfaces };
        let gone: Detached = client.post("/v1/detach", &request).await?;
        return said(&gone.interfaces);
    }
    let instance = args.daemon.instance();
    let lock = instance.lock().map_err(|error| match error {
        DatapathError::Busy { .. } => anyhow::Error::new(error).context(
            "detaching under a running daemon would have it attach again: stop `director run` \
             first",
        ),
        error => explained(error),
    })?;
    let detached = Director::detach(&Netlink::connect()?, instance, &args.interfaces).await;
    if !instance.pins().exists() {
        instance.leave(lock);
    }
    let gone = detached.map_err(|error| match error {
        DirectorError::Datapath(error) => explained(error),
        error => error.into(),
    })?;
    said(&gone)
}

fn said(gone: &[String]) -> anyhow::Result<ExitCode> {
    let from = if gone.is_empty() { "no interface".into() } else { gone.join(", ") };
    writeln!(std::io::stdout(), "detached from {from}")?;
    Ok(ExitCode::SUCCESS)
}
