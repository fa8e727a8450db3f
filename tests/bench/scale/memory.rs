//! Memory of maps: estimated before, and measured after their creation.

use std::{
    collections::HashMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, bail};
use aya::{maps::loaded_maps, util::nr_cpus};
use director_common::{
    abi::map,
    backend::{Backend, BackendMeta},
    flow_table::FlowSet,
    service::{RING_CHUNKS, RingChunk},
    stats::BackendStats,
};
use director_userspace::kernel::datapath::Sizes;

use crate::packet::subject::{self, Setup};

/// Rings per service: one is built while the other is read.
const RINGS: u64 = 2;
/// Approximate size of one backend as text, as configuration and in a plan, bytes.
const MODEL: u64 = 2 << 10;
/// Everything that does not grow: programs, maps of one size, this process.
const REST: u64 = 256 << 20;

/// Memory that a set of tables needs while it is measured, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need(u64);

impl Need {
    /// The memory that these tables need.
    ///
    /// # Errors
    ///
    /// If no flow table of this capacity is possible.
    pub(super) fn of(setup: &Setup) -> Result<Self> {
        let cpus = nr_cpus().unwrap_or(1) as u64;
        let sets = sets(setup)?;
        let flows = sets * size_of::<FlowSet>() as u64;
        let ring = u64::from(RING_CHUNKS) * size_of::<RingChunk>() as u64;
        let rings = u64::from(setup.services) * RINGS * ring;
        let backend = size_of::<Backend>() + size_of::<BackendMeta>();
        let counters = cpus * size_of::<BackendStats>() as u64;
        let backends = u64::from(setup.services) * u64::from(setup.backends);
        Ok(Self(flows + rings + backends * (backend as u64 + counters + MODEL) + REST))
    }

    /// Checks that this machine has as much.
    ///
    /// # Errors
    ///
    /// The needed and the available memory, if it does not.
    pub(super) fn check(self) -> Result<()> {
        let file = "/proc/meminfo";
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        let available = available(&text).with_context(|| format!("no MemAvailable in {file}"))?;
        self.fits(available)
    }

    fn fits(self, available: u64) -> Result<()> {
        if self.0 > available {
            let [needed, free] = [self.0, available].map(|bytes| bytes.div_ceil(1 << 20));
            bail!("needs {needed} MiB of memory, and {free} MiB are available: not loaded");
        }
        Ok(())
    }
}

/// Sets of the flow table.
fn sets(setup: &Setup) -> Result<u64> {
    let config = subject::configuration(&Setup { services: 1, ..*setup })?;
    Ok(1 << Sizes::for_config(&config).table_bits)
}

/// Memory that is available without swapping, bytes, from /proc/meminfo.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Size of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MapSize {
    entries: u64,
    bytes: u64,
}

/// Maps by name. Several of a name if another process has created some too.
#[derive(Debug)]
pub(super) struct Maps(HashMap<String, Vec<MapSize>>);

/// The result of `make`, and the maps created by it. The latter fails separately: if the kernel
/// does not report their size.
///
/// # Errors
///
/// If `make` fails.
pub(super) fn maps_of<T>(make: impl FnOnce() -> Result<T>) -> Result<(T, Result<Maps>)> {
    let before: Vec<u32> = loaded_maps().flatten().map(|map| map.id()).collect();
    let made = make()?;
    Ok((made, Maps::except(&before)))
}

impl Maps {
    /// All maps except those that existed before.
    fn except(before: &[u32]) -> Result<Self> {
        let mut maps: HashMap<String, Vec<MapSize>> = HashMap::new();
        for info in loaded_maps() {
            // A map that another process closes meanwhile is an error here, which is ignored.
            let Ok(info) = info else { continue };
            let Some(name) = info.name_as_str().filter(|_| !before.contains(&info.id())) else {
                continue;
            };
            let fd = info.fd()?;
            let file = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
            let size = map_size(&text).with_context(|| format!("{file} is not of a map"))?;
            maps.entry(name.to_owned()).or_default().push(size);
        }
        Ok(Self(maps))
    }

    fn named(&self, name: &str) -> Result<&[MapSize]> {
        Ok(self.0.get(name).with_context(|| format!("no map {name}"))?)
    }

    /// Bytes of an entry of map `name`, with the kernel's overhead.
    fn entry(&self, name: &str) -> Result<f64> {
        let sizes = self.named(name)?;
        let each = |size: &MapSize| size.bytes as f64 / size.entries as f64;
        let least = sizes.iter().map(each).fold(f64::INFINITY, f64::min);
        let most = sizes.iter().map(each).fold(0.0, f64::max);
        // Maps of another size differ a little: the kernel counts in pages.
        if most > least * 1.05 {
            bail!("another process created a map {name} of another kind at the same time");
        }
        Ok(least)
    }

    fn entries(&self, names: &[&str]) -> Result<f64> {
        names.iter().map(|name| self.entry(name)).sum()
    }

    /// Bytes per flow of the flow table's capacity.
    pub(super) fn flow(&self, setup: &Setup) -> Result<f64> {
        let sets = sets(setup)?;
        let found = self.named(map::FLOWS)?.iter().find(|size| size.entries == sets);
        let found = found.with_context(|| format!("no map {} of {sets} sets", map::FLOWS))?;
        Ok(found.bytes as f64 / setup.flow_capacity as f64)
    }

    /// Bytes of a backend, with counters of all CPUs.
    pub(super) fn backend(&self) -> Result<f64> {
        self.entries(&[map::BACKENDS, map::BACKEND_META, map::BACKEND_STATS])
    }

    /// Bytes of a service with its ring, without its backends.
    pub(super) fn service(&self) -> Result<f64> {
        let others = [map::SERVICES, map::SERVICE_META, map::SERVICE_KEYS, map::SERVICE_STATS];
        Ok(self.entry(map::RINGS)? * f64::from(RING_CHUNKS) + self.entries(&others)?)
    }
}

/// Entries and bytes of a map, from its descriptor's fdinfo.
fn map_size(fdinfo: &str) -> Option<MapSize> {
    let field = |name: &str| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    Some(MapSize { entries: field("max_entries")?, bytes: field("memlock")? })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::packet::{
        frame::{Frame, Protocol},
        subject::Mode,
    };

    fn setup(services: u32, backends: u32, flow_capacity: u64) -> Setup {
        let frame = Frame {
            vip: IpAddr::from([10, 200, 1, 1]),
            port: 80,
            protocol: Protocol::Tcp,
            opens: false,
            size: 64,
        };
        Setup { frame, mode: Mode::Tunnel, services, backends, flow_capacity }
    }

    #[test]
    fn tables_that_do_not_fit_are_refused_with_both_sizes() {
        let text = "MemTotal:       24683520 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert!(Need(2 << 20).fits(2 << 20).is_ok());
        let error = Need(5_000 << 20).fits(2 << 20).unwrap_err().to_string();
        assert!(error.contains("5000 MiB") && error.contains(" 2 MiB"), "{error}");
    }

    #[test]
    fn need_grows_with_what_is_measured() {
        let need = |services, backends, flow_capacity| {
            Need::of(&setup(services, backends, flow_capacity)).unwrap().0
        };
        let least = need(1, 3, 1 << 16);
        // A ring is 256 KiB; the smallest record of a flow 16 bytes.
        assert!(need(10_000, 3, 1 << 16) - least > 10_000 * (256 << 10));
        assert!(need(1, 3, 1 << 24) - least > (15 * 16) << 20);
        assert!(need(1, 1_000, 1 << 16) - least > 997 * 64);
    }

    #[test]
    fn map_sizes_are_those_reported_by_the_kernel() {
        let text = "pos:\t0\nmap_type:\t2\nkey_size:\t4\nvalue_size:\t64\nmax_entries:\t1024\n\
                    map_flags:\t0x400\nmemlock:\t69632\nmap_id:\t7\n";
        assert_eq!(map_size(text), Some(MapSize { entries: 1024, bytes: 69_632 }));
        assert_eq!(map_size("pos:\t0\n"), None);
        let setup = setup(1, 3, 1 << 16);
        let sets = sets(&setup).unwrap();
        let sizes = [
            // A map of another process first.
            (map::FLOWS, vec![(2 * sets, 5), (sets, 64 << 16)]),
            (map::BACKENDS, vec![(4, 256)]),
            (map::BACKEND_META, vec![(4, 64), (400, 6_500)]),
            (map::BACKEND_STATS, vec![(2, 64)]),
            (map::RINGS, vec![(1, 64), (1, 128)]),
        ];
        let of = |(entries, bytes)| MapSize { entries, bytes };
        let maps =
            sizes.map(|(name, all)| (name.to_owned(), all.into_iter().map(of).collect::<Vec<_>>()));
        let maps = Maps(maps.into());
        assert_eq!(maps.flow(&setup).unwrap(), 64.0);
        assert_eq!(maps.backend().unwrap(), 64.0 + 16.0 + 32.0);
        assert!(maps.service().unwrap_err().to_string().contains("RINGS"));
        assert!(maps.entry("MINE").unwrap_err().to_string().contains("MINE"));
    }
}
