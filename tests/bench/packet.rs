//! One packet's cost: programs side by side, each over the same packets, net of a program that does
//! nothing.

mod flood;
pub(crate) mod frame;
pub(crate) mod harness;
pub(crate) mod subject;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use frame::{Frame, Protocol};
use harness::{Action, Harness};
use subject::{Mode, Setup, Subject};

use crate::{
    measurement::{Measurement, Part, Spread},
    session::Session,
};

/// Default destination of frames.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 1);
const PORT: u16 = 80;

/// Arguments of the part `packet`.
#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// A pinned XDP program to measure beside the others; may be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = parse_named)]
    pinned: Vec<(String, PathBuf)>,
    /// Another build of Director to measure beside this one, an object file:
    /// target/ebpf/bpfel-unknown-none/bpf/director from before a change; may be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = parse_named)]
    object: Vec<(String, PathBuf)>,
    /// Destination of IPv4 frames
    #[arg(long, value_name = "ADDRESS", default_value_t = VIP)]
    vip: Ipv4Addr,
    /// Destination of IPv6 frames
    #[arg(long, value_name = "ADDRESS", default_value_t = VIP6)]
    vip6: Ipv6Addr,
    /// Destination port
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// Transport protocol
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// Only workloads whose name contains this: `v4 tunnel known`, for example
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

fn parse_named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err("not of the form NAME=PATH".to_owned()),
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pinned: Vec::new(),
            object: Vec::new(),
            vip: VIP,
            vip6: VIP6,
            port: PORT,
            protocol: Protocol::Tcp,
            only: None,
        }
    }
}

/// The flows of a workload's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flows {
    /// This many tracked flows.
    Known(u64),
    /// Each packet opens a new flow.
    New,
    /// Packets for no service.
    Unmatched,
}

/// Packets of one kind.
#[derive(Clone, Copy, Debug)]
struct Workload {
    v6: bool,
    mode: Mode,
    flows: Flows,
    size: usize,
    cpus: u32,
}

/// Default capacity of a director's flow table.
const DEFAULT_FLOWS: u64 = 1 << 20;
/// Minimum capacity of a flow table here. Its size should follow the expected flows.
const LEAST_FLOWS: u64 = 64 * KI;
const KI: u64 = 1 << 10;
const MI: u64 = 1 << 20;
/// The self-check: turns, and packets of each turn.
const SELF_CHECKS: u32 = 101;
const SELF_CHECK_PACKETS: u64 = 1 << 16;
/// Flows of unmatched packets, by their addresses and ports.
const UNMATCHED_FLOWS: u64 = 64 * KI;
/// One packet in this many is traced, where tracing is measured.
const TRACED: u64 = 1000;
/// Backends of the service that is measured.
const BACKENDS: u32 = 100;

fn workloads(quick: bool) -> Vec<Workload> {
    let base =
        Workload { v6: false, mode: Mode::Tunnel, flows: Flows::Known(1), size: 64, cpus: 1 };
    let mut all = Vec::new();
    for v6 in [false, true] {
        let size = if v6 { 80 } else { 64 };
        for mode in [Mode::Tunnel, Mode::Direct] {
            for flows in [1, 64 * KI, MI] {
                all.push(Workload { v6, mode, flows: Flows::Known(flows), size, ..base });
            }
        }
        for flows in [Flows::New, Flows::Unmatched] {
            all.push(Workload { v6, flows, size, ..base });
        }
    }
    if !quick {
        all.push(Workload { flows: Flows::Known(8 * MI), ..base });
        for flows in [1, 64 * KI] {
            all.push(Workload { flows: Flows::Known(flows), size: 1400, ..base });
        }
    }
    for flows in [64 * KI, MI] {
        all.push(Workload { flows: Flows::Known(flows), cpus: 2, ..base });
    }
    all
}

impl Workload {
    fn name(&self) -> String {
        let flows = match self.flows {
            Flows::Known(flows) => format!("known, {flows} flows"),
            Flows::New => "new flows".to_owned(),
            Flows::Unmatched => "unmatched".to_owned(),
        };
        let family = if self.v6 { "v6" } else { "v4" };
        let cpus = if self.cpus == 1 { String::new() } else { format!(", {} CPUs", self.cpus) };
        format!("{family} {} {flows}, {} bytes{cpus}", self.mode.name(), self.size)
    }

    /// Packets of a sample: at least one per flow, and enough for some tens of milliseconds.
    fn packets(&self, quick: bool) -> u64 {
        let least = if quick { 1 << 17 } else { 1 << 19 };
        match self.flows {
            Flows::Known(flows) => flows.max(least),
            Flows::New | Flows::Unmatched => least,
        }
    }

    fn flow_capacity(&self) -> u64 {
        match self.flows {
            Flows::Known(flows) => (flows * u64::from(self.cpus)).max(LEAST_FLOWS),
            Flows::New | Flows::Unmatched => DEFAULT_FLOWS,
        }
    }

    /// The action of a balancer for these packets.
    fn expected(&self) -> Action {
        if self.flows == Flows::Unmatched { Action::Pass } else { Action::Tx }
    }
}

/// Runs the part.
///
/// # Errors
///
/// If a program of this repository cannot be loaded or does not forward, or a pinned one cannot be
/// measured.
pub(crate) fn run(session: &mut Session, options: &Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        session.skip("packet: loading BPF programs needs root");
        return Ok(());
    }
    let pinned = options
        .pinned
        .iter()
        .map(|(name, path)| subject::pinned(name, path))
        .collect::<Result<Vec<_>>>()?;
    self_check(session, options)?;
    for workload in workloads(session.quick) {
        let name = workload.name();
        if options.only.as_ref().is_none_or(|text| name.contains(text.as_str())) {
            measure(session, options, &workload, &pinned)
                .with_context(|| format!("workload {name}"))?;
        }
    }
    if options.only.as_ref().is_none_or(|text| "flood".contains(text.as_str())) {
        flood::run(session, options)?;
    }
    Ok(())
}

fn frame(options: &Options, workload: &Workload) -> Frame {
    let vip = if workload.v6 { IpAddr::V6(options.vip6) } else { IpAddr::V4(options.vip) };
    Frame {
        vip,
        port: options.port,
        protocol: options.protocol,
        opens: workload.flows == Flows::New,
        size: workload.size,
    }
}

/// Compares the floor with itself, and with a slowed one: differences below the first are noise,
/// and the second must be measured.
fn self_check(session: &mut Session, options: &Options) -> Result<()> {
    let workload =
        Workload { v6: false, mode: Mode::Tunnel, flows: Flows::Known(1), size: 64, cpus: 1 };
    let mut harness = Harness::new(&frame(options, &workload), 1, 1)?;
    let subjects = [subject::floor()?, subject::floor()?, subject::slowed()?];
    let mut samples = [const { Vec::new() }; 3];
    // Many short turns: a disturbance affects neighbouring turns equally.
    for _ in 0..SELF_CHECKS {
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            harness.put(&subject.program)?;
            samples.push(harness.run(SELF_CHECK_PACKETS)?.ns);
        }
    }
    let [first, second, slowed] = samples.each_ref().map(|samples| Spread::of(samples).median);
    let differs = (first - second).abs() / first;
    session.check(
        &format!("the floor, measured twice, differs by under 5 % ({first:.1} and {second:.1} ns)"),
        differs < 0.05,
    );
    session.check(
        &format!("a slowed program is measured as slower ({slowed:.1} against {first:.1} ns)"),
        slowed > first * (1.0 + 2.0 * differs) && slowed - first > 10.0,
    );
    for (name, samples) in ["floor", "floor", "slowed"].iter().zip(&samples) {
        let mut result = session.blank(Part::Packet, name, "ns/packet", samples);
        describe(&mut result, &workload);
        result.workload = "self-check".to_owned();
        result.net = Some(result.median - first);
        session.record(result);
    }
    Ok(())
}

fn describe(result: &mut Measurement, workload: &Workload) {
    result.mode = workload.mode.name().to_owned();
    result.family = if workload.v6 { "v6" } else { "v4" }.to_owned();
    (result.workload, result.flows) = match workload.flows {
        Flows::Known(flows) => ("known".to_owned(), flows),
        Flows::New => ("new".to_owned(), 0),
        Flows::Unmatched => ("nobody".to_owned(), UNMATCHED_FLOWS),
    };
    result.size = workload.size as u32;
    result.cpus = workload.cpus;
    (result.services, result.backends) = (1, BACKENDS);
}

fn measure(
    session: &mut Session,
    options: &Options,
    workload: &Workload,
    pinned: &[Subject],
) -> Result<()> {
    session.progress(&workload.name());
    let frame = frame(options, workload);
    let setup = Setup {
        frame,
        mode: workload.mode,
        services: 1,
        backends: BACKENDS,
        flow_capacity: workload.flow_capacity(),
    };
    let flows = match workload.flows {
        Flows::Known(flows) => flows,
        Flows::New => 0,
        Flows::Unmatched => UNMATCHED_FLOWS,
    };
    // Unmatched packets are for the address before the VIP.
    let sent = match (workload.flows, frame.vip) {
        (Flows::Unmatched, IpAddr::V4(vip)) => {
            Frame { vip: IpAddr::V4((u32::from(vip) - 1).into()), ..frame }
        }
        (Flows::Unmatched, IpAddr::V6(vip)) => {
            Frame { vip: IpAddr::V6((u128::from(vip) - 1).into()), ..frame }
        }
        _ => frame,
    };
    let mut harness = Harness::new(&sent, flows, 1)?;
    let mut own =
        vec![subject::floor()?, subject::conventional(&setup)?, subject::director(&setup)?];
    for (name, path) in &options.object {
        own.push(subject::built(name, path, &setup)?);
    }
    if workload.flows == Flows::Known(1) {
        own.push(subject::traced(&setup, TRACED)?);
    }
    let mut subjects: Vec<&Subject> = own.iter().collect();
    let packets = workload.packets(session.quick);
    for subject in pinned {
        harness.put(&subject.program).with_context(|| {
            format!("{}: cannot be called from another XDP program", subject.name)
        })?;
        let sample = harness.run(2)?;
        if sample.action == workload.expected() {
            subjects.push(subject);
        } else {
            session.skip(format!(
                "{}, {}: it returns {:?}; its tables are not filled for this frame",
                workload.name(),
                subject.name,
                sample.action
            ));
        }
    }
    // Two passes through all flows: the second packet of a flow establishes it.
    for subject in &subjects {
        harness.put(&subject.program)?;
        for _ in 0..2 {
            let samples = harness.run_on(workload.cpus, packets)?;
            check_action(subject, workload, &samples)?;
        }
    }
    let mut samples = vec![Vec::new(); subjects.len()];
    for _ in 0..repeats(session, workload) {
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            harness.put(&subject.program)?;
            let run = harness.run_on(workload.cpus, packets)?;
            subject.read();
            samples.push(run.iter().map(|sample| sample.ns).sum::<f64>() / run.len() as f64);
        }
    }
    let floor = Spread::of(&samples[0]).median;
    for (subject, samples) in subjects.iter().zip(&samples) {
        let mut result = session.blank(Part::Packet, &subject.name, "ns/packet", samples);
        describe(&mut result, workload);
        result.net = Some(result.median - floor);
        session.progress(&format!(
            "  {:14} {:7.1} ns/packet ({:.1} to {:.1}), net {:7.1}",
            result.program,
            result.median,
            result.min,
            result.max,
            result.median - floor
        ));
        session.record(result);
    }
    Ok(())
}

/// A pass over millions of flows takes seconds.
fn repeats(session: &Session, workload: &Workload) -> u32 {
    match workload.flows {
        Flows::Known(flows) if flows > MI => session.repeats.min(3),
        _ => session.repeats,
    }
}

/// A balancer that does not forward would be measured as fast.
fn check_action(subject: &Subject, workload: &Workload, samples: &[harness::Sample]) -> Result<()> {
    for sample in samples {
        if subject.name != "floor" && sample.action != workload.expected() {
            bail!("{} returns {:?} for {}", subject.name, sample.action, workload.name());
        }
        let outer = if workload.v6 { 40 } else { 20 };
        let grows = workload.mode == Mode::Tunnel && workload.flows != Flows::Unmatched;
        let length = workload.size as u32 + if grows { outer } else { 0 };
        if ["director", "conventional", "traced"].contains(&subject.name.as_str())
            && sample.length != length
        {
            bail!("{}: the frame has {} bytes, expected {length}", subject.name, sample.length);
        }
    }
    Ok(())
}
