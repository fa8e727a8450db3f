//! Counters, one copy per CPU, added up by whoever reads them.

/// What was forwarded to one backend of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendStats {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of L3 packet as they came from the client.
    pub bytes: u64,
    /// Flows that were scheduled to this backend.
    pub flows: u64,
    /// Zero: rounds the value to half a cache line.
    pub _pad: u64,
}

/// What only the service as a whole can count; packets and bytes are its backends' sums.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Packets of this service that were dropped, or answered in place of a backend.
    pub dropped: u64,
    /// Flows that went by the ring alone, their set of the flow table being full of others.
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
