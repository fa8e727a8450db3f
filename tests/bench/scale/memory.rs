//! What maps weigh: before they are made, and once they are there.

use std::{
    collections::HashMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, bail};
use aya::{maps::loaded_maps, util::nr_cpus};
use director_common::{
    abi::map,
    backend::{Backend, BackendNote},
    flow_table::FlowSet,
    service::{RING_CHUNKS, RingChunk},
    stats::BackendStats,
};
use director_userspace::{config, datapath::Sizes};

use crate::packet::subject::Setup;

/// Rings that maps of one's own have for each service: one to build while the other is read.
const RINGS: u64 = 2;
/// What one backend takes as text, as configuration and in a plan, about.
const MODEL: u64 = 2 << 10;
/// All that does not grow: programs, maps of one size, this process.
const REST: u64 = 256 << 20;

/// Bytes that a set of tables takes while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need(u64);

impl Need {
    /// What these tables will take.
    ///
    /// # Errors
    ///
    /// If no flow table can be made for so many flows.
    pub(super) fn of(setup: &Setup) -> Result<Self> {
        let cpus = nr_cpus().unwrap_or(1) as u64;
        let yaml = format!("flows: {{size: {}}}\nservices: []\n", setup.flow_capacity);
        let config = config::parse("bench.yaml", &yaml).map_err(|why| anyhow::anyhow!("{why}"))?;
        let sets = 1 << Sizes::for_config(&config.config).table_bits;
        let flows = sets * size_of::<FlowSet>() as u64;
        let ring = u64::from(RING_CHUNKS) * size_of::<RingChunk>() as u64;
        let rings = u64::from(setup.services) * RINGS * ring;
        let backend = size_of::<Backend>() + size_of::<BackendNote>();
        let counters = cpus * size_of::<BackendStats>() as u64;
        let backends = u64::from(setup.services) * u64::from(setup.backends);
        Ok(Self(flows + rings + backends * (backend as u64 + counters + MODEL) + REST))
    }

    /// Whether this machine has as much.
    ///
    /// # Errors
    ///
    /// What is needed and what there is, if it has not.
    pub(super) fn check(self) -> Result<()> {
        let file = "/proc/meminfo";
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        let available = available(&text).with_context(|| format!("no MemAvailable in {file}"))?;
        self.fits(available)
    }

    fn fits(self, available: u64) -> Result<()> {
        if self.0 > available {
            let [needed, there] = [self.0, available].map(|bytes| bytes.div_ceil(1 << 20));
            bail!("needs {needed} MiB of memory, and {there} MiB are available: not loaded");
        }
        Ok(())
    }
}

/// Bytes of memory that can be had without swapping, from /proc/meminfo.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Size of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weight {
    entries: u64,
    bytes: u64,
}

/// The maps of one director, by name.
#[derive(Debug)]
pub(super) struct Maps(HashMap<String, Weight>);

/// What `make` makes, and the maps that came into being with it. The latter fails by itself: if
/// another process made maps meanwhile, or the kernel does not say what they weigh.
///
/// # Errors
///
/// If `make` fails.
pub(super) fn maps_of<T>(make: impl FnOnce() -> Result<T>) -> Result<(T, Result<Maps>)> {
    let before: Vec<u32> = loaded_maps().flatten().map(|map| map.id()).collect();
    let made = make()?;
    Ok((made, Maps::but(&before)))
}

impl Maps {
    /// All but those that were there before.
    fn but(before: &[u32]) -> Result<Self> {
        let mut maps = HashMap::new();
        for info in loaded_maps() {
            // One that another process closes meanwhile is an error here, and none of ours.
            let Ok(info) = info else { continue };
            let Some(name) = info.name_as_str().filter(|_| !before.contains(&info.id())) else {
                continue;
            };
            let fd = info.fd()?;
            let file = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
            let weight = weight(&text).with_context(|| format!("{file} is not of a map"))?;
            if maps.insert(name.to_owned(), weight).is_some() && map::PINNED.contains(&name) {
                bail!("another process made a map {name} at the same time");
            }
        }
        Ok(Self(maps))
    }

    /// Bytes of an entry of map `name`, with what the kernel keeps beside it.
    fn entry(&self, name: &str) -> Result<f64> {
        let Weight { entries, bytes } = self.map(name)?;
        Ok(bytes as f64 / entries as f64)
    }

    fn map(&self, name: &str) -> Result<Weight> {
        self.0.get(name).copied().with_context(|| format!("no map {name}"))
    }

    fn entries(&self, names: &[&str]) -> Result<f64> {
        names.iter().map(|name| self.entry(name)).sum()
    }

    /// Bytes for each of the `capacity` flows that the flow table is made for.
    pub(super) fn flow(&self, capacity: u64) -> Result<f64> {
        Ok(self.map(map::FLOWS)?.bytes as f64 / capacity as f64)
    }

    /// Bytes of a backend, with counters of all CPUs.
    pub(super) fn backend(&self) -> Result<f64> {
        self.entries(&[map::BACKENDS, map::BACKEND_NOTES, map::BACKEND_STATS])
    }

    /// Bytes of a service with its ring, without its backends.
    pub(super) fn service(&self) -> Result<f64> {
        let others = [map::SERVICES, map::SERVICE_NOTES, map::SERVICE_KEYS, map::SERVICE_STATS];
        Ok(self.entry(map::RINGS)? * f64::from(RING_CHUNKS) + self.entries(&others)?)
    }
}

/// Entries and bytes of a map, from its descriptor's fdinfo.
fn weight(fdinfo: &str) -> Option<Weight> {
    let field = |name: &str| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    Some(Weight { entries: field("max_entries")?, bytes: field("memlock")? })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::packet::{
        frame::{Frame, Protocol},
        subject::Mode,
    };

    #[test]
    fn what_does_not_fit_is_refused_with_both_sizes() {
        let text = "MemTotal:       24683520 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert!(Need(2 << 20).fits(2 << 20).is_ok());
        let error = Need(5_000 << 20).fits(2 << 20).unwrap_err().to_string();
        assert!(error.contains("5000 MiB") && error.contains(" 2 MiB"), "{error}");
    }

    #[test]
    fn need_grows_with_what_is_measured() {
        let frame = Frame {
            vip: IpAddr::from([10, 200, 1, 1]),
            port: 80,
            protocol: Protocol::Tcp,
            opens: false,
            size: 64,
        };
        let mode = Mode::Tunnel;
        let need = |services, backends, flow_capacity| {
            let setup = Setup { frame, mode, services, backends, flow_capacity };
            Need::of(&setup).unwrap().0
        };
        let least = need(1, 3, 1 << 16);
        // A ring is 256 KiB; the smallest place for a flow 16 bytes.
        assert!(need(10_000, 3, 1 << 16) - least > 10_000 * (256 << 10));
        assert!(need(1, 3, 1 << 24) - least > 15 * 16 << 20);
        assert!(need(1, 1_000, 1 << 16) - least > 997 * 64);
    }

    #[test]
    fn maps_are_weighed_by_what_the_kernel_says() {
        let text = "pos:\t0\nmap_type:\t2\nkey_size:\t4\nvalue_size:\t64\nmax_entries:\t1024\n\
                    map_flags:\t0x400\nmemlock:\t69632\nmap_id:\t7\n";
        assert_eq!(weight(text), Some(Weight { entries: 1024, bytes: 69_632 }));
        assert_eq!(weight("pos:\t0\n"), None);
        let weights = [
            (map::FLOWS, Weight { entries: 2, bytes: 128 }),
            (map::BACKENDS, Weight { entries: 4, bytes: 256 }),
            (map::BACKEND_NOTES, Weight { entries: 4, bytes: 64 }),
            (map::BACKEND_STATS, Weight { entries: 2, bytes: 64 }),
        ];
        let maps = Maps(weights.map(|(name, weight)| (name.to_owned(), weight)).into());
        assert_eq!(maps.flow(4).unwrap(), 32.0);
        assert_eq!(maps.backend().unwrap(), 64.0 + 16.0 + 32.0);
        assert!(maps.service().unwrap_err().to_string().contains("RINGS"));
    }
}
