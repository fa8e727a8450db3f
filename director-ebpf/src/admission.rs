//! Stage 2: is a new TCP flow admitted to the flow table? Previous: `parse`; next: `flow_table`.
//! Reads and writes ADMITTED.
//!
//! A SYN flood beyond the limit is forwarded by the ring alone: it evicts nothing, and does not wait
//! for the memory of the flow table.

use director_common::flow_table::MAX_ADMITTED_PER_TICK;

use crate::{constants, context::PacketContext, flow_table, maps, parse::Packet};

/// What the limit says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It opens no connection: the limit does not apply.
    Exempt,
    /// It may be recorded as a new flow, which [`count`] then counts.
    Admitted,
    /// This CPU admits no more new flows in this tick: the packet is neither looked up nor recorded.
    Exhausted,
}

/// Applies the limit to a packet. Nothing is counted before the flow is recorded, so that a packet
/// which the fast path leaves to the slow path counts once.
#[inline(always)]
pub fn admit(packet: &Packet, context: &PacketContext) -> Admission {
    if !flow_table::is_initial_syn(packet) || constants::explain() {
        return Admission::Exempt;
    }
    match admitted(context) {
        Some(admitted) if *admitted >= MAX_ADMITTED_PER_TICK => Admission::Exhausted,
        Some(_) | None => Admission::Admitted,
    }
}

/// Counts a flow that was admitted and recorded.
#[inline(always)]
pub fn count(context: &PacketContext) {
    if let Some(admitted) = admitted(context) {
        *admitted += 1;
    }
}

/// The flows that this CPU admitted in this tick.
#[inline(always)]
fn admitted(context: &PacketContext) -> Option<&'static mut u32> {
    // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
    maps::ADMITTED.get_ptr_mut(0).map(|counted| unsafe { &mut *counted }.at(context.now))
}
