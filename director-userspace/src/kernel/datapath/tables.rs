//! The maps, opened: arrays as shared memory, the rest through system calls.

use std::{
    collections::HashSet,
    io,
    mem::offset_of,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Pod,
    maps::{MapData, PerCpuArray},
};
use director_common::{
    abi::{Meta, map},
    backend::{Backend, BackendMeta, BackendRef, BackendState, NextHop},
    flow::Family,
    flow_table::FlowSet,
    interface::Interface,
    service::{RING_CHUNKS, RingChunk, Service, ServiceKey, ServiceMeta},
    stats::{BackendStats, ServiceStats},
    tunables::Tunables,
};

use super::{
    DatapathError,
    keys::{ServiceKeys, TxPorts},
    mmap::MappedArray,
    rings::RingSums,
};
use crate::policy::plan::{Capacity, ObservedRing};

/// Lets aya hand `T` to the kernel as bytes.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct AsPod<T>(pub(super) T);

// SAFETY: repr(C), no implicit padding, valid for all bytes (see director-common).
unsafe impl Pod for AsPod<ServiceKey> {}
// SAFETY: as above.
unsafe impl Pod for AsPod<BackendStats> {}
// SAFETY: as above.
unsafe impl Pod for AsPod<ServiceStats> {}

/// The maps of one instance, or of one simulation.
pub struct Tables {
    pub(super) meta: MappedArray<Meta>,
    pub(super) flows: MappedArray<FlowSet>,
    pub(super) backends: MappedArray<Backend>,
    pub(super) backend_meta: MappedArray<BackendMeta>,
    pub(super) keys: ServiceKeys,
    pub(super) services: MappedArray<Service>,
    pub(super) vip_filter: MappedArray<u64>,
    pub(super) service_meta: MappedArray<ServiceMeta>,
    pub(super) rings: MappedArray<RingChunk>,
    pub(super) ring_sums: RingSums,
    pub(super) interfaces: MappedArray<Interface>,
    pub(super) tx_ports: TxPorts,
    pub(super) tunables: MappedArray<Tunables>,
    pub(super) verdicts: PerCpuArray<MapData, u64>,
    pub(super) backend_stats: PerCpuArray<MapData, AsPod<BackendStats>>,
    pub(super) service_stats: PerCpuArray<MapData, AsPod<ServiceStats>>,
}

impl Tables {
    /// Opens every map; `get` finds one by name.
    pub(super) fn open(
        mut get: impl FnMut(&'static str) -> Result<MapData, DatapathError>,
    ) -> Result<Self, DatapathError> {
        macro_rules! mapped {
            ($name:expr, $kind:ty) => {{
                let data = get($name)?;
                let len = entries(&data, $name, size_of::<$kind>())?;
                MappedArray::<$kind>::new(Fd(&data), len)
                    .map_err(|error| DatapathError::Mmap { name: $name, error })?
            }};
        }
        macro_rules! typed {
            ($name:expr, $kind:ident, $variant:ident) => {
                $kind::try_from(aya::maps::Map::$variant(get($name)?))
                    .map_err(|error| DatapathError::Map { name: $name, error })?
            };
        }
        Ok(Self {
            meta: mapped!(map::META, Meta),
            flows: mapped!(map::FLOWS, FlowSet),
            backends: mapped!(map::BACKENDS, Backend),
            backend_meta: mapped!(map::BACKEND_META, BackendMeta),
            keys: ServiceKeys::open(get(map::SERVICE_KEYS)?)?,
            services: mapped!(map::SERVICES, Service),
            vip_filter: mapped!(map::VIP_FILTER, u64),
            service_meta: mapped!(map::SERVICE_META, ServiceMeta),
            rings: mapped!(map::RINGS, RingChunk),
            ring_sums: RingSums::default(),
            interfaces: mapped!(map::INTERFACES, Interface),
            tx_ports: TxPorts::open(get(map::TX_PORTS)?)?,
            tunables: mapped!(map::TUNABLES, Tunables),
            verdicts: typed!(map::VERDICTS, PerCpuArray, PerCpuArray),
            backend_stats: typed!(map::BACKEND_STATS, PerCpuArray, PerCpuArray),
            service_stats: typed!(map::SERVICE_STATS, PerCpuArray, PerCpuArray),
        })
    }

    /// Keeps a copy of everything that this process writes from now on, which begins with what is
    /// there: this is the process that changes the maps. What others write is then found, undone, and
    /// never read ([`super::Scrub`]).
    pub fn keep_written(&mut self) {
        self.meta.keep_written();
        self.backends.keep_written();
        self.backend_meta.keep_written();
        self.keys.keep_written();
        self.services.keep_written();
        self.vip_filter.keep_written();
        self.service_meta.keep_written();
        self.interfaces.keep_written();
        self.tx_ports.keep_written();
        self.tunables.keep_written();
    }

    /// Takes over what these maps, of which some are the same, had kept.
    pub(super) fn take_written(&mut self, from: &mut Self) {
        self.meta.take_written(&mut from.meta);
        self.backends.take_written(&mut from.backends);
        self.backend_meta.take_written(&mut from.backend_meta);
        self.keys.take_written(&mut from.keys);
        self.services.take_written(&mut from.services);
        self.vip_filter.take_written(&mut from.vip_filter);
        self.service_meta.take_written(&mut from.service_meta);
        self.interfaces.take_written(&mut from.interfaces);
        self.tx_ports.take_written(&mut from.tx_ports);
        self.tunables.take_written(&mut from.tunables);
        let sums = std::mem::take(&mut from.ring_sums);
        self.ring_sums.take_others(sums);
    }

    /// What fits.
    pub fn capacity(&self) -> Capacity {
        Capacity {
            services: self.services.len(),
            backends: self
                .backends
                .len()
                .min(self.backend_meta.len())
                .min(self.backend_stats.len()),
            rings: self.rings.len() / RING_CHUNKS,
        }
    }

    /// The ring of the service in this slot, as packets see it; empty if it has none.
    pub fn ring(&self, service: u32) -> Vec<BackendRef> {
        let word = self.services.get(service).word;
        let ObservedRing::Whole(ring) = ObservedRing::of(word, self.capacity()) else {
            return Vec::new();
        };
        let chunks = ring * RING_CHUNKS..(ring + 1) * RING_CHUNKS;
        let slots = chunks.flat_map(|chunk| self.rings.get(chunk).slots);
        slots.take(word.slots() as usize).collect()
    }

    /// Whether some backend's drain is over at `now_ns`. Reads shared memory only: the daemon calls
    /// The services that have backends whose drains are over.
    pub fn services_with_drains_over(&self, now_ns: u64) -> HashSet<ServiceKey> {
        let keys = (1..self.backends.len()).filter_map(|slot| {
            let fields = self.backends.get(slot).word.unpack();
            let is_over = fields.state == BackendState::Draining
                && self.backend_meta.get(slot).drain_deadline_ns <= now_ns;
            let service = u32::from(fields.service);
            (is_over && service < self.services.len()).then(|| self.services.get(service).key)
        });
        keys.collect()
    }

    /// Sets the MAC address of next hops in place, without another way out: `next_hop` has those
    /// that changed, by backend. A fixed one stays.
    pub fn move_next_hops(&self, next_hop: impl Fn(IpAddr) -> Option<NextHop>) {
        for slot in 1..self.backends.len() {
            let backend = self.backends.get(slot);
            let fields = backend.word.unpack();
            let family = if fields.is_v6 { Family::V6 } else { Family::V4 };
            if fields.state != BackendState::Free
                && !fields.fixed_next_hop
                && let Some(next_hop) = next_hop(backend.address.to_ip(family))
                && next_hop.is_same_way(backend.next_hop)
            {
                self.backends.publish(slot, offset_of!(Backend, next_hop), next_hop.0);
            }
        }
    }

    /// The addresses of all backends.
    pub fn backend_addresses(&self) -> impl Iterator<Item = IpAddr> {
        (1..self.backends.len()).filter_map(|slot| {
            let backend = self.backends.get(slot);
            let fields = backend.word.unpack();
            let family = if fields.is_v6 { Family::V6 } else { Family::V4 };
            (fields.state != BackendState::Free).then(|| backend.address.to_ip(family))
        })
    }

    /// Flows that the flow table is sized for.
    pub fn flow_capacity(&self) -> u64 {
        let places = u64::from(self.flows.len()) * director_common::flow_table::SET_WAYS as u64;
        places >> super::load::SPARE_BITS
    }

    /// What the maps' creator wrote.
    pub fn meta(&self) -> Meta {
        self.meta.get(0)
    }
}

/// Number of values of a map, whose values must be of `value_size` bytes: aya reuses pins without
/// checking (0.14).
fn entries(data: &MapData, name: &'static str, value_size: usize) -> Result<u32, DatapathError> {
    let info = data.info().map_err(|error| DatapathError::Map { name, error })?;
    if info.value_size() as usize != value_size {
        let error = io::Error::other(format!(
            "values of {} bytes instead of {value_size}: pinned by another version",
            info.value_size()
        ));
        return Err(DatapathError::Mmap { name, error });
    }
    Ok(info.max_entries())
}

/// A map's file descriptor.
pub(super) struct Fd<'a>(pub(super) &'a MapData);

impl AsFd for Fd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd().as_fd()
    }
}
