//! `director stats`: what became of every packet.

use std::{collections::BTreeMap, process::ExitCode};

use director_common::verdict::Verdict;
use serde::Serialize;

use super::{
    InstanceName,
    output::Output,
    view::{self, ServiceView},
};

/// Show counters: packets by what became of them and why, and per service and backend
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Serialize)]
struct Stats {
    /// Packets forwarded by the interface they came from.
    tx: u64,
    /// Packets forwarded by another.
    redirect: u64,
    /// Packets answered with an ICMP error, by reason.
    reply: BTreeMap<&'static str, u64>,
    /// Packets left to the host, by reason.
    pass: BTreeMap<&'static str, u64>,
    /// Packets dropped, by reason.
    drop: BTreeMap<&'static str, u64>,
    services: Vec<ServiceView>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let view = view::read(&args.instance.instance)?;
    let mut stats = Stats {
        tx: 0,
        redirect: 0,
        reply: BTreeMap::new(),
        pass: BTreeMap::new(),
        drop: BTreeMap::new(),
        services: view.services,
    };
    for (verdict, packets) in &view.counters.verdicts {
        match verdict {
            Verdict::Tx => stats.tx = *packets,
            Verdict::Redirect => stats.redirect = *packets,
            Verdict::Reply(reason) => drop(stats.reply.insert(reason.label(), *packets)),
            Verdict::Pass(reason) => drop(stats.pass.insert(reason.label(), *packets)),
            Verdict::Drop(reason) => drop(stats.drop.insert(reason.label(), *packets)),
        }
    }
    args.output.print(&stats, || table(&stats, &view.counters.verdicts))?;
    Ok(ExitCode::SUCCESS)
}

fn table(stats: &Stats, verdicts: &[(Verdict, u64)]) -> String {
    let packets: Vec<_> = verdicts
        .iter()
        .filter(|(verdict, packets)| *packets > 0 || verdict.reason().is_none())
        .map(|(verdict, packets)| {
            let what = match verdict {
                Verdict::Reply(_) => "answered",
                verdict => verdict.label(),
            };
            let meaning = match verdict {
                Verdict::Drop(reason) => reason.explanation(),
                _ => "",
            };
            let reason = verdict.reason().unwrap_or("");
            vec![what.into(), reason.into(), packets.to_string(), meaning.into()]
        })
        .collect();
    let mut traffic = Vec::new();
    for service in &stats.services {
        let cells = |backend: String, t: view::Traffic, [dropped, unrecorded]: [String; 2]| {
            let numbers = [t.flows, t.packets, t.bytes].map(|n| n.to_string());
            let [flows, packets, bytes] = numbers;
            vec![service.name.clone(), backend, flows, packets, bytes, dropped, unrecorded]
        };
        let own = [service.dropped, service.unrecorded].map(|n| n.to_string());
        traffic.push(cells(service.frontend.clone(), service.traffic, own));
        for backend in &service.backends {
            let none = ["-", "-"].map(String::from);
            traffic.push(cells(format!("-> {}", backend.address), backend.traffic, none));
        }
    }
    format!(
        "{}\n\n{}",
        view::table(&["VERDICT", "REASON", "PACKETS", ""], &packets),
        view::table(
            &["SERVICE", "", "FLOWS", "PACKETS", "BYTES", "DROPPED", "UNRECORDED"],
            &traffic
        )
    )
}
