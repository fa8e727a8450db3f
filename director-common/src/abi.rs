//! The pinned objects: what userspace and a program of an older or newer version must agree on.

use crate::{flow::HashKey, numbered::numbered};

/// Raised whenever a pinned map's type, key, value or meaning changes. Maps of other versions are
/// refused, never read as if they were of this version, except those from [`OLDEST_ADOPTED`] on.
///
/// - 3: a backend may be [`Down`](crate::backend::BackendState::Down), which version 2 reads as a
///   free slot. Maps of version 2 are maps of version 3 without such backends.
/// - 4: some maps are renamed, see [`map::FORMER`], and [`BackendMeta`](crate::backend::BackendMeta)
///   has a check, which is 0 in maps of former versions. Their contents are those of version 3
///   otherwise.
pub const ABI_VERSION: u32 = 4;
/// Maps from this version on are adopted: only their version number and names change.
pub const OLDEST_ADOPTED: u32 = 2;

/// Names of the maps, in the object and as pins.
pub mod map {
    /// [`crate::flow_table::FlowSet`] by set. Written by the data plane.
    pub const FLOWS: &str = "FLOWS";
    /// [`crate::backend::Backend`] by slot.
    pub const BACKENDS: &str = "BACKENDS";
    /// Service slot (`u32`) by [`crate::service::ServiceKey`].
    pub const SERVICE_KEYS: &str = "SERVICE_KEYS";
    /// [`crate::service::Service`] by slot.
    pub const SERVICES: &str = "SERVICES";
    /// Words of the VIP filter, see [`crate::service::vip_bit`].
    pub const VIP_FILTER: &str = "VIP_FILTER";
    /// [`crate::service::ServiceMeta`] by service slot. Not read by the data plane.
    pub const SERVICE_META: &str = "SERVICE_META";
    /// [`crate::backend::BackendMeta`] by backend slot. Not read by the data plane.
    pub const BACKEND_META: &str = "BACKEND_META";
    /// [`crate::service::RingChunk`] by chunk.
    pub const RINGS: &str = "RINGS";
    /// [`crate::interface::Interface`] by slot.
    pub const INTERFACES: &str = "INTERFACES";
    /// Interfaces that packets may be redirected to, by index.
    pub const TX_PORTS: &str = "TX_PORTS";
    /// The programs of the slow path, by interface slot.
    pub const SLOW_PATH: &str = "SLOW_PATH";
    /// One [`crate::tunables::Tunables`].
    pub const TUNABLES: &str = "TUNABLES";
    /// Packets by [`crate::verdict::Verdict::code`], per CPU.
    pub const VERDICTS: &str = "VERDICTS";
    /// [`crate::stats::BackendStats`] by backend slot, per CPU.
    pub const BACKEND_STATS: &str = "BACKEND_STATS";
    /// [`crate::stats::ServiceStats`] by service slot, per CPU.
    pub const SERVICE_STATS: &str = "SERVICE_STATS";
    /// One [`super::Meta`]. Not read by the data plane.
    pub const META: &str = "META";
    /// [`crate::client::ClientSet`] by set of [`FLOWS`], or one value if clients are not tracked.
    /// Written by the data plane.
    pub const FLOW_KEYS: &str = "FLOW_KEYS";
    /// The programs that process traced packets, by interface slot.
    pub const TRACED: &str = "TRACED";
    /// One [`crate::trace::TraceFilter`].
    pub const TRACE_FILTER: &str = "TRACE_FILTER";
    /// One [`crate::trace::TraceTurn`], per CPU. Written by the data plane.
    pub const TRACE_TURNS: &str = "TRACE_TURNS";
    /// One [`crate::trace::TraceScratch`], per CPU. Written by the data plane.
    pub const TRACE_SCRATCH: &str = "TRACE_SCRATCH";
    /// A ring buffer of [`crate::trace::TraceRecord`]s. Written by the data plane.
    pub const TRACE_RING: &str = "TRACE_RING";
    /// One [`crate::decision::Decision`]; written only by a program loaded for `simulate` or
    /// `explain`.
    pub const DECISION: &str = "DECISION";

    /// Map names up to version 3, and the present ones. Adoption by a later director renames the
    /// pins.
    pub const FORMER: [(&str, &str); 5] = [
        ("RUNTIME", TUNABLES),
        ("CLIENTS", FLOW_KEYS),
        ("LONG_WAY", SLOW_PATH),
        ("SERVICE_NOTES", SERVICE_META),
        ("BACKEND_NOTES", BACKEND_META),
    ];

    /// Every pinned map, in the order of creation. Maps that older directors of the same version
    /// lack are created when programs are attached.
    pub const PINNED: [&str; 22] = [
        META,
        FLOWS,
        BACKENDS,
        SERVICE_KEYS,
        SERVICES,
        VIP_FILTER,
        SERVICE_META,
        BACKEND_META,
        RINGS,
        INTERFACES,
        TX_PORTS,
        SLOW_PATH,
        TUNABLES,
        VERDICTS,
        BACKEND_STATS,
        SERVICE_STATS,
        FLOW_KEYS,
        TRACED,
        TRACE_FILTER,
        TRACE_TURNS,
        TRACE_SCRATCH,
        TRACE_RING,
    ];
}

/// Names of the load-time constants (the program's frozen read-only data).
pub mod constant {
    /// [`crate::flow::HashKey`].
    pub const HASH_KEY: &str = "HASH_KEY";
    /// Odd secret 64-bit number, generated at the first load and kept in [`super::Meta`].
    pub const TABLE_SALT: &str = "TABLE_SALT";
    /// Binary logarithm of the number of sets in the flow table.
    pub const TABLE_BITS: &str = "TABLE_BITS";
    /// Slot of the interface that this copy of the program is attached to.
    pub const INTERFACE_SLOT: &str = "INTERFACE_SLOT";
    /// The MAC of that interface ([`crate::wire::ethernet::mac_to_u64`]), which saves most packets
    /// the lookup in [`super::map::INTERFACES`].
    pub const OWN_MAC: &str = "OWN_MAC";
    /// Nanoseconds between two ticks of the kernel's timer: `TICK_NSEC`.
    pub const JIFFY_NS: &str = "JIFFY_NS";
    /// The value of jiffies at boot: `INITIAL_JIFFIES`.
    pub const FIRST_JIFFY: &str = "FIRST_JIFFY";
    /// [`super::ProgramMode`] as a `u32`.
    pub const PROGRAM_MODE: &str = "PROGRAM_MODE";
    /// 1: the client of each flow is recorded beside the flow.
    pub const TRACK_CLIENTS: &str = "TRACK_CLIENTS";
}

numbered! {
    /// What a copy of the program is loaded for.
    ProgramMode {
        /// Packets of an interface.
        Forward = 0, "forward";
        /// Frames of a capture: frames to any MAC are accepted, the clock is
        /// [`crate::tunables::Tunables::simulated_ns`], nothing leaves, and decisions are recorded.
        Simulate = 1, "simulate";
        /// One frame: the decision about it is recorded, and nothing else is written.
        Explain = 2, "explain";
    }
}

/// What a mode switches on and off: the compiler asks each of these of a new mode.
impl ProgramMode {
    /// Whether flows and counters are written.
    #[inline(always)]
    pub const fn writes(self) -> bool {
        match self {
            Self::Forward | Self::Simulate => true,
            Self::Explain => false,
        }
    }

    /// Whether decisions are recorded in [`map::DECISION`].
    #[inline(always)]
    pub const fn records(self) -> bool {
        match self {
            Self::Forward => false,
            Self::Simulate | Self::Explain => true,
        }
    }

    /// Whether frames come from an interface of this host and leave by one.
    #[inline(always)]
    pub const fn has_interfaces(self) -> bool {
        match self {
            Self::Forward | Self::Explain => true,
            Self::Simulate => false,
        }
    }
}

/// What a later process needs to adopt the pinned maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// [`ABI_VERSION`] of the director that created the maps; 0: not created yet. The first field
    /// in every version.
    pub abi_version: u32,
    /// Binary logarithm of the number of sets in the flow table.
    pub table_bits: u32,
    /// See [`constant::TABLE_SALT`].
    pub table_salt: u64,
    /// The key of the flow hash, which indexes rings.
    pub hash_key: HashKey,
}

const _: () = assert!(size_of::<Meta>() == 96);

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;
    use crate::{
        backend::{Backend, BackendMeta},
        client::{Client, ClientSet},
        flow_table::{FlowEntry, FlowSet},
        interface::Interface,
        service::{RingChunk, Service, ServiceKey, ServiceMeta},
        stats::{BackendStats, ServiceStats},
        trace::{TraceFilter, TraceTurn},
        tunables::Tunables,
    };

    macro_rules! offsets {
        ($($of:ident { $($field:ident: $at:literal),+ } $size:literal;)+) => {$(
            $(assert_eq!(offset_of!($of, $field), $at, stringify!($of.$field));)+
            assert_eq!(size_of::<$of>(), $size, stringify!($of));
        )+};
    }

    /// What one version publishes, another reads at the same place: a change here is another
    /// [`ABI_VERSION`].
    #[test]
    fn published_fields_stay_where_they_are() {
        assert_eq!(ABI_VERSION, 4, "the offsets below are this version's");
        offsets! {
            Meta { abi_version: 0, table_bits: 4, table_salt: 8, hash_key: 16 } 96;
            Tunables {
                heartbeat_ns: 0, simulated_ns: 8, tcp_ticks: 16, tcp_closing_ticks: 20,
                udp_ticks: 24, trace_until_ns: 32, trace_every: 40
            } 64;
            Service { word: 0, key: 8, drain_timeout_s: 32, ring_fingerprint: 40 } 64;
            ServiceKey { address: 0, port: 16, protocol: 18, family: 19 } 24;
            ServiceMeta { name: 0, retired: 64, scheduler: 96 } 128;
            ServiceStats { dropped: 0, untracked: 8 } 16;
            Backend { word: 0, next_hop: 8, address: 16, sources: 32 } 64;
            BackendMeta { drain_deadline_ns: 0, weight: 8, check: 12 } 16;
            BackendStats { packets: 0, bytes: 8, flows: 16 } 32;
            RingChunk { slots: 0 } 64;
            Interface { macs: 0, ifindex: 56 } 64;
            FlowEntry { tag: 0, word: 8 } 16;
            FlowSet { entries: 0 } 64;
            Client { address: 0, port: 16, vip_port: 18, protocol: 20, family: 21 } 24;
            ClientSet { clients: 0 } 96;
            TraceFilter {
                client: 0, client_mask: 16, vip: 32, vip_mask: 48, backend: 64, verdicts: 80,
                services: 88, family: 104, backend_family: 108, protocol: 112, client_port: 116,
                vip_port: 120, snap: 124
            } 128;
            TraceTurn { left: 0, looked_at: 8, lost: 16 } 24;
        }
    }

    #[test]
    fn former_names_are_of_maps_that_are_pinned() {
        for (former, now) in map::FORMER {
            assert!(map::PINNED.contains(&now) && !map::PINNED.contains(&former), "{former}");
        }
    }
}
