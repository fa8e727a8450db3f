//! The pipeline's stages for nearly every packet: a plain one, of an established or a new flow,
//! whose backend's way is known, or one for nobody.
//!
//! `None` says that nothing has happened, and the packet goes the long way, `pipeline::run`: odd
//! packets, flows that open or close, replies, ways that the kernel must be asked for. The two never disagree, for
//! they are the same functions (and `tests/tests/properties.rs` sends a million frames through
//! both). Worth its lines because nothing here has to be kept in memory for a function that is not
//! inlined, and each family has a straight line of its own.

use director_common::{
    decision::Connection,
    decision::Decision,
    flow::Family,
    runtime::Runtime,
    verdict::{PassReason, Verdict},
};

use crate::{
    admission, constants, count, filter,
    flow_table::{self, Glance},
    forward,
    frame::Frame,
    next_hop,
    parse::{Packet, plain},
    pipeline::{self, Now},
    schedule, service, transmit,
};

/// Decides and rewrites the packet, if it is one of those.
#[inline(always)]
pub fn run(
    frame: &mut Frame,
    runtime: &'static Runtime,
    decision: &mut Decision,
) -> Option<Verdict> {
    match plain::family(frame)? {
        Family::V4 => {
            let packet = plain::v4(frame)?;
            stages(frame, &packet, runtime, decision)
        }
        Family::V6 => {
            let packet = plain::v6(frame)?;
            stages(frame, &packet, runtime, decision)
        }
    }
}

#[inline(always)]
fn stages(
    frame: &mut Frame,
    packet: &Packet,
    runtime: &'static Runtime,
    decision: &mut Decision,
) -> Option<Verdict> {
    if !filter::may_be_vip(packet.flow.destination, packet.is_v6()) {
        return Some(Verdict::Pass(PassReason::NoService));
    }
    let now = Now::read(runtime);
    let hash = packet.flow.hash(&constants::FleetKey);
    let flood = flow_table::opens(packet) && admission::is_exhausted(&now);
    // In a flood, flows are neither looked up nor recorded.
    let glance = if flood { Glance::Unknown } else { flow_table::glance(hash, packet, &now) };
    let (assigned, connection) = match glance {
        Glance::Established(assigned) => (assigned, Connection::Known),
        Glance::Unknown => (schedule::pick(&service::find(&packet.flow)?, hash)?, Connection::New),
        Glance::Other => return None,
    };
    let hop = next_hop::cached(packet, &assigned, &now)?;
    if next_hop::too_big(packet, &hop, forward::overhead(&assigned)) {
        return None;
    }
    forward::rewrite(frame, packet, &assigned, &hop, hash).ok()?;
    let verdict = transmit::send(&hop).ok()?;
    if let Connection::New = connection {
        if flood {
            count::unrecorded(assigned.word.service());
        } else {
            flow_table::record(hash, packet, &assigned, &now);
        }
    }
    pipeline::note::<false>(decision, &assigned, connection);
    count::forwarded(packet, &assigned, connection == Connection::New);
    Some(verdict)
}
