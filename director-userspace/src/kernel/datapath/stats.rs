//! Counters, added up over CPUs.

use std::{collections::BTreeMap, net::IpAddr, sync::OnceLock};

use aya::{
    Pod,
    maps::{MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use director_common::{
    abi::map,
    stats::{BackendStats, ServiceStats},
    verdict::Verdict,
};

use super::{DatapathError, Tables};
use crate::policy::plan::Observed;

/// What was forwarded to one backend of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Packets, bytes of IP packet and flows.
    pub stats: BackendStats,
}

/// What was forwarded for one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// Sum over its backends, removed ones included.
    pub total: BackendStats,
    /// Packets that no backend got.
    pub dropped: u64,
    /// Flows that the flow table had no room for.
    pub untracked: u64,
    /// By backend slot: its address and counters.
    pub backends: BTreeMap<u32, (IpAddr, BackendCounters)>,
}

/// All counters at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets by verdict; every verdict is present.
    pub verdicts: Vec<(Verdict, u64)>,
    /// By service slot.
    pub services: BTreeMap<u32, ServiceCounters>,
}

/// Reads all counters; of services and backends, those that were `observed`.
///
/// # Errors
///
/// If a map cannot be read.
pub fn counters(tables: &Tables, observed: &Observed) -> Result<Counters, DatapathError> {
    let mut verdicts = Vec::new();
    for verdict in Verdict::all() {
        let values = tables.verdicts.get(&verdict.code(), 0).map_err(of(map::VERDICTS))?;
        verdicts.push((verdict, values.iter().sum()));
    }
    let mut services = BTreeMap::new();
    for slot in observed.services.keys() {
        let mut stats = ServiceStats::default();
        let values = tables.service_stats.get(slot, 0).map_err(of(map::SERVICE_STATS))?;
        for copy in values.iter() {
            stats.dropped += copy.0.dropped;
            stats.untracked += copy.0.untracked;
        }
        let total = tables.service_meta.get(*slot).retired;
        services.insert(
            *slot,
            ServiceCounters {
                total,
                dropped: stats.dropped,
                untracked: stats.untracked,
                backends: BTreeMap::new(),
            },
        );
    }
    for (slot, backend) in &observed.backends {
        let Some(service) = services.get_mut(&backend.service) else { continue };
        let stats = backend_total(tables, *slot)?;
        service.total.add(&stats);
        service.backends.insert(*slot, (backend.address, BackendCounters { stats }));
    }
    Ok(Counters { verdicts, services })
}

/// One backend's counters over all CPUs.
pub(super) fn backend_total(tables: &Tables, slot: u32) -> Result<BackendStats, DatapathError> {
    let values = tables.backend_stats.get(&slot, 0).map_err(of(map::BACKEND_STATS))?;
    let mut total = BackendStats::default();
    for copy in values.iter() {
        total.add(&copy.0);
    }
    Ok(total)
}

/// Number of copies of a per-CPU value. Read from a file the first time.
pub(super) fn cpus() -> Result<usize, MapError> {
    static CPUS: OnceLock<usize> = OnceLock::new();
    if let Some(cpus) = CPUS.get() {
        return Ok(*cpus);
    }
    let cpus = nr_cpus().map_err(|(_, error)| MapError::from(error))?;
    Ok(*CPUS.get_or_init(|| cpus))
}

/// Sets every CPU's copy to `zero`.
pub(super) fn zero<T: Pod>(
    map: &mut PerCpuArray<MapData, T>,
    slot: u32,
    zero: T,
) -> Result<(), MapError> {
    let values = PerCpuValues::try_from(vec![zero; cpus()?])?;
    map.set(slot, values, 0)
}

fn of(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |error| DatapathError::Map { name, error }
}
