//! `director status`: shows whether Director forwards, on which interfaces, and how much.

use std::{fmt::Write as _, process::ExitCode};

use director_common::verdict::Verdict;
use serde::Serialize;

use super::{InstanceName, output::Output, state_reader::StateReader};
use crate::{
    kernel::net::Netlink,
    serve::view::{
        Rating, Snapshot,
        text::{ago, count},
    },
};

/// Show whether Director forwards, on which interfaces, how much, and which services have problems
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Serialize)]
struct Status {
    instance: String,
    /// Whether a daemon keeps next hops fresh.
    daemon: bool,
    /// The daemon's own status; null without a daemon.
    running: Option<Running>,
    interfaces: Vec<Interface>,
    services: usize,
    backends: usize,
    /// Services with problems, in words.
    troubles: Vec<String>,
    /// Entries of the flow table.
    flow_capacity: u64,
    /// Established flows in the flow table.
    established: u64,
    forwarded: u64,
    replied: u64,
    passed: u64,
    dropped: u64,
}

#[derive(Serialize)]
struct Running {
    pid: u32,
    version: String,
    /// Seconds since 1970.
    started: u64,
    config_path: String,
    revision: u64,
    /// Seconds since 1970.
    applied: u64,
    /// Why the file is not in effect.
    refused: Option<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Interface {
    name: String,
    mode: &'static str,
    /// `up` or `down`; `elsewhere` if the interface is in another network namespace than this
    /// command.
    state: &'static str,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (snapshot, missing) = StateReader::new(&args.instance.instance).read().await?;
    let links = Netlink::connect()?.links().await?;
    let interfaces = snapshot
        .interfaces
        .iter()
        .map(|interface| Interface {
            state: links
                .iter()
                .find(|link| link.index == interface.index && link.name == interface.name)
                .map_or("elsewhere", |link| if link.running { "up" } else { "down" }),
            mode: interface.mode,
            name: interface.name.clone(),
        })
        .collect();
    let status = Status {
        instance: snapshot.instance.clone(),
        daemon: snapshot.has_daemon(),
        running: snapshot.status.as_ref().map(|status| Running {
            pid: status.pid,
            version: status.version.clone(),
            started: status.started,
            config_path: status.config_path.clone(),
            revision: status.revision,
            applied: status.applied,
            refused: status.refused.clone(),
            warnings: status.warnings.clone(),
        }),
        interfaces,
        services: snapshot.services.len(),
        backends: snapshot.services.iter().map(|service| service.backends.len()).sum(),
        troubles: troubles(&snapshot),
        flow_capacity: snapshot.flow_capacity,
        established: snapshot.established,
        forwarded: snapshot.packets(|v| matches!(v, Verdict::Tx | Verdict::Redirect)),
        replied: snapshot.packets(|v| matches!(v, Verdict::Reply(_))),
        passed: snapshot.packets(|v| matches!(v, Verdict::Pass(_))),
        dropped: snapshot.packets(|v| matches!(v, Verdict::Drop(_))),
    };
    // With a fresh heartbeat, the table shows why the daemon did not answer; without one, that no
    // daemon runs.
    let no_answer = missing.filter(|_| status.daemon);
    args.output.print(&status, || table(&status, no_answer.as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

/// Services with problems, one line each.
fn troubles(snapshot: &Snapshot) -> Vec<String> {
    let services = snapshot.services.iter();
    services
        .filter_map(|service| {
            let health = service.status.filter(|health| health.rating() < Rating::Neutral)?;
            let (up, configured) = service.usable();
            let (name, state) = (&service.name, health.state.label());
            Some(format!("{name} {state} since {}: {up} of {configured} up", ago(health.since)))
        })
        .collect()
}

fn table(status: &Status, no_answer: Option<&str>) -> String {
    let mut text = String::new();
    let interfaces: Vec<_> =
        status.interfaces.iter().map(|i| format!("{} ({}, {})", i.name, i.mode, i.state)).collect();
    let daemon = match &status.running {
        Some(running) => {
            format!("running for {}, process {}", ago(running.started), running.pid)
        }
        None if status.daemon => {
            let why = no_answer.map_or_else(String::new, |why| format!(" ({why})"));
            format!("running{why}")
        }
        None => {
            "not running: forwarding continues, changes of file and host are not applied".into()
        }
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "attached   {}", interfaces.join(", "));
    let _ = writeln!(text, "daemon     {daemon}");
    if let Some(running) = &status.running {
        let (path, revision) = (&running.config_path, running.revision);
        let applied = ago(running.applied);
        let _ = writeln!(text, "config     {path}, revision {revision}, applied {applied} ago");
        if let Some(refused) = &running.refused {
            let mut lines = refused.lines();
            let first = lines.next().unwrap_or_default();
            let _ = writeln!(text, "refused    the current file: {first}");
            for line in lines {
                let _ = writeln!(text, "           {line}");
            }
        }
        for warning in &running.warnings {
            let _ = writeln!(text, "warning    {warning}");
        }
    }
    let _ = writeln!(text, "services   {}, backends {}", status.services, status.backends);
    for trouble in &status.troubles {
        let _ = writeln!(text, "trouble    {trouble}");
    }
    let _ = writeln!(
        text,
        "flows      room for {}, {} established",
        status.flow_capacity,
        count(status.established)
    );
    let _ = writeln!(
        text,
        "packets    {} forwarded, {} answered, {} passed to the host, {} dropped",
        status.forwarded, status.replied, status.passed, status.dropped
    );
    text
}
