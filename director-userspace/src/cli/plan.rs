//! `director plan`: shows what would change.

use std::{collections::HashMap, net::IpAddr, process::ExitCode};

use director_common::backend::ForwardMode;
use serde::Serialize;

use super::{
    ConfigFile, DaemonOf, explained, load_config, missing_privileges, output::Output, print_message,
};
use crate::{
    kernel::{
        datapath::{self, Datapath, DatapathError, Sizes},
        host,
        net::Netlink,
    },
    policy::plan::{Desired, Observed, Path, PathKey, Paths, diff},
    serve::api::{client::Client, types::Planned},
};

/// Show what applying a file would change in the running director, without changing it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    daemon: DaemonOf,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// The plan as printed for scripts.
#[derive(Serialize)]
struct Shown {
    /// Whether anything would change.
    changes: bool,
    /// The steps in order, as text.
    steps: Vec<String>,
    /// Number of the configuration in effect, for `apply --if-revision`; null without a daemon.
    revision: Option<u64>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.daemon.client();
    if client.is_reachable().await {
        return by_daemon(&args, &client).await;
    }
    let loaded = load_config(&args.file.config)?;
    let netlink = Netlink::connect()?;
    host::interfaces(&netlink, &netlink.links().await?, &loaded.config)?;
    let observed = match Datapath::open(args.daemon.instance()) {
        Ok(opened) => datapath::observe(&opened.tables),
        Err(DatapathError::NotAttached(_)) if missing_privileges().is_none() => {
            print_message("note", "director is not attached: these are the steps of attaching");
            Observed::empty(Sizes::for_config(&loaded.config).capacity())
        }
        Err(error) => return Err(explained(error)),
    };
    // Next hops depend on the host, not the file: those in effect are kept.
    let mut known: HashMap<(IpAddr, ForwardMode), Path> = HashMap::new();
    for backend in observed.backends.values() {
        let source = Some(backend.source).filter(|source| !source.is_unspecified());
        let path = Path { next_hop: backend.next_hop, source, mtu: backend.mtu };
        known.extend(backend.forward.map(|forward| ((backend.address, forward), path)));
    }
    let mut paths = Paths::default();
    for service in &loaded.config.services {
        let keys = service.backends.iter().map(|backend| PathKey::of(service, backend));
        paths.extend(keys.filter_map(|key| Some((key, *known.get(&(key.address, key.forward))?))));
    }
    let desired = Desired::new(&loaded.config, &paths);
    let plan = diff(&observed, &desired, datapath::clock_ns()).map_err(DatapathError::from)?;
    if plan.is_empty() {
        print_message("note", "the running director matches the file");
    }
    let steps = plan.ops.iter().map(ToString::to_string).collect();
    args.output
        .print(&Shown { changes: !plan.is_empty(), steps, revision: None }, || plan.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Plans by the daemon, which has more state than the maps: health, admin overrides, and the size
/// that maps may grow to.
async fn by_daemon(args: &Args, client: &Client) -> anyhow::Result<ExitCode> {
    let text = super::apply::read(&args.file.config)?;
    let answer = client.post_yaml("/v1/plan", text).await;
    let planned: Planned = answer.map_err(|error| super::apply::named(error, &args.file.config))?;
    for warning in &planned.warnings {
        print_message("warning", warning);
    }
    if !planned.changes {
        print_message("note", "the running director matches the file");
    }
    let Planned { changes, steps, revision, .. } = planned;
    let text = format!("{}\n(against revision {revision})", steps.join("\n"));
    args.output.print(&Shown { changes, steps, revision: Some(revision) }, || text)?;
    Ok(ExitCode::SUCCESS)
}
