//! Counters, one copy per CPU, which readers add up.

/// What was forwarded to one backend of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendStats {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of L3 packet as received from the client.
    pub bytes: u64,
    /// Flows that were scheduled to this backend and recorded.
    pub flows: u64,
    /// Zero: rounds the value to half a cache line.
    pub _pad: u64,
}

/// Counters of a service as a whole; its packets and bytes are the sums of its backends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Packets of this service that were dropped, or answered with an ICMP error.
    pub dropped: u64,
    /// Packets of untracked flows, forwarded by the ring alone: their set of the flow table was full,
    /// or this CPU had reached the limit on new flows.
    pub untracked: u64,
}

impl BackendStats {
    /// Adds another copy.
    pub const fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.flows += other.flows;
    }
}
