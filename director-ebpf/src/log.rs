//! The slow path's log: with the feature `verbose` only, and in no release. Writes AYA_LOGS.
//!
//! A line has numbers; userspace makes words of them (`kernel/datapath/verbose.rs`).

use aya_log_ebpf::info;
use director_common::{decision::Decision, verdict::Verdict};

use crate::{frame::Frame, parse::Packet, pipeline};

/// The pipeline, as traced packets pass it: so the decision has service and backend. Then logs it.
#[inline(always)]
pub fn run(frame: &mut Frame, decision: &mut Decision) -> Verdict {
    let mut packet = Packet::unread();
    let verdict = pipeline::run::<true>(frame, &mut packet, decision);
    decided(&packet, verdict.code(), decision);
    verdict
}

/// Not inlined, so that its variables are not on the pipeline's stack.
#[inline(never)]
fn decided(packet: &Packet, verdict: u32, decision: &Decision) -> u32 {
    let flow = &packet.flow;
    let ports = [flow.source_port, flow.destination_port].map(u16::from_be_bytes);
    if packet.is_v6() {
        info!(
            packet,
            "verdict {} service {} backend {} protocol {} {:i} {} {:i} {}",
            verdict,
            decision.service,
            decision.backend.slot(),
            flow.protocol,
            flow.source.bytes(),
            ports[0],
            flow.destination.bytes(),
            ports[1]
        );
    } else {
        info!(
            packet,
            "verdict {} service {} backend {} protocol {} {:i} {} {:i} {}",
            verdict,
            decision.service,
            decision.backend.slot(),
            flow.protocol,
            flow.source.v4_bytes(),
            ports[0],
            flow.destination.v4_bytes(),
            ports[1]
        );
    }
    1
}
