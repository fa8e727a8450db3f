//! The pipeline's stages for nearly every packet: a plain one, of an established flow, whose
//! backend's way is known; one for nobody; and, of a flood, one that opens a flow.
//!
//! `None` says that nothing has happened, and the packet goes the long way, `pipeline::run`: odd
//! packets, new flows, replies, ways that the kernel must be asked for. The two never disagree, for
//! they are the same functions (and `tests/tests/properties.rs` sends a million frames through
//! both). Worth its lines because nothing here has to be kept in memory for a function that is not
//! inlined, and each family has a straight line of its own.

use director_common::{
    decision::Connection,
    decision::Decision,
    flow::Family,
    verdict::{PassReason, Verdict},
};

use crate::{
    admission, constants, count, filter, flow_table, forward,
    frame::Frame,
    next_hop,
    parse::{Packet, plain},
    pipeline::{self, Now},
    schedule::{self, Assigned},
    service, transmit,
};

/// Decides and rewrites the packet, if it is one of those.
#[inline(always)]
pub fn run(frame: &mut Frame, decision: &mut Decision) -> Option<Verdict> {
    match plain::family(frame)? {
        Family::V4 => {
            let packet = plain::v4(frame)?;
            stages(frame, &packet, decision)
        }
        Family::V6 => {
            let packet = plain::v6(frame)?;
            stages(frame, &packet, decision)
        }
    }
}

#[inline(always)]
fn stages(frame: &mut Frame, packet: &Packet, decision: &mut Decision) -> Option<Verdict> {
    if !filter::may_be_vip(packet.flow.destination, packet.is_v6()) {
        return Some(Verdict::Pass(PassReason::NoService));
    }
    let now = pipeline::now()?;
    let hash = packet.flow.hash(&constants::FleetKey);
    let (assigned, connection) = if flow_table::opens(packet) {
        (by_ring_alone(packet, hash, &now)?, Connection::New)
    } else {
        (flow_table::find_established(hash, packet, &now)?, Connection::Known)
    };
    let hop = next_hop::cached(packet, &assigned, &now)?;
    if next_hop::too_big(packet, &hop, forward::overhead(&assigned)) {
        return None;
    }
    forward::rewrite(frame, packet, &assigned, &hop, hash).ok()?;
    let verdict = transmit::send(&hop).ok()?;
    if let Connection::New = connection {
        count::scheduled(&assigned);
        count::unrecorded(assigned.word.service());
    }
    pipeline::note(decision, &assigned, connection);
    count::forwarded(packet, &assigned);
    Some(verdict)
}

/// The backend of a new TCP flow while more are opened than the flow table admits: neither looked up
/// nor recorded, it costs no more than a known one, and its next packet finds the same backend as
/// long as the ring stays. `None` if this one is admitted.
#[inline(always)]
fn by_ring_alone(
    packet: &Packet,
    hash: director_common::flow::FlowHash,
    now: &Now,
) -> Option<Assigned> {
    if !admission::is_exhausted(now) {
        return None;
    }
    schedule::pick(&service::find(&packet.flow)?, hash)
}
