//! `director detach`: ends forwarding.

use std::{io::Write as _, process::ExitCode};

use super::{DaemonOf, explained};
use crate::{
    control::director::{Director, DirectorError},
    kernel::{datapath::DatapathError, net::Netlink},
    serve::api::types::{DetachRequest, Detached},
};

/// Detach the program from interfaces (from all, if none is named), and with the last one remove
/// all pinned objects
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Interfaces to detach from
    #[arg(value_name = "INTERFACE")]
    interfaces: Vec<String>,
    #[command(flatten)]
    daemon: DaemonOf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.daemon.client();
    if client.is_reachable().await {
        let request = DetachRequest { interfaces: args.interfaces };
        let detached: Detached = client.post("/v1/detach", &request).await?;
        return print(&detached.interfaces);
    }
    let instance = args.daemon.instance();
    let lock = instance.lock().map_err(|error| match error {
        DatapathError::Busy { .. } => anyhow::Error::new(error)
            .context("a running daemon would attach again: stop `director run` first"),
        error => explained(error),
    })?;
    let detached = Director::detach(&Netlink::connect()?, instance, &args.interfaces).await;
    if !instance.pins().exists() {
        instance.release(lock);
    }
    let interfaces = detached.map_err(|error| match error {
        DirectorError::Datapath(error) => explained(error),
        error => error.into(),
    })?;
    print(&interfaces)
}

fn print(interfaces: &[String]) -> anyhow::Result<ExitCode> {
    let from = if interfaces.is_empty() { "no interface".into() } else { interfaces.join(", ") };
    writeln!(std::io::stdout(), "detached from {from}")?;
    Ok(ExitCode::SUCCESS)
}
