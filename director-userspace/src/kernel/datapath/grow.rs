//! Grows the maps of a director while it forwards.
//!
//! BPF maps cannot be resized, so larger ones replace them: they are created and filled beside the
//! old ones, then the programs are replaced, each atomically through its link, by ones that use
//! them, then pins are moved. The flow table, services and everything else that does not depend on
//! the number of backends or rings stay the same maps, so tracked flows stay.
//!
//! A process may die at any point. Until the directory `unfinished` is renamed `larger`, nothing
//! has changed, and the next process removes it; from then on the maps in it count
//! ([`Instance::map_pin`]), whichever programs use them already, and the next start attaches all
//! programs again, which ends in [`finish`] as usual. Meanwhile old and new maps hold the same.

use std::{
    collections::BTreeSet, fs, io::ErrorKind, os::unix::fs::MetadataExt as _, path::PathBuf, thread,
};

use aya::maps::MapData;
use director_common::{abi::map, service::RING_CHUNKS};

use super::{
    AttachError, Attached, Attachments, Datapath, DatapathError, Instance, LinkPin, Sizes, Tables,
    batch::Copies,
    grace,
    link_pins::{detach_from, link_pins},
    load,
    open::make_directory,
};
use crate::policy::plan::{Capacity, ObservedRing};

/// Maps with an entry per backend.
const BY_BACKEND: [&str; 3] = [map::BACKENDS, map::BACKEND_META, map::BACKEND_STATS];
/// Maps that hold rings.
const BY_RING: [&str; 1] = [map::RINGS];
/// Attempts of a reader that finds pins being moved.
const ATTEMPTS: usize = 8;

impl Datapath {
    /// Grows the maps to `capacity`, which is at least their current one, and attaches the program
    /// to `interfaces` as [`Datapath::attach`] does, with the larger maps. Forwarding continues,
    /// tracked flows stay. On an error, what was in effect stays.
    ///
    /// # Errors
    ///
    /// If there is no memory, or as [`Datapath::attach`].
    pub fn grow(
        &mut self,
        capacity: Capacity,
        interfaces: &[Attached],
        attachments: &Attachments,
        may_fail: &(dyn Fn(&Attached) -> bool + Sync),
    ) -> Result<Vec<AttachError>, DatapathError> {
        let unfinished = self.instance.unfinished_pins();
        let old = self.tables.capacity();
        let mut names = Vec::new();
        if capacity.backends > old.backends {
            names.push(BY_BACKEND.as_slice());
        }
        if capacity.rings > old.rings {
            names.push(BY_RING.as_slice());
        }
        discard_unfinished(&self.instance)?;
        make_directory(&unfinished)?;
        let prepared = self.make(capacity, &names).and_then(|mut larger| {
            let counted = self.fill(&mut larger, &names)?;
            let smaller_stats = load::pinned(&self.instance, map::BACKEND_STATS)?;
            Ok((larger, counted, smaller_stats))
        });
        let (mut larger, counted, smaller_stats) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let _ = discard_unfinished(&self.instance);
                return Err(error);
            }
        };
        // From here on, opening the maps finds the larger ones.
        rename(&unfinished, &self.instance.larger_pins())?;
        let failed = match self.attach(interfaces, attachments, may_fail) {
            Ok(failed) => failed,
            Err(error) => {
                self.shrink_back(interfaces, attachments);
                return Err(error);
            }
        };
        for AttachError { interface, .. } in &failed {
            // The program on it, if it is this instance's, uses the smaller maps.
            detach_from(&self.instance, interface)?;
        }
        larger.take_written(&mut self.tables);
        self.tables = larger;
        if let Some(before) = counted {
            // Counts in the smaller maps after the copy. Packets already count in the larger ones,
            // so these are added to what the services' former backends counted.
            grace::wait();
            let after = Copies::read(smaller_stats, old.backends)?;
            for (slot, stats) in after.since(&before) {
                let service = u32::from(self.tables.backends.get(slot).word.service());
                if service >= self.tables.services.len() {
                    continue;
                }
                let mut meta = self.tables.service_meta.get(service);
                meta.retired.add(&stats);
                self.tables.service_meta.set(service, meta);
            }
        }
        Ok(failed)
    }

    /// Creates the larger maps, those by backend and those by ring in parallel.
    fn make(
        &self,
        Capacity { backends, rings, .. }: Capacity,
        names: &[&[&'static str]],
    ) -> Result<Tables, DatapathError> {
        let sizes = Sizes { table_bits: self.tables.meta().table_bits, backends, rings };
        let constants = self.constants(0);
        let make = |names: &[&str]| {
            load::load(sizes, &constants, Some(&|name| self.pin(name, names))).map(drop)
        };
        thread::scope(|scope| {
            let workers: Vec<_> = names.iter().map(|names| scope.spawn(|| make(names))).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let all = names.concat();
        Tables::open(|name| {
            MapData::from_pin(self.pin(name, &all))
                .map_err(|error| DatapathError::Map { name, error })
        })
    }

    /// Where a map is pinned while those in `names` are being created.
    fn pin(&self, name: &str, names: &[&str]) -> PathBuf {
        if names.contains(&name) {
            self.instance.unfinished_pins().join(name)
        } else {
            self.instance.map_pin(name)
        }
    }

    /// Copies the maps' contents; returns the copied counters, if their map is among them.
    fn fill(
        &self,
        larger: &mut Tables,
        names: &[&[&'static str]],
    ) -> Result<Option<Copies>, DatapathError> {
        let smaller = &self.tables;
        if names.contains(&BY_RING.as_slice()) {
            let capacity = smaller.capacity();
            let words = (0..smaller.services.len()).map(|slot| smaller.services.get(slot).word);
            let used: BTreeSet<u32> = words
                .filter(|word| word.in_use())
                .filter_map(|word| ObservedRing::of(word, capacity).number())
                .collect();
            let firsts: Vec<u32> = used.into_iter().map(|ring| ring * RING_CHUNKS).collect();
            let places = larger.rings.slices_mut(&firsts, RING_CHUNKS);
            for (place, first) in places.into_iter().zip(&firsts) {
                for (chunk, at) in place.iter_mut().zip(*first..) {
                    *chunk = smaller.rings.get(at);
                }
            }
        }
        if !names.contains(&BY_BACKEND.as_slice()) {
            return Ok(None);
        }
        // The process that grows maps is the one that writes them.
        larger.backends.keep_written();
        larger.backend_meta.keep_written();
        let slots = smaller.capacity().backends;
        for slot in 0..slots {
            larger.backends.set(slot, smaller.backends.get(slot));
            larger.backend_meta.set(slot, smaller.backend_meta.get(slot));
        }
        let counted = Copies::read(load::pinned(&self.instance, map::BACKEND_STATS)?, slots)?;
        let pin = self.instance.unfinished_pins().join(map::BACKEND_STATS);
        let name = map::BACKEND_STATS;
        counted
            .write(MapData::from_pin(pin).map_err(|error| DatapathError::Map { name, error })?)?;
        Ok(Some(counted))
    }

    /// Makes programs use the smaller maps again.
    fn shrink_back(&self, interfaces: &[Attached], attachments: &Attachments) {
        if rename(&self.instance.larger_pins(), &self.instance.unfinished_pins()).is_err() {
            return;
        }
        let attached = link_pins(&self.instance).unwrap_or_default();
        for interface in interfaces.iter().filter(|i| attached.contains(&LinkPin::of(i))) {
            let _ = self.attach_one(interface, attachments);
        }
        let _ = discard_unfinished(&self.instance);
    }
}

/// Removes larger maps that no program uses yet.
pub(super) fn discard_unfinished(instance: &Instance) -> Result<(), DatapathError> {
    let path = instance.unfinished_pins();
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(DatapathError::File { path, error })
        }
        _ => Ok(()),
    }
}

/// Moves the pins of larger maps, if there are any, to where the smaller ones' were. If
/// interrupted, the next call continues.
pub(super) fn finish(instance: &Instance) -> Result<(), DatapathError> {
    let path = instance.larger_pins();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DatapathError::File { path, error }),
    };
    // Listed before it changes.
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    for name in names {
        rename(&path.join(&name), &instance.pins().join("maps").join(&name))?;
    }
    fs::remove_dir(&path).map_err(|error| DatapathError::File { path, error })
}

fn rename(from: &PathBuf, to: &PathBuf) -> Result<(), DatapathError> {
    fs::rename(from, to).map_err(|error| DatapathError::File { path: to.clone(), error })
}

/// Opens maps by their pins, and again if pins were moved meanwhile: a reader never mixes maps of
/// two sizes.
pub(super) fn consistently<T>(
    instance: &Instance,
    open: impl Fn() -> Result<T, DatapathError>,
) -> Result<T, DatapathError> {
    let pins = || {
        let inode = |name: &&str| fs::metadata(instance.map_pin(name)).map(|pin| pin.ino()).ok();
        BY_BACKEND.iter().chain(&BY_RING).map(inode).collect::<Vec<_>>()
    };
    for _ in 1..ATTEMPTS {
        let before = pins();
        let opened = open();
        if pins() == before {
            return opened;
        }
    }
    open()
}
