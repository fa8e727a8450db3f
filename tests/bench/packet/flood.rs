//! Established flows beside a flood of new ones, at the rate that one CPU generates: which of them
//! keep their backend, and the cost of their packets meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use director_userspace::kernel::datapath::Standalone;

use super::{
    Options,
    frame::Frame,
    harness::{self, Harness},
    subject::{self, Mode, Setup},
};
use crate::{
    measurement::{Part, Spread},
    session::Session,
};

/// Established flows; a power of two.
const ESTABLISHED: u64 = 1 << 14;
/// Capacity of the flow table.
const CAPACITY: u64 = 1 << 20;
const BACKENDS: u32 = 100;
/// Packets of the flood between two samples of the established flows.
const BURST: u64 = 1 << 18;
/// Where the flood's flows start, so that none is an established one.
const FLOOD_FROM: u64 = 1 << 32;
/// Bytes 30 to 33 of the transmitted frame: the outer header's destination.
const OUTER_DESTINATION: std::ops::Range<usize> = 30..34;

/// Floods with SYNs, whose admission is rate-limited, and with packets from the middle of flows.
///
/// # Errors
///
/// If the kernel refuses a program or a run.
pub(super) fn run(session: &mut Session, options: &Options) -> Result<()> {
    // Each CPU sends different flows, so one CPU does all of this.
    thread::scope(|scope| {
        let one_cpu = scope.spawn(|| {
            harness::pin(0)?;
            for (opens, what) in [(true, "SYNs"), (false, "ACKs")] {
                session
                    .progress(&format!("a flood of {what} beside {ESTABLISHED} established flows"));
                flood(session, options, opens, what)?;
            }
            Ok(())
        });
        one_cpu.join().unwrap_or_else(|_| bail!("the flood's thread panicked"))
    })
}

fn flood(session: &mut Session, options: &Options, opens: bool, what: &str) -> Result<()> {
    let frame = Frame {
        vip: options.vip.into(),
        port: options.port,
        protocol: options.protocol,
        opens: false,
        size: 64,
    };
    let setup = Setup {
        frame,
        mode: Mode::Tunnel,
        services: 1,
        backends: BACKENDS,
        flow_capacity: CAPACITY,
    };
    let mut director = subject::standalone(&setup)?;
    let program = director.program()?;
    let mut established = Harness::new(&frame, ESTABLISHED, 1)?;
    established.put(&program)?;
    let mut flood = Harness::new(&Frame { opens, ..frame }, 0, 1)?;
    flood.put(&program)?;
    flood.start_at(FLOOD_FROM)?;
    // Twice: the second packet establishes a flow.
    established.run(2 * ESTABLISHED)?;
    let before = backends(&mut established)?;
    change_ring(&mut director, &setup)?;

    let calm = sample(session, &established)?;
    let lasts = Duration::from_secs(if session.quick { 2 } else { 10 });
    let (started, mut sent, mut during) = (Instant::now(), 0, Vec::new());
    while started.elapsed() < lasts {
        flood.run(BURST)?;
        sent += BURST;
        during.push(established.run(ESTABLISHED)?.ns);
    }
    let after = backends(&mut established)?;
    let kept = before.iter().zip(&after).filter(|(before, after)| before == after).count();
    let moved = on_removed_backends(&setup, &before)?;
    session.check(
        &format!(
            "after {sent} {what} in {:.0} s, {kept} of {ESTABLISHED} established flows reach their \
             backend ({moved} of them one that is no longer in the ring)",
            started.elapsed().as_secs_f64()
        ),
        kept as u64 * 100 >= ESTABLISHED * 99 && moved * 4 > ESTABLISHED as usize,
    );
    for (workload, samples) in [("before-flood", &calm), ("under-flood", &during)] {
        let mut result = session.blank(Part::Packet, "director", "ns/packet", samples);
        (result.mode, result.family) = ("tunnel".to_owned(), "v4".to_owned());
        result.workload = format!("{workload}-of-{}", what.to_lowercase());
        (result.flows, result.size) = (ESTABLISHED, 64);
        (result.services, result.backends) = (1, BACKENDS);
        session.record(result);
    }
    let (calm, during) = (Spread::of(&calm).median, Spread::of(&during).median);
    session.progress(&format!(
        "  known flows cost {calm:.1} ns before, {during:.1} ns between bursts"
    ));
    Ok(())
}

fn sample(session: &Session, established: &Harness) -> Result<Vec<f64>> {
    (0..session.repeats).map(|_| Ok(established.run(ESTABLISHED)?.ns)).collect()
}

/// The backend of each established flow, found with one packet each.
fn backends(established: &mut Harness) -> Result<Vec<Vec<u8>>> {
    (0..ESTABLISHED).map(|flow| Ok(established.send(flow)?[OUTER_DESTINATION].to_vec())).collect()
}

/// Half of the backends get no new flows any more.
fn change_ring(director: &mut Standalone, setup: &Setup) -> Result<()> {
    let mut desired = subject::desired(setup)?.1;
    for backend in desired.services[0].backends.iter_mut().take(BACKENDS as usize / 2) {
        backend.weight = 0;
    }
    Ok(director.reconcile(&desired)?)
}

/// How many of the established flows are on a backend that gets no new flows.
fn on_removed_backends(setup: &Setup, before: &[Vec<u8>]) -> Result<usize> {
    let desired = subject::desired(setup)?.1;
    let left: Vec<Vec<u8>> = desired.services[0]
        .backends
        .iter()
        .take(BACKENDS as usize / 2)
        .map(|backend| match backend.address {
            std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        })
        .collect();
    Ok(before.iter().filter(|backend| left.contains(backend)).count())
}
