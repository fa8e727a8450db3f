//! Settings that may change while the program runs, in one cache line, and the clock.

use core::time::Duration;

use crate::{
    flow::Protocol,
    flow_table::{FlowState, LastSeen, REFRESH_AFTER},
};

/// Nanoseconds in a tick, as a shift: 2^26 ns, 67 ms.
pub const TICK_SHIFT: u32 = 26;
/// Bits of a tick count that a flow entry can hold.
pub const TICKS_MASK: u32 = (1 << 30) - 1;

/// Time since boot in ticks of 2^26 ns, 30 bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(pub u32);

impl Ticks {
    /// Nanoseconds since boot, rounded down to ticks.
    #[inline(always)]
    pub const fn from_ns(ns: u64) -> Self {
        Self((ns >> TICK_SHIFT) as u32 & TICKS_MASK)
    }

    /// A duration, rounded up to ticks.
    pub const fn from_duration(duration: Duration) -> Self {
        let ticks = duration.as_nanos().div_ceil(1 << TICK_SHIFT);
        Self(if ticks > TICKS_MASK as u128 { TICKS_MASK } else { ticks as u32 })
    }
}

/// Interval at which the daemon writes its heartbeat; nanoseconds.
pub const HEARTBEAT_INTERVAL_NS: u64 = 500_000_000;
/// A heartbeat older than this is stale: next hops are not kept fresh; nanoseconds.
pub const HEARTBEAT_STALE_NS: u64 = 1_500_000_000;

/// Read for every packet; written by userspace, word by word.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunables {
    /// When the daemon, which keeps next hops fresh, last wrote its heartbeat: CLOCK_MONOTONIC,
    /// nanoseconds.
    pub heartbeat_ns: u64,
    /// The clock of a simulation, nanoseconds; read only by a program loaded for one.
    pub simulated_ns: u64,
    /// How long an established TCP flow may idle, [`Ticks`].
    pub tcp_ticks: u32,
    /// The same after a FIN or RST, and before the handshake is complete.
    pub tcp_closing_ticks: u32,
    /// How long a UDP flow may idle.
    pub udp_ticks: u32,
    /// Zero.
    pub _pad: u32,
    /// Until when packets are sampled for `trace` and `capture`: CLOCK_MONOTONIC, nanoseconds; 0:
    /// not tracing. Renewed by the tracing process, and set to 0 by the program at the first packet
    /// sampled after it.
    pub trace_until_ns: u64,
    /// Sampling rate: one packet in this many; at least 1 during a trace.
    pub trace_every: u64,
    /// Zero.
    pub _more: [u64; 2],
}

const _: () = assert!(size_of::<Tunables>() == 64);

impl Tunables {
    /// Whether a flow of this IP protocol number has timed out at `now`. The only definition: the
    /// program and all listings of flows use it.
    ///
    /// An entry's time may be [`REFRESH_AFTER`] earlier than the flow's last packet, and a flow never
    /// ends before its timeout: it ends up to two thirds of a second after it.
    #[inline(always)]
    pub const fn has_timed_out(&self, protocol: u8, last_seen: LastSeen, now: Ticks) -> bool {
        let timeout = self.timeout(protocol, last_seen.state());
        last_seen.age(now).0 > timeout.0.saturating_add(REFRESH_AFTER.0)
    }

    /// How long a flow of this IP protocol number may idle in this state.
    #[inline(always)]
    pub const fn timeout(&self, protocol: u8, state: FlowState) -> Ticks {
        Ticks(match (Protocol::from_number(protocol), state) {
            (Some(Protocol::Tcp), FlowState::Established) => self.tcp_ticks,
            (Some(Protocol::Tcp), FlowState::New | FlowState::Closing) => self.tcp_closing_ticks,
            // Flows of other protocols are never recorded.
            (Some(Protocol::Udp) | None, _) => self.udp_ticks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_round_so_that_no_flow_ends_early() {
        assert_eq!(Ticks::from_ns((1 << 26) - 1), Ticks(0));
        let secs = |secs| Ticks::from_duration(Duration::from_secs(secs));
        assert_eq!(secs(1), Ticks(15));
        assert_eq!(secs(7500), Ticks(111_759));
        assert_eq!(Ticks::from_duration(Duration::from_millis(1500)), Ticks(23));
        assert_eq!(Ticks::from_duration(Duration::from_nanos(1)), Ticks(1));
        assert_eq!(Ticks::from_duration(Duration::MAX), Ticks(TICKS_MASK));
    }
}
