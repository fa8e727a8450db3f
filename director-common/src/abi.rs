//! What userspace and a program that may be older or newer must agree on: everything pinned.

use crate::flow::HashKey;

/// Raised whenever a pinned map's type, key, value or meaning changes. Maps of another version are
/// refused, never read as if they were this one's; but for those from [`OLDEST_ADOPTED`] on.
///
/// - 3: a backend may be [`Down`](crate::backend::BackendState::Down), which version 2 takes for a
///   free slot. Maps of version 2 are maps of version 3 without such backends.
pub const ABI_VERSION: u32 = 3;
/// Maps from this version on are adopted: they need nothing but the new number.
pub const OLDEST_ADOPTED: u32 = 2;

/// Names of the maps, in the object and as pins.
pub mod map {
    /// [`crate::flow_table::FlowSet`] by set. Written by packets.
    pub const FLOWS: &str = "FLOWS";
    /// [`crate::backend::Backend`] by slot.
    pub const BACKENDS: &str = "BACKENDS";
    /// Service slot (`u32`) by [`crate::service::ServiceKey`].
    pub const SERVICE_KEYS: &str = "SERVICE_KEYS";
    /// [`crate::service::Service`] by slot.
    pub const SERVICES: &str = "SERVICES";
    /// Words of the filter of [`crate::service::vip_bit`].
    pub const VIP_FILTER: &str = "VIP_FILTER";
    /// [`crate::service::ServiceMeta`] by service slot. Not read by packets.
    pub const SERVICE_META: &str = "SERVICE_META";
    /// [`crate::backend::BackendMeta`] by backend slot. Not read by packets.
    pub const BACKEND_META: &str = "BACKEND_META";
    /// [`crate::service::RingChunk`] by chunk.
    pub const RINGS: &str = "RINGS";
    /// [`crate::interface::Interface`] by slot.
    pub const INTERFACES: &str = "INTERFACES";
    /// Interfaces that packets may be redirected to, by index.
    pub const TX_PORTS: &str = "TX_PORTS";
    /// The programs of the slow path, by interface slot.
    pub const SLOW_PATH: &str = "SLOW_PATH";
    /// One [`crate::tunables::Runtime`].
    pub const TUNABLES: &str = "TUNABLES";
    /// Packets by [`crate::verdict::Verdict::code`], per CPU.
    pub const VERDICTS: &str = "VERDICTS";
    /// [`crate::stats::BackendStats`] by backend slot, per CPU.
    pub const BACKEND_STATS: &str = "BACKEND_STATS";
    /// [`crate::stats::ServiceStats`] by service slot, per CPU.
    pub const SERVICE_STATS: &str = "SERVICE_STATS";
    /// One [`super::Meta`]. Not read by packets.
    pub const META: &str = "META";
    /// [`crate::client::ClientSet`] by set of [`FLOWS`], or one value if clients are not tracked.
    /// Written by packets.
    pub const FLOW_KEYS: &str = "FLOW_KEYS";
    /// The programs that packets go to which somebody traces, by interface slot.
    pub const TRACED: &str = "TRACED";
    /// One [`crate::trace::TraceFilter`].
    pub const TRACE_FILTER: &str = "TRACE_FILTER";
    /// One [`crate::trace::TraceTurn`], per CPU. Written by packets.
    pub const TRACE_TURNS: &str = "TRACE_TURNS";
    /// One [`crate::trace::TraceScratch`], per CPU. Written by packets.
    pub const TRACE_SCRATCH: &str = "TRACE_SCRATCH";
    /// A ring buffer of [`crate::trace::TraceRecord`]s. Written by packets.
    pub const TRACE_RING: &str = "TRACE_RING";
    /// One [`crate::decision::Decision`]; written only by a program that records.
    pub const DECISION: &str = "DECISION";

    /// All that is pinned, in the order in which they are created. Those of maps that older
    /// directors of the same version did not have are made when programs are attached.
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
    /// Odd 64-bit number, secret, made at the first load and kept in [`super::Meta`].
    pub const TABLE_SALT: &str = "TABLE_SALT";
    /// Binary logarithm of the flow table's sets.
    pub const TABLE_BITS: &str = "TABLE_BITS";
    /// Slot of the interface that this copy of the program is attached to.
    pub const INTERFACE_SLOT: &str = "INTERFACE_SLOT";
    /// The MAC of that interface ([`crate::wire::ethernet::mac_to_u64`]), which spares most packets
    /// the look at [`super::map::INTERFACES`].
    pub const OWN_MAC: &str = "OWN_MAC";
    /// Nanoseconds between two ticks of the kernel's timer: `TICK_NSEC`.
    pub const JIFFY_NS: &str = "JIFFY_NS";
    /// The timer's count at boot: `INITIAL_JIFFIES`.
    pub const FIRST_JIFFY: &str = "FIRST_JIFFY";
    /// 1 for `simulate`: any frame is for us, the clock is [`crate::tunables::Runtime`]'s, and what
    /// became of a packet is recorded.
    pub const SIMULATE: &str = "SIMULATE";
    /// 1 for `explain`: what would become of a packet is recorded, and nothing else is written.
    pub const EXPLAIN: &str = "EXPLAIN";
    /// 1: the client of each flow is recorded beside the flow.
    pub const TRACK_CLIENTS: &str = "TRACK_CLIENTS";
}

/// What a later process must know to adopt the pinned maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// [`ABI_VERSION`] of who created the maps; 0: not yet. The first field, in every version.
    pub abi_version: u32,
    /// Binary logarithm of the flow table's sets.
    pub table_bits: u32,
    /// See [`constant::TABLE_SALT`].
    pub table_salt: u64,
    /// The key that rings are read by.
    pub hash_key: HashKey,
}

const _: () = assert!(size_of::<Meta>() == 96);
