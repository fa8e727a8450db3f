//! What a CPU may do so and so often in a tick of the flow table's clock (67 ms).

use aya_ebpf::maps::PerCpuArray;

use crate::{constants, pipeline::Now};

/// How often something happened on this CPU in the tick `tick`.
#[repr(C)]
pub struct TickCount {
    /// [`director_common::runtime::Ticks`].
    pub tick: u32,
    /// Times in it.
    pub count: u32,
}

/// Counts one more time on this CPU: how many there were in this tick. Who asks what would be is
/// told of the first.
#[inline(always)]
pub fn count(counts: &PerCpuArray<TickCount>, now: &Now) -> Option<u32> {
    if constants::explain() {
        return Some(1);
    }
    // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
    let counted = unsafe { &mut *counts.get_ptr_mut(0)? };
    if counted.tick != now.ticks.0 {
        counted.tick = now.ticks.0;
        counted.count = 0;
    }
    counted.count += 1;
    Some(counted.count)
}
