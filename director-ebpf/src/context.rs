//! What a packet's stages know beside the packet: the time, read once, and the tunables.

use aya_ebpf::helpers::bpf_jiffies64;
use director_common::tunables::{Ticks, Tunables};

use crate::constants;

/// The one clock reading of a packet, and the tunables.
pub struct PacketContext {
    /// CLOCK_MONOTONIC at the last timer tick, nanoseconds.
    pub now_ns: u64,
    /// The same in the flow table's unit.
    pub now: Ticks,
    /// One cache line that packets only read.
    pub tunables: &'static Tunables,
}

impl PacketContext {
    /// Reads the clock.
    #[inline(always)]
    pub fn read(tunables: &'static Tunables) -> Self {
        let now_ns =
            if !constants::mode().has_interfaces() { tunables.simulated_ns } else { clock() };
        Self { now_ns, now: Ticks::from_ns(now_ns), tunables }
    }
}

/// CLOCK_MONOTONIC at the last timer tick, nanoseconds.
#[inline(always)]
pub fn clock() -> u64 {
    // The JIT compiles this helper to a load. A clock helper is a call, and where the CPU's bugs are
    // worked around each return costs as much as a cache miss. The count keeps pace with
    // CLOCK_MONOTONIC, a few milliseconds behind; flows idle for seconds.
    // SAFETY: a helper without arguments.
    let jiffies = unsafe { bpf_jiffies64() };
    jiffies.wrapping_sub(constants::first_jiffy()).wrapping_mul(constants::jiffy_ns())
}
