//! One packet's cost as services, backends and the flow table grow, and the memory of each of them.

mod memory;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, bail};

use self::memory::{Maps, Need};
use crate::{
    measurement::{Measurement, Part, Spread},
    packet::{
        frame::{Frame, Protocol},
        harness::{Action, Harness},
        subject::{self, Mode, Setup, Subject},
    },
    session::Session,
};

/// The first service's address; the others follow.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
const SIZE: u32 = 64;
/// Length of the outer IPv4 header.
const OUTER: u32 = 20;
/// Known flows of the packets.
const IN_USE: u64 = 1 << 16;
/// Backends of each of many services.
const FEW: u32 = 3;
/// Maximum cost of 10,000 services, and of 1,000 backends, relative to the fewest.
const GROWTH_AT_MOST: f64 = 1.10;
/// Maximum size of a flow in the flow table, bytes.
const FLOW_AT_MOST: f64 = 96.0;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growing {
    Services,
    Backends,
    Table,
}

impl Growing {
    const ALL: [Self; 3] = [Self::Services, Self::Backends, Self::Table];

    /// The sizes that are measured, the smallest first.
    fn sizes(self, quick: bool) -> &'static [u32] {
        match (self, quick) {
            (Self::Services, false) => &[1, 10, 100, 1_000, 10_000],
            (Self::Services, true) => &[1, 100],
            (Self::Backends, false) => &[3, 10, 100, 1_000],
            (Self::Backends, true) => &[3, 100],
            (Self::Table, false) => &[1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24],
            (Self::Table, true) => &[1 << 16, 1 << 20],
        }
    }

    fn setup(self, size: u32) -> Setup {
        let frame = Frame {
            vip: IpAddr::V4(VIP),
            port: 80,
            protocol: Protocol::Tcp,
            opens: false,
            size: SIZE as usize,
        };
        let least =
            Setup { frame, mode: Mode::Tunnel, services: 1, backends: FEW, flow_capacity: IN_USE };
        match self {
            Self::Services => Setup { services: size, ..least },
            Self::Backends => Setup { backends: size, ..least },
            Self::Table => Setup { flow_capacity: size.into(), ..least },
        }
    }

    /// The workloads of a size, each with how many VIPs its packets are for.
    fn workloads(self, size: u32) -> Vec<(&'static str, u32)> {
        match self {
            Self::Services => vec![("services", 1), ("services-spread", 1 << size.ilog2())],
            Self::Backends => vec![("backends", 1)],
            Self::Table => vec![("table", 1)],
        }
    }

    /// The name of one of them.
    fn one(self) -> &'static str {
        match self {
            Self::Services => "service",
            Self::Backends => "backend",
            Self::Table => "flow",
        }
    }

    /// Memory of one of them, bytes.
    fn memory(self, maps: &Maps, setup: &Setup) -> Result<f64> {
        match self {
            Self::Services => maps.service(),
            Self::Backends => maps.backend(),
            Self::Table => maps.flow(setup),
        }
    }
}

/// Runs the part.
///
/// # Errors
///
/// If a director cannot be loaded, or does not forward.
pub(crate) fn run(session: &mut Session) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        session.skip("scale: loading BPF programs needs root");
        return Ok(());
    }
    for growing in Growing::ALL {
        let (mut loaded, mut memory) = (Vec::new(), None);
        for &size in growing.sizes(session.quick) {
            let setup = growing.setup(size);
            let what = named(&setup);
            if let Err(why) = Need::of(&setup).and_then(Need::check) {
                session.skip(format!("scale, {what}: {why}"));
                continue;
            }
            session.progress(&format!("loading {what}"));
            let (director, maps) =
                memory::maps_of(|| Loaded::new(growing, size)).with_context(|| what.clone())?;
            loaded.push(director);
            match maps.and_then(|maps| growing.memory(&maps, &setup)) {
                Ok(bytes) => memory = Some((setup, bytes)),
                Err(error) => session.skip(format!("memory, {what}: {error:#}")),
            }
        }
        measure(session, &mut loaded)?;
        if let Some((setup, bytes)) = memory {
            record_memory(session, growing, &setup, bytes);
        }
    }
    check_growth(session);
    Ok(())
}

fn named(setup: &Setup) -> String {
    let Setup { services, backends, flow_capacity, .. } = setup;
    format!("{services} services of {backends} backends, flow table for {flow_capacity} flows")
}

/// A director, and its workloads.
struct Loaded {
    setup: Setup,
    director: Subject,
    runs: Vec<Run>,
}

/// One workload of a director.
struct Run {
    workload: &'static str,
    harness: Harness,
    /// Samples of the floor and of the director, ns.
    samples: [Vec<f64>; 2],
}

impl Loaded {
    fn new(growing: Growing, size: u32) -> Result<Self> {
        let setup = growing.setup(size);
        let run = |(workload, vips)| {
            let harness = Harness::new(&setup.frame, IN_USE, vips)?;
            Ok(Run { workload, harness, samples: [Vec::new(), Vec::new()] })
        };
        let runs = growing.workloads(size).into_iter().map(run).collect::<Result<_>>()?;
        Ok(Self { setup, director: subject::director(&setup)?, runs })
    }
}

/// All sizes take turns, with the floor before each, so that noise affects all that is compared.
fn measure(session: &mut Session, loaded: &mut [Loaded]) -> Result<()> {
    let floor = subject::floor()?;
    let packets: u64 = if session.quick { 1 << 17 } else { 1 << 19 };
    // Two passes through all flows first: the second packet of a flow establishes it.
    for repeat in 0..session.repeats + 2 {
        session.progress(&format!("  round {} of {}", repeat + 1, session.repeats + 2));
        for Loaded { setup, director, runs } in loaded.iter_mut() {
            for Run { workload, harness, samples } in runs {
                for (subject, samples) in [&floor, &*director].into_iter().zip(samples) {
                    harness.put(&subject.program)?;
                    let run = harness.run_on(1, packets)?;
                    let sample = run.first().context("no sample")?;
                    let outer = if subject.name == "director" { OUTER } else { 0 };
                    if sample.action != Action::Tx || sample.length != SIZE + outer {
                        let Subject { name, .. } = subject;
                        let (action, length) = (sample.action, sample.length);
                        let what = named(setup);
                        bail!("{workload}: {what}: {name} returns {action:?} and {length} bytes");
                    }
                    if repeat >= 2 {
                        samples.push(sample.ns);
                    }
                }
            }
        }
    }
    for Loaded { setup, director, runs } in loaded {
        for run in runs {
            record(session, setup, [&floor, director], run);
        }
    }
    Ok(())
}

fn record(session: &mut Session, setup: &Setup, subjects: [&Subject; 2], run: &Run) {
    session.progress(&format!("  {}, {}", run.workload, named(setup)));
    let floor = Spread::of(&run.samples[0]).median;
    for (subject, samples) in subjects.iter().zip(&run.samples) {
        let mut result = session.blank(Part::Scale, &subject.name, "ns/packet", samples);
        describe(&mut result, setup, run.workload);
        result.mode = Mode::Tunnel.name().to_owned();
        result.family = "v4".to_owned();
        result.size = SIZE;
        let net = result.median - floor;
        result.net = Some(net);
        session.progress(&format!(
            "    {:10} {:7.1} ns/packet ({:.1} to {:.1}), net {net:7.1}",
            result.program, result.median, result.min, result.max
        ));
        session.record(result);
    }
}

fn describe(result: &mut Measurement, setup: &Setup, workload: &str) {
    result.workload = workload.to_owned();
    result.services = setup.services;
    result.backends = setup.backends;
    result.flows = setup.flow_capacity;
}

fn record_memory(session: &mut Session, growing: Growing, setup: &Setup, bytes: f64) {
    let mut result = session.blank(Part::Scale, "director", "bytes", &[bytes]);
    describe(&mut result, setup, growing.one());
    result.mode = "memory".to_owned();
    session.progress(&format!("  a {} takes {bytes:.0} bytes", growing.one()));
    session.record(result);
    if growing == Growing::Table {
        let what = format!("a flow takes at most {FLOW_AT_MOST} bytes: {bytes:.0}");
        session.check(&what, bytes <= FLOW_AT_MOST);
    }
}

/// Checks growth against its limits, if all sizes were measured.
fn check_growth(session: &mut Session) {
    if session.quick {
        return;
    }
    for (growing, workload) in [
        (Growing::Services, "services"),
        (Growing::Services, "services-spread"),
        (Growing::Backends, "backends"),
    ] {
        let nets: Vec<f64> = session
            .results()
            .iter()
            .filter(|m| m.part == Part::Scale && m.program == "director" && m.workload == workload)
            .filter_map(|m| m.net)
            .collect();
        let [first, .., last] = nets[..] else { continue };
        if nets.len() != growing.sizes(false).len() {
            continue;
        }
        let ratio = last / first;
        let what = format!(
            "{workload}: the largest number costs at most {GROWTH_AT_MOST:.2} of the smallest: {ratio:.2}"
        );
        session.check(&what, ratio <= GROWTH_AT_MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_spread_over_existing_vips() {
        for growing in Growing::ALL {
            for quick in [false, true] {
                for &size in growing.sizes(quick) {
                    let setup = growing.setup(size);
                    for (workload, vips) in growing.workloads(size) {
                        assert!(vips.is_power_of_two() && vips <= setup.services, "{workload}");
                    }
                }
            }
        }
        assert_eq!(Growing::Services.workloads(10_000)[1], ("services-spread", 8192));
    }
}
