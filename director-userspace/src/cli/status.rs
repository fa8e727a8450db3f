//! `director status`: is it on, where, and what does it do?

use std::{fmt::Write as _, process::ExitCode};

use director_common::{runtime::HEARTBEAT_STALE_NS, verdict::Verdict};
use serde::Serialize;

use super::{InstanceName, output::Output, view};
use crate::{datapath, net::Netlink};

/// Show whether Director forwards, on which interfaces, and how much
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
    interfaces: Vec<Interface>,
    services: usize,
    backends: usize,
    /// Entries of the flow table.
    flow_capacity: u64,
    forwarded: u64,
    replied: u64,
    passed: u64,
    dropped: u64,
}

#[derive(Serialize)]
struct Interface {
    name: String,
    mode: &'static str,
    /// `up` or `down`; `elsewhere` if it is in another network namespace than this command.
    state: &'static str,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let instance = args.instance.instance;
    let view = view::read(&instance)?;
    let links = Netlink::connect()?.links().await?;
    let interfaces = datapath::attached(&instance)?
        .into_iter()
        .map(|pin| Interface {
            state: links
                .iter()
                .find(|link| link.index == pin.ifindex && link.name == pin.interface)
                .map_or("elsewhere", |link| if link.running { "up" } else { "down" }),
            mode: pin.mode.as_str(),
            name: pin.interface,
        })
        .collect();
    let sum = |which: fn(Verdict) -> bool| {
        view.counters.verdicts.iter().filter(|(v, _)| which(*v)).map(|(_, n)| n).sum()
    };
    let status = Status {
        instance: instance.name().into(),
        daemon: view.datapath.heartbeat_age_ns().is_some_and(|age| age < HEARTBEAT_STALE_NS),
        interfaces,
        services: view.services.len(),
        backends: view.services.iter().map(|service| service.backends.len()).sum(),
        flow_capacity: view.datapath.tables.flow_capacity(),
        forwarded: sum(|v| matches!(v, Verdict::Tx | Verdict::Redirect)),
        replied: sum(|v| matches!(v, Verdict::Reply(_))),
        passed: sum(|v| matches!(v, Verdict::Pass(_))),
        dropped: sum(|v| matches!(v, Verdict::Drop(_))),
    };
    args.output.print(&status, || table(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn table(status: &Status) -> String {
    let mut text = String::new();
    let interfaces: Vec<_> =
        status.interfaces.iter().map(|i| format!("{} ({}, {})", i.name, i.mode, i.state)).collect();
    let daemon = if status.daemon {
        "running"
    } else {
        "not running: forwarding goes on, changes of file and host are not followed"
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "attached   {}", interfaces.join(", "));
    let _ = writeln!(text, "daemon     {daemon}");
    let _ = writeln!(text, "services   {}, backends {}", status.services, status.backends);
    let _ = writeln!(text, "flows      room for {}", status.flow_capacity);
    let _ = writeln!(
        text,
        "packets    {} forwarded, {} answered, {} passed to the host, {} dropped",
        status.forwarded, status.replied, status.passed, status.dropped
    );
    text
}
