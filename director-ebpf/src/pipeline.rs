//! The packet's path, in order. One stage, one file; this is the table of contents.
//!
//! ```text
//! parse -> flow table -> (miss) service -> schedule -> record -> next hop -> forward -> transmit
//!              | hit ------------------------------------------------^
//! ```

use aya_ebpf::helpers::bpf_jiffies64;
use director_common::{
    decision::{Connection, Decision},
    flow::FlowHash,
    runtime::{Runtime, Ticks},
    verdict::{DropReason, PassReason, Verdict},
};

use crate::{
    constants, count, flow_table,
    flow_table::Found,
    forward,
    frame::Frame,
    maps, next_hop,
    parse::{self, Content, Packet},
    reply,
    schedule::{self, Assigned},
    service, transmit,
};

/// Decides and rewrites one packet, which has not been read yet. Until `forward` nothing in the frame
/// has changed. `TRACED`: the decision is wanted.
#[inline(always)]
pub fn run<const TRACED: bool>(
    frame: &mut Frame,
    packet: &mut Packet,
    decision: &mut Decision,
) -> Verdict {
    if let Err(reason) = parse::parse(frame, packet) {
        return Verdict::Pass(reason);
    }
    let mut fitting = 0;
    let verdict = match stages::<TRACED>(frame, packet, &mut fitting, decision) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    // Here, once, so that the verifier meets the answer's many branches at one place.
    match verdict {
        Verdict::Reply(reason) if !reply::send(frame, packet, reason, fitting) => {
            Verdict::Drop(DropReason::NoHeadroom)
        }
        verdict => verdict,
    }
}

/// Everything a packet needs to know of the world: the one clock reading, and the knobs.
pub struct Now {
    /// CLOCK_MONOTONIC at the last timer tick, nanoseconds.
    pub ns: u64,
    /// The same in the flow table's unit.
    pub ticks: Ticks,
    /// The knobs; one cache line that packets only read.
    pub runtime: &'static Runtime,
}

#[inline(always)]
fn stages<const TRACED: bool>(
    frame: &mut Frame,
    packet: &Packet,
    fitting: &mut u16,
    decision: &mut Decision,
) -> Result<Verdict, Verdict> {
    if let Content::Fragment = packet.content {
        return Err(service::fragment(packet));
    }

    let runtime = maps::runtime().ok_or(Verdict::Pass(PassReason::NoService))?;
    let now = Now::read(runtime);
    let hash = packet.flow.hash(&constants::FleetKey);
    let assigned = match flow_table::find(hash, packet, &now) {
        Some(found) => known::<TRACED>(&found, packet, &now, decision),
        None => new::<TRACED>(hash, packet, &now, decision)?,
    };

    let hop = next_hop::find(frame, packet, &assigned, &now)
        .map_err(|reason| service::dropped(assigned.word.service(), reason))?;
    let overhead = forward::overhead(&assigned);
    if next_hop::too_big(packet, &hop, overhead) {
        // The client is told what fits, also without don't-fragment: XDP cannot fragment.
        *fitting = hop.mtu - overhead;
        return Err(service::too_big(assigned.word.service(), packet, &now));
    }
    forward::rewrite(frame, packet, &assigned, &hop, hash)
        .and_then(|()| transmit::send(&hop))
        .map_err(|reason| service::dropped(assigned.word.service(), reason))
        .inspect(|_| count::forwarded(packet, &assigned, false))
}

impl Now {
    /// What there is to know.
    #[inline(always)]
    pub fn read(runtime: &'static Runtime) -> Self {
        let ns = if constants::simulate() { runtime.simulated_ns } else { clock() };
        Self { ns, ticks: Ticks::from_ns(ns), runtime }
    }
}

/// CLOCK_MONOTONIC at the last timer tick, nanoseconds.
#[inline(always)]
pub fn clock() -> u64 {
    // The timer's count is a load, as the JIT compiles it; a clock is a call, and with the CPU's bugs
    // worked around each return from one costs as much as a cache miss. The count keeps pace with
    // CLOCK_MONOTONIC, a few milliseconds behind; flows idle for seconds.
    // SAFETY: a helper without arguments.
    let jiffies = unsafe { bpf_jiffies64() };
    jiffies.wrapping_sub(constants::first_jiffy()).wrapping_mul(constants::jiffy_ns())
}

/// A packet of a known flow: it goes where the flow goes.
#[inline(always)]
fn known<const TRACED: bool>(
    found: &Found,
    packet: &Packet,
    now: &Now,
    decision: &mut Decision,
) -> Assigned {
    flow_table::touch(found, packet, now);
    note::<TRACED>(decision, &found.assigned, Connection::Known);
    found.assigned
}

/// A packet of a flow that nobody knows: it is for a service, which picks a backend, or not ours.
#[inline(always)]
fn new<const TRACED: bool>(
    hash: FlowHash,
    packet: &Packet,
    now: &Now,
    decision: &mut Decision,
) -> Result<Assigned, Verdict> {
    let matched = service::find(&packet.flow).ok_or(Verdict::Pass(PassReason::NoService))?;
    if TRACED || constants::records() {
        decision.service = u32::from(matched.slot) + 1;
    }
    let Some(assigned) = schedule::pick(&matched, hash) else {
        return Err(service::empty(packet, &matched, now));
    };
    // An ICMP error follows a flow and never makes one.
    if let Content::Whole = packet.content {
        flow_table::record(hash, packet, &assigned, now);
        count::scheduled(&assigned);
        note::<TRACED>(decision, &assigned, Connection::New);
    } else {
        note::<TRACED>(decision, &assigned, Connection::None);
    }
    Ok(assigned)
}

/// Says where the packet went, if that is wanted.
#[inline(always)]
pub fn note<const TRACED: bool>(
    decision: &mut Decision,
    assigned: &Assigned,
    connection: Connection,
) {
    if TRACED || constants::records() {
        decision.backend = assigned.reference;
        decision.service = u32::from(assigned.word.service()) + 1;
        decision.connection = connection as u32;
    }
}
