//! The filter that `trace` and `capture` set, and the records that the program writes. Used only
//! during a trace: see [`crate::tunables::Tunables::trace_until_ns`].

use crate::{address::Address, decision::Decision, flow::FlowKey};

/// How long a trace runs without being renewed, nanoseconds: a trace whose process was killed ends.
pub const TRACE_LEASE_NS: u64 = 2_000_000_000;
/// Maximum number of bytes that are copied of a frame, each before and after.
pub const MAX_SNAP: u32 = 2048;
/// Size of the ring buffer of records, bytes: a power of two and a multiple of the page size.
pub const RING_BYTES: u32 = 1 << 20;
/// Services that one filter can select: one name can be several, one for each protocol.
pub const FILTER_SERVICES: usize = 4;

/// Which packets are traced. All zeros selects every packet.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    /// Source address, under `client_mask`.
    pub client: Address,
    /// See `client`.
    pub client_mask: Address,
    /// Destination address, under `vip_mask`.
    pub vip: Address,
    /// See `vip`.
    pub vip_mask: Address,
    /// The backend's address; zeros: any.
    pub backend: Address,
    /// Verdicts, one bit for each [`crate::verdict::Verdict::code`]; 0: any.
    pub verdicts: u64,
    /// Service slots plus one; all 0: any.
    pub services: [u32; FILTER_SERVICES],
    /// 4 or 6: what `client` and `vip` are; 0: any.
    pub family: u32,
    /// 4 or 6: what `backend` is.
    pub backend_family: u32,
    /// IP protocol number; 0: any.
    pub protocol: u32,
    /// Source port, wire order, as [`u16::from_ne_bytes`] reads it; 0: any.
    pub client_port: u32,
    /// Destination port, likewise.
    pub vip_port: u32,
    /// Bytes of each frame to copy, at most [`MAX_SNAP`]; 0: none.
    pub snap: u32,
}

const _: () = assert!(size_of::<TraceFilter>() == 128);

/// The record of one packet. In the ring buffer it is followed by `before_copied` bytes of the
/// frame as received, then `after_copied` bytes of it as the program left it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRecord {
    /// When it was decided: CLOCK_MONOTONIC, nanoseconds.
    pub time_ns: u64,
    /// Its flow, if it has one according to `content`.
    pub flow: FlowKey,
    /// The decision about it.
    pub decision: Decision,
    /// Slot of the ingress interface.
    pub interface: u32,
    /// [`TracedContent`].
    pub content: u32,
    /// Length of the frame as received, bytes.
    pub before_length: u32,
    /// Bytes of it that follow.
    pub before_copied: u32,
    /// Length of the frame as the program left it.
    pub after_length: u32,
    /// Bytes of it that follow those.
    pub after_copied: u32,
    /// TCP control bits.
    pub tcp_flags: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<TraceRecord>() == 96);

/// What the record's flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TracedContent {
    /// No flow: the packet could not be parsed.
    Nothing = 0,
    /// The packet's own flow.
    Whole = 1,
    /// The flow that the packet, an ICMP error, quotes.
    IcmpError = 2,
    /// The flow of a fragment: without ports.
    Fragment = 3,
}

impl TracedContent {
    /// The variant with this number.
    pub const fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::Whole,
            2 => Self::IcmpError,
            3 => Self::Fragment,
            _ => Self::Nothing,
        }
    }
}

/// Per-CPU buffer in which a record is assembled.
#[repr(C)]
pub struct TraceScratch {
    /// The record.
    pub record: TraceRecord,
    /// Both copies of the frame.
    pub frames: [u8; 2 * MAX_SNAP as usize],
}

/// A CPU's sampling state during a trace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceTurn {
    /// Packets until the next sampled one.
    pub left: u64,
    /// Packets sampled.
    pub looked_at: u64,
    /// Records lost because the ring buffer was full.
    pub lost: u64,
}

impl TraceFilter {
    /// Whether the filter matches the flow.
    #[inline(always)]
    pub fn takes_flow(&self, flow: &FlowKey) -> bool {
        let (source, destination) = (flow.source, flow.destination);
        let is = |address: Address, mask: Address, wanted: Address| {
            address.first & mask.first == wanted.first
                && address.second & mask.second == wanted.second
        };
        let port = |wanted: u32, port: [u8; 2]| {
            wanted == 0 || wanted == u32::from(u16::from_ne_bytes(port))
        };
        (self.family == 0 || self.family == u32::from(flow.family))
            && (self.protocol == 0 || self.protocol == u32::from(flow.protocol))
            && is(source, self.client_mask, self.client)
            && is(destination, self.vip_mask, self.vip)
            && port(self.client_port, flow.source_port)
            && port(self.vip_port, flow.destination_port)
    }

    /// Whether the filter matches the decision.
    #[inline(always)]
    pub fn takes_decision(&self, decision: &Decision) -> bool {
        let [a, b, c, d] = self.services;
        let service = decision.service;
        let any = a | b | c | d == 0;
        (self.verdicts == 0 || self.verdicts >> (decision.verdict & 63) & 1 != 0)
            && (any
                || (service != 0 && (service == a || service == b || service == c || service == d)))
    }

    /// Whether the filter selects one backend.
    #[inline(always)]
    pub fn wants_backend(&self) -> bool {
        self.backend_family != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::BackendRef,
        verdict::{DropReason, Verdict},
    };

    fn flow() -> FlowKey {
        FlowKey {
            source: Address::v4([198, 51, 100, 7]),
            destination: Address::v4([192, 0, 2, 10]),
            source_port: 40_000u16.to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            protocol: 6,
            family: 4,
            _pad: [0; 2],
        }
    }

    fn client(third: u8) -> TraceFilter {
        TraceFilter {
            family: 4,
            client: Address::v4([198, 51, third, 0]),
            client_mask: Address::v4([255, 255, 255, 0]),
            ..TraceFilter::default()
        }
    }

    #[test]
    fn zeros_match_everything() {
        let filter = TraceFilter::default();
        assert!(filter.takes_flow(&flow()) && filter.takes_decision(&Decision::default()));
        assert!(!filter.wants_backend());
    }

    #[test]
    fn every_field_of_a_flow_can_be_filtered() {
        let port = |port: u16| u32::from(u16::from_ne_bytes(port.to_be_bytes()));
        let none = TraceFilter::default();
        let takes = |filter: TraceFilter| filter.takes_flow(&flow());
        assert!(takes(client(100)) && !takes(client(101)));
        assert!(!takes(TraceFilter { family: 6, ..none }));
        assert!(takes(TraceFilter { protocol: 6, ..none }));
        assert!(!takes(TraceFilter { protocol: 17, ..none }));
        assert!(takes(TraceFilter { vip_port: port(443), client_port: port(40_000), ..none }));
        assert!(!takes(TraceFilter { vip_port: port(444), ..none }));
        assert!(!takes(TraceFilter { client_port: port(443), ..none }));
    }

    #[test]
    fn decisions_match_by_verdict_and_service() {
        let verdict = Verdict::Drop(DropReason::NoRoute);
        let decision = Decision {
            verdict: verdict.code(),
            backend: BackendRef::NONE,
            service: 3,
            connection: 0,
        };
        let none = TraceFilter::default();
        let takes = |filter: TraceFilter| filter.takes_decision(&decision);
        assert!(takes(TraceFilter { verdicts: 1 << verdict.code(), ..none }));
        assert!(!takes(TraceFilter { verdicts: 1, ..none }));
        assert!(takes(TraceFilter { services: [1, 3, 0, 0], ..none }));
        assert!(!takes(TraceFilter { services: [1, 4, 0, 0], ..none }));
        let no_service = Decision { service: 0, ..decision };
        assert!(!TraceFilter { services: [1, 0, 0, 0], ..none }.takes_decision(&no_service));
    }
}
