//! `director backends`: who gets the packets.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    InstanceName,
    output::Output,
    view::{self, BackendView},
};

/// List backends with their weight, share, state and traffic
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this service's
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Serialize)]
struct Row {
    service: String,
    frontend: String,
    #[serde(flatten)]
    backend: BackendView,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let services = view::read(&args.instance.instance)?.services;
    if let Some(wanted) = &args.service
        && !services.iter().any(|service| service.name == *wanted)
    {
        let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
        anyhow::bail!("there is no service {wanted}; there are: {}", names.join(", "));
    }
    let rows: Vec<Row> = services
        .into_iter()
        .filter(|service| args.service.as_ref().is_none_or(|wanted| service.name == *wanted))
        .flat_map(|service| {
            let (name, frontend) = (service.name, service.frontend);
            service.backends.into_iter().map(move |backend| Row {
                service: name.clone(),
                frontend: frontend.clone(),
                backend,
            })
        })
        .collect();
    args.output.print(&rows, || {
        let cells: Vec<_> = rows.iter().map(cells).collect();
        let headings = [
            "SERVICE", "BACKEND", "FORWARD", "WEIGHT", "SHARE", "STATE", "NEXT HOP", "FLOWS",
            "PACKETS", "BYTES",
        ];
        view::table(&headings, &cells)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn cells(row: &Row) -> Vec<String> {
    let backend = &row.backend;
    let state = match backend.drain_left_s {
        Some(left) => format!("draining, {left}s left"),
        None => backend.state.into(),
    };
    vec![
        row.service.clone(),
        backend.address.to_string(),
        backend.forward.into(),
        backend.weight.to_string(),
        format!("{:.1}%", backend.share),
        state,
        backend.next_hop.clone().unwrap_or_else(|| "unknown".into()),
        backend.traffic.flows.to_string(),
        backend.traffic.packets.to_string(),
        backend.traffic.bytes.to_string(),
    ]
}
