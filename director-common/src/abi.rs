//! The pinned objects: what userspace and a program of an older or newer version must agree on.

use crate::flow::HashKey;

/// Raised whenever a pinned map's type, key, value or meaning changes. Maps of other versions are
/// refused, never read as if they were of this version, except those from [`OLDEST_ADOPTED`] on.
///
/// - 3: a backend may be [`Down`](crate::backend::BackendState::Down), which version 2 reads as a
///   free slot. Maps of version 2 are maps of version 3 without such backends.
/// - 4: some maps are renamed, see [`map::FORMER`]. Their contents are those of version 3.
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
    /// 1 for `simulate`: frames to any MAC are accepted, the clock is
    /// [`crate::tunables::Tunables`]'s, and decisions are recorded.
    pub const SIMULATE: &str = "SIMULATE";
    /// 1 for `explain`: decisions are recorded, and nothing else is written.
    pub const EXPLAIN: &str = "EXPLAIN";
    /// 1: the client of each flow is recorded beside the flow.
    pub const TRACK_CLIENTS: &str = "TRACK_CLIENTS";
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
