//! Every map: who writes it, who reads it, how large it is.
//!
//! Capacities here are for a small director; the loader raises them to what the configuration
//! needs. Maps marked mmap-able are written by userspace through shared memory, one aligned 64-bit
//! word at a time wherever packets may be looking.

use aya_ebpf::{
    macros::map,
    maps::{Array, DevMapHash, HashMap, PerCpuArray, ProgramArray, RingBuf},
};
use director_common::{
    abi::Meta,
    backend::{Backend, BackendNote},
    client::ClientSet,
    decision::Decision,
    flow_table::FlowSet,
    interface::{Interface, MAX_INTERFACES},
    runtime::Runtime,
    service::{MAX_SERVICES, RingChunk, Service, ServiceKey, ServiceNote, VIP_FILTER_WORDS},
    stats::{BackendStats, ServiceStats},
    trace::{RING_BYTES, TraceFilter, TraceScratch, TraceTurn},
    verdict::VERDICT_CODES,
};

use crate::rate::TickCount;

/// `BPF_F_MMAPABLE`, kernel 5.5.
const MMAPABLE: u32 = 1 << 10;

/// Known flows, by set. Written and read by packets; userspace reads and expires.
#[map]
pub static FLOWS: Array<FlowSet> = Array::with_max_entries(2, MMAPABLE);

/// Clients of known flows, by set; one value where they are not written down. Written by packets;
/// userspace reads.
#[map]
pub static CLIENTS: Array<ClientSet> = Array::with_max_entries(1, MMAPABLE);

/// Backends, by slot. Written by userspace, read by packets.
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(64, MMAPABLE);

/// Service slots, by what identifies a service. Written by userspace, read by packets.
#[map]
pub static SERVICE_KEYS: HashMap<ServiceKey, u32> = HashMap::with_max_entries(2 * MAX_SERVICES, 0);

/// Services, by slot. Written by userspace, read by packets.
#[map]
pub static SERVICES: Array<Service> = Array::with_max_entries(MAX_SERVICES, MMAPABLE);

/// Which addresses may be VIPs: see `filter`. Written by userspace, read by packets.
#[map]
pub static VIP_FILTER: Array<u64> = Array::with_max_entries(VIP_FILTER_WORDS, MMAPABLE);

/// Names of services, by slot. Only for userspace.
#[map]
pub static SERVICE_NOTES: Array<ServiceNote> = Array::with_max_entries(MAX_SERVICES, MMAPABLE);

/// Weights of backends, by slot. Only for userspace.
#[map]
pub static BACKEND_NOTES: Array<BackendNote> = Array::with_max_entries(64, MMAPABLE);

/// Rings, in chunks of a cache line. Written by userspace where no packet reads yet.
#[map]
pub static RINGS: Array<RingChunk> = Array::with_max_entries(64, MMAPABLE);

/// Interfaces, by slot. Written by userspace, read by packets.
#[map]
pub static INTERFACES: Array<Interface> = Array::with_max_entries(MAX_INTERFACES, MMAPABLE);

/// Interfaces that packets may leave by, by index. Written by userspace, read by the driver.
#[map]
pub static TX_PORTS: DevMapHash = DevMapHash::with_max_entries(MAX_INTERFACES, 0);

/// The program `long_way`, by the interface slot that it was made for. Written by userspace.
#[map]
pub static LONG_WAY: ProgramArray = ProgramArray::with_max_entries(MAX_INTERFACES, 0);

/// The knobs. Written by userspace, read by packets.
#[map]
pub static RUNTIME: Array<Runtime> = Array::with_max_entries(1, MMAPABLE);

/// The knobs; always there.
#[inline(always)]
pub fn runtime() -> Option<&'static Runtime> {
    RUNTIME.get(0)
}

/// Packets by verdict code. Written by packets.
#[map]
pub static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICT_CODES, 0);

/// Counters of backends, by slot. Written by packets.
#[map]
pub static BACKEND_STATS: PerCpuArray<BackendStats> = PerCpuArray::with_max_entries(64, 0);

/// Counters of services, by slot. Written by packets.
#[map]
pub static SERVICE_STATS: PerCpuArray<ServiceStats> =
    PerCpuArray::with_max_entries(MAX_SERVICES, 0);

/// ICMP errors sent of late, so that nobody can make us a source of many. Written by packets.
#[map]
pub static REPLY_LIMIT: PerCpuArray<TickCount> = PerCpuArray::with_max_entries(1, 0);

/// New TCP flows admitted to the flow table of late. Written by packets.
#[map]
pub static ADMITTED: PerCpuArray<TickCount> = PerCpuArray::with_max_entries(1, 0);

/// The program `traced`, by the interface slot that it was made for. Written by userspace.
#[map]
pub static TRACED: ProgramArray = ProgramArray::with_max_entries(MAX_INTERFACES, 0);

/// Which packets a trace wants. Written by userspace while nobody traces, read by packets.
#[map]
pub static TRACE_FILTER: Array<TraceFilter> = Array::with_max_entries(1, MMAPABLE);

/// Whose turn it is to be traced. Written by packets.
#[map]
pub static TRACE_TURNS: PerCpuArray<TraceTurn> = PerCpuArray::with_max_entries(1, 0);

/// The record that is being made. Written by packets.
#[map]
pub static TRACE_SCRATCH: PerCpuArray<TraceScratch> = PerCpuArray::with_max_entries(1, 0);

/// Records of packets, for who traces.
#[map]
pub static TRACE_RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// What a later process must know to adopt these maps. Only for userspace.
#[map]
pub static META: Array<Meta> = Array::with_max_entries(1, MMAPABLE);

/// The last packet's fate. Written by packets of a simulation, and of who asks for an explanation.
#[map]
pub static DECISION: Array<Decision> = Array::with_max_entries(1, MMAPABLE);
