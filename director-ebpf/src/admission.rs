//! Stage 2: is a new TCP flow admitted to the flow table? Previous: `parse`; next: `flow_table`.
//! Reads and writes ADMITTED.
//!
//! A SYN flood beyond the limit is forwarded by the ring alone: it evicts nothing, and does not wait
//! for the memory of the flow table.

use director_common::flow_table::MAX_ADMITTED_PER_TICK;

use crate::{constants, context::PacketContext, flow_table, maps, parse::Packet};

/// What the limit says of a packet.
pub enum Admission {
    /// It opens no connection: the limit is not asked.
    Exempt,
    /// It may be recorded as a new flow, which this count is to be told.
    Admitted(&'static mut u32),
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
    let Some(admitted) = maps::ADMITTED.get_ptr_mut(0) else { return Admission::Exempt };
    // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
    let count = unsafe { &mut *admitted }.at(context.now);
    if *count >= MAX_ADMITTED_PER_TICK { Admission::Exhausted } else { Admission::Admitted(count) }
}

impl Admission {
    /// The flow was recorded.
    #[inline(always)]
    pub fn count(self) {
        if let Self::Admitted(count) = self {
            *count += 1;
        }
    }
}
