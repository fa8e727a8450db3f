//! `director plan`: what would change?

use std::process::ExitCode;

use serde::Serialize;

use super::{ConfigFile, InstanceName, explained, lacking, load_config, output::Output, say};
use crate::{
    datapath::{self, Datapath, DatapathError, Sizes},
    host,
    net::Netlink,
    plan::{Desired, Observed, Paths, diff},
};

/// Show what putting a file into effect would change in the running director; changes nothing
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// The plan as scripts see it.
#[derive(Serialize)]
struct Shown {
    /// Whether there is anything to do.
    changes: bool,
    /// The steps in order, as people read them.
    steps: Vec<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let loaded = load_config(&args.file.config)?;
    let netlink = Netlink::connect()?;
    host::interfaces(&netlink, &loaded.config).await?;
    let observed = match Datapath::open(&args.instance.instance) {
        Ok(opened) => datapath::observe(&opened.tables),
        Err(DatapathError::NotAttached(_)) if lacking().is_none() => {
            say("note", "director is not attached: this is what attaching would do");
            Observed::empty(Sizes::for_config(&loaded.config).capacity())
        }
        Err(error) => return Err(explained(error)),
    };
    // Next hops are the host's matter, not the file's: those in effect count as right.
    let paths: Paths = observed
        .backends
        .values()
        .map(|backend| {
            let source = Some(backend.source).filter(|source| !source.is_unspecified());
            let path = crate::plan::Path { next_hop: backend.next_hop, source, mtu: backend.mtu };
            (backend.address, path)
        })
        .collect();
    let desired = Desired::new(&loaded.config, &paths);
    let plan = diff(&observed, &desired, datapath::clock_ns()).map_err(DatapathError::from)?;
    if plan.is_empty() {
        say("note", "the running director does what the file says");
    }
    let steps = plan.ops.iter().map(ToString::to_string).collect();
    args.output.print(&Shown { changes: !plan.is_empty(), steps }, || plan.to_string())?;
    Ok(ExitCode::SUCCESS)
}
