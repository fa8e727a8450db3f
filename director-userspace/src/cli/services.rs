//! `director services`: what is balanced.

use std::process::ExitCode;

use super::{InstanceName, output::Output, view};

/// List services with their traffic
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let services = view::read(&args.instance.instance)?.services;
    args.output.print(&services, || {
        let rows: Vec<_> = services
            .iter()
            .map(|service| {
                let active = service.backends.iter().filter(|b| b.state == "active").count();
                vec![
                    service.name.clone(),
                    service.frontend.clone(),
                    service.scheduler.into(),
                    active.to_string(),
                    service.traffic.flows.to_string(),
                    service.traffic.packets.to_string(),
                    service.traffic.bytes.to_string(),
                    service.dropped.to_string(),
                ]
            })
            .collect();
        let headings =
            ["SERVICE", "ADDRESS", "SCHEDULER", "BACKENDS", "FLOWS", "PACKETS", "BYTES", "DROPPED"];
        view::table(&headings, &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}
