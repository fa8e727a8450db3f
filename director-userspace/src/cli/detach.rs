//! `director detach`: end forwarding.

use std::{io::Write as _, process::ExitCode};

use super::{InstanceName, explained};
use crate::{
    datapath::{self, Datapath, DatapathError, Instance, LinkPin},
    host,
    net::Netlink,
};

/// Take the program off interfaces: off all, if none is named, and with the last one everything
/// that was pinned
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Interfaces to take it off
    #[arg(value_name = "INTERFACE")]
    interfaces: Vec<String>,
    #[command(flatten)]
    instance: InstanceName,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let instance = args.instance.instance;
    let lock = instance.lock().map_err(|error| match error {
        DatapathError::Busy { .. } => anyhow::Error::new(error).context(
            "detaching under a running daemon would have it attach again: stop `director run` \
             first",
        ),
        error => explained(error),
    })?;
    let detached = detach(&instance, &args.interfaces).await;
    if !instance.pins().exists() {
        lock.forget(&instance);
    }
    let gone = detached?;
    let from = if gone.is_empty() { "no interface".into() } else { gone.join(", ") };
    writeln!(std::io::stdout(), "detached from {from}")?;
    Ok(ExitCode::SUCCESS)
}

/// Takes the program off `interfaces`, or off all, and with the last one what was done for it.
/// Returns the interfaces it was on.
async fn detach(instance: &Instance, interfaces: &[String]) -> anyhow::Result<Vec<String>> {
    let netlink = Netlink::connect()?;
    // Maps of another version are removed all the same; only their neighbours are not known.
    let observed = Datapath::open(instance).map(|opened| datapath::observe(&opened.tables)).ok();
    let named = |pin: &LinkPin| interfaces.is_empty() || interfaces.contains(&pin.interface);
    if datapath::attached(instance)?.iter().all(named) {
        // Before the pins go: without them a second try would find nothing to do.
        host::withdraw_vips(&netlink, &instance.run_dir()).await?;
    }
    let gone = datapath::detach(instance, interfaces).map_err(explained)?;
    if datapath::attached(instance)?.is_empty()
        && let Some(observed) = observed
    {
        host::release_neighbours(&netlink, &observed).await?;
    }
    Ok(gone)
}
