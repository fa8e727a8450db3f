//! Stage 2: is a new TCP flow admitted to the flow table? Previous: `filter`; next: `flow_table`.
//! Reads and writes ADMITTED.
//!
//! A SYN flood beyond the limit is forwarded by the ring alone: it evicts nothing, and does not wait
//! for the memory of the flow table.

use director_common::flow_table::MAX_ADMITTED_PER_TICK;

use crate::{constants, context::PacketContext, flow_table, maps, parse::Packet};

/// What the limit says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may be looked up, and recorded as a new flow.
    Admitted,
    /// This CPU admits no more new flows in this tick: the packet is neither looked up nor recorded.
    Exhausted,
}

/// Counters of [`admit`]: one for each path, since a packet that the fast path leaves to the slow path
/// is counted by both.
pub const FAST_PATH: u32 = 0;
/// The slow path's.
pub const SLOW_PATH: u32 = 1;

/// Applies the limit to a packet that opens a connection, and counts it.
#[inline(always)]
pub fn admit(packet: &Packet, context: &PacketContext, counter: u32) -> Admission {
    if flow_table::is_initial_syn(packet) && is_exhausted(context, counter) {
        Admission::Exhausted
    } else {
        Admission::Admitted
    }
}

#[inline(always)]
fn is_exhausted(context: &PacketContext, counter: u32) -> bool {
    if !constants::mode().writes() {
        return false;
    }
    let Some(admitted) = maps::ADMITTED.get_ptr_mut(counter) else { return false };
    // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
    let admitted = unsafe { &mut *admitted }.at(context.now);
    *admitted += 1;
    *admitted > MAX_ADMITTED_PER_TICK
}
