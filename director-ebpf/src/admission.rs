//! How many new TCP flows a CPU admits to the flow table. A SYN flood beyond that is forwarded by
//! the ring alone: it neither evicts anything nor waits for the memory that the table lies in.

use director_common::flow_table::ADMITTED_A_TICK;

use crate::{maps, pipeline::Now, rate};

/// Whether this CPU admits no more new flows in this tick.
#[inline(always)]
pub fn is_exhausted(now: &Now) -> bool {
    rate::count(&maps::ADMITTED, now).is_some_and(|admitted| admitted > ADMITTED_A_TICK)
}
