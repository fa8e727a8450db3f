//! Every map: its writers, its readers, its size.
//!
//! Capacities here are for a small director; the loader raises them to what the configuration
//! needs. Maps marked mmap-able are written by userspace through shared memory, one aligned 64-bit
//! word at a time wherever the data plane may be reading.

use aya_ebpf::{
    macros::map,
    maps::{Array, DevMapHash, HashMap, PerCpuArray, ProgramArray, RingBuf},
};
use director_common::{
    abi::Meta,
    backend::{Backend, BackendMeta},
    client::ClientSet,
    decision::Decision,
    flow_table::FlowSet,
    interface::{Interface, MAX_INTERFACES},
    service::{MAX_SERVICES, RingChunk, Service, ServiceKey, ServiceMeta, VIP_FILTER_WORDS},
    stats::{BackendStats, ServiceStats},
    trace::{RING_BYTES, TraceFilter, TraceScratch, TraceTurn},
    tunables::Tunables,
    verdict::VERDICT_CODES,
};

use crate::tick_count::TickCount;

/// `BPF_F_MMAPABLE`, kernel 5.5.
const MMAPABLE: u32 = 1 << 10;

/// Known flows, by set. Written and read by the data plane; userspace reads and expires.
#[map]
pub static FLOWS: Array<FlowSet> = Array::with_max_entries(2, MMAPABLE);

/// Keys of known flows, by set; one value where clients are not tracked. Written by the data plane,
/// read by userspace.
#[map]
pub static FLOW_KEYS: Array<ClientSet> = Array::with_max_entries(1, MMAPABLE);

/// Backends, by slot. Written by userspace, read by the data plane.
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(64, MMAPABLE);

/// Service slots, by service key. Written by userspace, read by the data plane.
#[map]
pub static SERVICE_KEYS: HashMap<ServiceKey, u32> = HashMap::with_max_entries(2 * MAX_SERVICES, 0);

/// Services, by slot. Written by userspace, read by the data plane.
#[map]
pub static SERVICES: Array<Service> = Array::with_max_entries(MAX_SERVICES, MMAPABLE);

/// Which addresses may be VIPs: see `filter`. Written by userspace, read by the data plane.
#[map]
pub static VIP_FILTER: Array<u64> = Array::with_max_entries(VIP_FILTER_WORDS, MMAPABLE);

/// Metadata of services, by slot. Only for userspace.
#[map]
pub static SERVICE_META: Array<ServiceMeta> = Array::with_max_entries(MAX_SERVICES, MMAPABLE);

/// Metadata of backends, by slot. Only for userspace.
#[map]
pub static BACKEND_META: Array<BackendMeta> = Array::with_max_entries(64, MMAPABLE);

/// Rings, in chunks of a cache line. Written by userspace where the data plane does not read yet.
#[map]
pub static RINGS: Array<RingChunk> = Array::with_max_entries(64, MMAPABLE);

/// Interfaces, by slot. Written by userspace, read by the data plane.
#[map]
pub static INTERFACES: Array<Interface> = Array::with_max_entries(MAX_INTERFACES, MMAPABLE);

/// Egress interfaces, by index. Written by userspace, read by the driver.
#[map]
pub static TX_PORTS: DevMapHash = DevMapHash::with_max_entries(MAX_INTERFACES, 0);

/// The program `slow_path`, by the interface slot that it was loaded for. Written by userspace.
#[map]
pub static SLOW_PATH: ProgramArray = ProgramArray::with_max_entries(MAX_INTERFACES, 0);

/// The tunables. Written by userspace, read by the data plane.
#[map]
pub static TUNABLES: Array<Tunables> = Array::with_max_entries(1, MMAPABLE);

/// The tunables; the lookup never fails.
#[inline(always)]
pub fn tunables() -> Option<&'static Tunables> {
    TUNABLES.get(0)
}

/// Packets by verdict code. Written by the data plane.
#[map]
pub static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICT_CODES, 0);

/// Counters of backends, by slot. Written by the data plane.
#[map]
pub static BACKEND_STATS: PerCpuArray<BackendStats> = PerCpuArray::with_max_entries(64, 0);

/// Counters of services, by slot. Written by the data plane.
#[map]
pub static SERVICE_STATS: PerCpuArray<ServiceStats> =
    PerCpuArray::with_max_entries(MAX_SERVICES, 0);

/// ICMP errors sent in this tick, which limits reflection. Written by the data plane.
#[map]
pub static REPLY_LIMIT: PerCpuArray<TickCount> = PerCpuArray::with_max_entries(1, 0);

/// TCP connections opened in this tick: one counter for each path, see `admission`. Written by the data
/// plane.
#[map]
pub static ADMITTED: PerCpuArray<TickCount> = PerCpuArray::with_max_entries(2, 0);

/// The program `traced`, by the interface slot that it was loaded for. Written by userspace.
#[map]
pub static TRACED: ProgramArray = ProgramArray::with_max_entries(MAX_INTERFACES, 0);

/// Which packets are traced. Written by userspace while no trace runs, read by the data plane.
#[map]
pub static TRACE_FILTER: Array<TraceFilter> = Array::with_max_entries(1, MMAPABLE);

/// Sampling state of a trace. Written by the data plane.
#[map]
pub static TRACE_TURNS: PerCpuArray<TraceTurn> = PerCpuArray::with_max_entries(1, 0);

/// The record in progress. Written by the data plane.
#[map]
pub static TRACE_SCRATCH: PerCpuArray<TraceScratch> = PerCpuArray::with_max_entries(1, 0);

/// Records of traced packets. Written by the data plane, read by userspace.
#[map]
pub static TRACE_RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// What a later process needs to adopt these maps. Only for userspace.
#[map]
pub static META: Array<Meta> = Array::with_max_entries(1, MMAPABLE);

/// The decision about the last packet. Written for `simulate` and `explain`.
#[map]
pub static DECISION: Array<Decision> = Array::with_max_entries(1, MMAPABLE);
