//! How many new TCP flows a CPU admits to the flow table. A SYN flood beyond that is forwarded by
//! the ring alone: it neither evicts anything nor waits for the memory that the table lies in.

use director_common::flow_table::ADMITTED_A_TICK;

use crate::{maps, pipeline::Now};

/// Whether this CPU admits no more new flows in this tick.
#[inline(always)]
pub fn is_exhausted(now: &Now) -> bool {
    let Some(admitted) = maps::ADMITTED.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
    let admitted = unsafe { &mut *admitted };
    if admitted.tick != now.ticks.0 {
        admitted.tick = now.ticks.0;
        admitted.count = 0;
    }
    admitted.count += 1;
    admitted.count > ADMITTED_A_TICK
}
