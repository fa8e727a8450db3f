//! Inside the machine: sets forwarders up one after the other, sends packets through each, and
//! reports their cost.
//!
//! Guest time counts instructions (`Vm::count_instructions`), so the generator's clock measures
//! them. The machine has one CPU: the time from the first packet to the last covers all work done
//! for them, anywhere in the kernel.

mod forwarder;
mod pktgen;
pub(crate) mod wire;
mod xdp;

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use self::{
    pktgen::{KNOWN_FLOWS, Load},
    wire::Line,
};
use super::row::{Family, Forwarder, Mode, Report, Row, Wire, Workload};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each figure is measured
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..100))]
    runs: u8,
    /// Packets of each run
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(pktgen::MAX_PACKETS)))]
    packets: u32,
    /// Only IPv4
    #[arg(long)]
    v4_only: bool,
    /// Without IPVS and nftables, whose commands the host could not fetch
    #[arg(long)]
    without_peers: bool,
    /// What carries the packets; in this order
    #[arg(long = "wire")]
    wires: Vec<Wire>,
}

/// Measures all cases; those that fail are reported and left out.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernel = nix::sys::utsname::uname().context("cannot read the kernel's version")?;
    let kernel = kernel.release().to_string_lossy().into_owned();
    for &wire in &args.wires {
        for (forwarder, family) in cases(args) {
            let (program, mode) = forwarder.names();
            let what = format!("{} {program} {mode} {}", wire.name(), family.name());
            Report::Progress(what.clone()).print();
            match measure(args, wire, forwarder, family, &kernel) {
                Ok(rows) => rows.into_iter().for_each(|row| Report::Row(row).print()),
                Err(error) => Report::Cannot(format!("{what}: {error:#}")).print(),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn cases(args: &Args) -> Vec<(Forwarder, Family)> {
    use {Family::*, Forwarder::*, Mode::*};
    let v4 = [
        Drop,
        Tx,
        Ipvs(Direct),
        Ipvs(Tunnel),
        Ipvs(Nat),
        Nftables,
        Director(Direct),
        Director(Tunnel),
    ];
    let v6 = [Drop, Ipvs(Direct), Ipvs(Tunnel), Director(Direct), Director(Tunnel)];
    let all = v4.map(|forwarder| (forwarder, V4)).into_iter();
    let all = all.chain(v6.map(|forwarder| (forwarder, V6)));
    all.filter(|(_, family)| !args.v4_only || *family == V4)
        .filter(|(forwarder, _)| !args.without_peers || !matches!(forwarder, Ipvs(_) | Nftables))
        .collect()
}

fn measure(
    args: &Args,
    wire: Wire,
    forwarder: Forwarder,
    family: Family,
    kernel: &str,
) -> Result<Vec<Row>> {
    let line = Line::connect(wire)?;
    let rows = on_line(args, &line, wire, forwarder, family, kernel);
    line.disconnect()?;
    rows
}

fn on_line(
    args: &Args,
    line: &Line,
    wire: Wire,
    forwarder: Forwarder,
    family: Family,
    kernel: &str,
) -> Result<Vec<Row>> {
    let running = forwarder::start(forwarder, family, line)?;
    let rows: Result<Vec<Row>> = Workload::ALL
        .into_iter()
        .map(|workload| {
            let samples = samples(args, forwarder, family, workload)
                .with_context(|| format!("{} flows", workload.name()))?;
            let (program, mode) = forwarder.names();
            Ok(Row {
                program: program.to_owned(),
                mode: mode.to_owned(),
                family: family.name().to_owned(),
                workload: workload.name().to_owned(),
                wire,
                flows: if workload == Workload::Known { u64::from(KNOWN_FLOWS) } else { 0 },
                size: pktgen::frame_len(family),
                samples,
                kernel: kernel.to_owned(),
            })
        })
        .collect();
    running.end(line)?;
    rows
}

/// Sends once to warm up, after which known flows are tracked, and then for each sample.
fn samples(
    args: &Args,
    forwarder: Forwarder,
    family: Family,
    workload: Workload,
) -> Result<Vec<f64>> {
    let returning = if forwarder == Forwarder::Drop { 0 } else { u64::from(args.packets) };
    let added = if forwarder.mode() == Some(Mode::Tunnel) { family.header_len() } else { 0 };
    let len = u64::from(pktgen::frame_len(family)) + added;
    let mut samples = Vec::new();
    for range in 0..=args.runs {
        let outcome = pktgen::run(&Load { family, workload, range, packets: args.packets })?;
        outcome.expect(returning, len)?;
        if range > 0 {
            samples.push(outcome.per_packet);
        }
    }
    Ok(samples)
}
