//! `director status`: is it on, where, and what does it do?

use std::{fmt::Write as _, process::ExitCode};

use director_common::verdict::Verdict;
use serde::Serialize;

use super::{InstanceName, output::Output, state_reader::StateReader};
use crate::{
    kernel::net::Netlink,
    serve::view::{
        Mood, Snapshot,
        text::{ago, count},
    },
};

/// Show whether Director forwards, on which interfaces, how much, and what is not well
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
    /// What the daemon says of itself; null without one.
    running: Option<Running>,
    interfaces: Vec<Interface>,
    services: usize,
    backends: usize,
    /// What is not as it should be, for people.
    troubles: Vec<String>,
    /// Entries of the flow table.
    flow_capacity: u64,
    /// Established flows in it.
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
    /// Why the file is not what is in effect.
    refused: Option<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Interface {
    name: String,
    mode: &'static str,
    /// `up` or `down`; `elsewhere` if it is in another network namespace than this command.
    state: &'static str,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (snapshot, missing) = StateReader::new(&args.instance.instance).look().await?;
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
        running: snapshot.conditions.as_ref().map(|conditions| Running {
            pid: conditions.pid,
            version: conditions.version.clone(),
            started: conditions.started,
            config_path: conditions.config_path.clone(),
            revision: conditions.revision,
            applied: conditions.applied,
            refused: conditions.refused.clone(),
            warnings: conditions.warnings.clone(),
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
    // Where its heart beats, a silent daemon is worth a word; where it does not, the table says so.
    let silent = missing.filter(|_| status.daemon);
    args.output.print(&status, || table(&status, silent.as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

/// Services that are not as they should be, one line each.
fn troubles(snapshot: &Snapshot) -> Vec<String> {
    let services = snapshot.services.iter();
    services
        .filter_map(|service| {
            let health = service.condition.filter(|health| health.mood() < Mood::Neutral)?;
            let (up, configured) = service.usable();
            let (name, state) = (&service.name, health.state.label());
            Some(format!("{name} {state} since {}: {up} of {configured} up", ago(health.since)))
        })
        .collect()
}

fn table(status: &Status, silent: Option<&str>) -> String {
    let mut text = String::new();
    let interfaces: Vec<_> =
        status.interfaces.iter().map(|i| format!("{} ({}, {})", i.name, i.mode, i.state)).collect();
    let daemon = match &status.running {
        Some(running) => {
            format!("running for {}, process {}", ago(running.started), running.pid)
        }
        None if status.daemon => {
            let silent = silent.map_or_else(String::new, |silent| format!(" ({silent})"));
            format!("running{silent}")
        }
        None => "not running: forwarding goes on, changes of file and host are not followed".into(),
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
            let _ = writeln!(text, "refused    the file as it is now: {first}");
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
