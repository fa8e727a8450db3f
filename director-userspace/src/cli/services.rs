//! `director services`: lists services.

use std::process::ExitCode;

use super::{InstanceName, output::Output, state_reader::read_state};
use crate::serve::view::{
    ServiceView,
    text::{ago, count, table},
};

/// List services with their state, connections and traffic
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// More columns, wider than 80 characters
    #[arg(long)]
    wide: bool,
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let services = read_state(&args.instance.instance).await?.services;
    args.output.print(&services, || {
        let mut headings =
            vec!["SERVICE", "ADDRESS", "STATE", "UP", "CONNS", "PACKETS", "BYTES", "DROPPED"];
        if args.wide {
            headings.extend(["SCHEDULER", "SINCE", "QUORUM", "FLOWS", "UNTRACKED"]);
        }
        let rows: Vec<_> = services.iter().map(|service| cells(service, args.wide)).collect();
        table(&headings, &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn cells(service: &ServiceView, wide: bool) -> Vec<String> {
    let (up, configured) = service.usable();
    let health = service.status;
    let mut cells = vec![
        service.name.clone(),
        service.frontend.clone(),
        health.map_or("-", |health| health.state.label()).into(),
        format!("{up}/{configured}"),
        count(service.established),
        count(service.traffic.packets),
        count(service.traffic.bytes),
        count(service.dropped),
    ];
    if wide {
        let quorum =
            |q: crate::serve::view::ServiceHealth| format!("{}/{}", q.quorum.up, q.quorum.needed);
        cells.extend([
            service.scheduler.into(),
            health.map_or_else(|| "-".into(), |health| ago(health.since)),
            health.map_or_else(|| "-".into(), quorum),
            count(service.traffic.flows),
            count(service.untracked),
        ]);
    }
    cells
}
