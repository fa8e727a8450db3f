//! Counters of many backends in one system call, where the kernel supports it (5.13 for per-CPU
//! arrays).

use std::{
    cell::UnsafeCell,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuValues};
use director_common::{abi::map, stats::BackendStats};

use super::{
    DatapathError, link,
    stats::cpus,
    tables::{AsPod, Fd},
};

/// `BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_UPDATE_BATCH` of linux/bpf.h.
const LOOKUP_BATCH: libc::c_int = 24;
const UPDATE_BATCH: libc::c_int = 26;

/// The part of `union bpf_attr` that batches read and write.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Counters of the first slots of a map: every CPU's copy, slot by slot.
pub(super) struct Copies {
    cpus: usize,
    values: Vec<BackendStats>,
}

impl Copies {
    /// Reads the first `slots` of the map behind `data`.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn read(data: MapData, slots: u32) -> Result<Self, DatapathError> {
        let failed = |error| DatapathError::Map { name: map::BACKEND_STATS, error };
        let cpus = cpus().map_err(failed)?;
        let mut values = vec![BackendStats::default(); cpus * slots as usize];
        if lookup(&data, &mut values, slots).is_ok() {
            return Ok(Self { cpus, values });
        }
        let map = one_by_one(data)?;
        for (slot, copies) in (0u32..).zip(values.chunks_mut(cpus)) {
            let read = map.get(&slot, 0).map_err(failed)?;
            for (copy, value) in copies.iter_mut().zip(read.iter()) {
                *copy = value.0;
            }
        }
        Ok(Self { cpus, values })
    }

    /// Writes them into the map behind `data`, which has at least as many slots.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(super) fn write(&self, data: MapData) -> Result<(), DatapathError> {
        let failed = |error| DatapathError::Map { name: map::BACKEND_STATS, error };
        if update(&data, &self.values, self.cpus).is_ok() {
            return Ok(());
        }
        let mut map = one_by_one(data)?;
        for (slot, copies) in (0u32..).zip(self.values.chunks(self.cpus)) {
            let values =
                PerCpuValues::try_from(copies.iter().map(|c| AsPod(*c)).collect::<Vec<_>>())
                    .map_err(|error| failed(MapError::from(error)))?;
            map.set(slot, values, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// What was counted since `before`, by slot, summed over CPUs; slots without counts are left
    /// out.
    pub(super) fn since(&self, before: &Self) -> Vec<(u32, BackendStats)> {
        let total = |copies: &[BackendStats]| {
            copies.iter().fold(BackendStats::default(), |mut total, copy| {
                total.add(copy);
                total
            })
        };
        let pairs = self.values.chunks(self.cpus).zip(before.values.chunks(self.cpus));
        let differences = pairs.map(|(now, then)| {
            let (now, then) = (total(now), total(then));
            BackendStats {
                packets: now.packets.wrapping_sub(then.packets),
                bytes: now.bytes.wrapping_sub(then.bytes),
                flows: now.flows.wrapping_sub(then.flows),
                _pad: 0,
            }
        });
        (0u32..).zip(differences).filter(|(_, stats)| *stats != BackendStats::default()).collect()
    }
}

fn one_by_one(data: MapData) -> Result<PerCpuArray<MapData, AsPod<BackendStats>>, DatapathError> {
    PerCpuArray::try_from(aya::maps::Map::PerCpuArray(data))
        .map_err(|error| DatapathError::Map { name: map::BACKEND_STATS, error })
}

fn lookup(data: &MapData, values: &mut [BackendStats], slots: u32) -> io::Result<()> {
    let mut keys = vec![0u32; slots as usize];
    let mut next = 0u32;
    let batch = UnsafeCell::new(Batch {
        in_batch: 0,
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: slots,
        map_fd: Fd(data).as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    });
    // The kernel writes the count into the request, `slots` keys, every CPU's value for each, and a
    // key into `next`.
    link::bpf(LOOKUP_BATCH, &batch)?;
    // An array returns its values in order; any other order means another type of map.
    if keys.iter().zip(0u32..).any(|(key, slot)| *key != slot) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}

fn update(data: &MapData, values: &[BackendStats], cpus: usize) -> io::Result<()> {
    let keys: Vec<u32> = (0u32..).take(values.len() / cpus).collect();
    let batch = UnsafeCell::new(Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: Fd(data).as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    });
    link::bpf(UPDATE_BATCH, &batch).map(drop)
}
