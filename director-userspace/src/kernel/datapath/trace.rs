//! Tracing of packets: the lease in TUNABLES that makes programs report, and the ring they report
//! to.

use std::{
    fs,
    mem::offset_of,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
};

use super::{
    Datapath, DatapathError, Instance, Sizes, clock_ns, grow,
    link::bpf,
    load,
    lock::{Lock, NotTaken},
    mmap::MappedArray,
    open::random_odd,
    tables::{AsPod, Fd},
};
use aya::{
    Pod,
    maps::{Map, MapData, PerCpuArray, PerCpuValues, RingBuf},
};
use director_common::{
    abi::map,
    interface::MAX_INTERFACES,
    trace::{TRACE_LEASE_NS, TraceFilter, TraceTurn},
    tunables::Tunables,
};

// SAFETY: repr(C), no implicit padding, valid for all bytes.
unsafe impl Pod for AsPod<TraceTurn> {}

/// Counts since a trace began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Packets that were inspected.
    pub looked_at: u64,
    /// Records that the ring had no room for.
    pub lost: u64,
}

/// A trace: packets are reported until it is dropped, or until two seconds after its last renewal.
pub struct Trace {
    instance: Instance,
    tunables: MappedArray<Tunables>,
    ring: RingBuf<MapData>,
    turns: PerCpuArray<MapData, AsPod<TraceTurn>>,
    before: TraceCounts,
    /// The inode of TUNABLES' pin: another one means that the traced director is gone.
    pin: u64,
    _lock: Lock,
}

impl Trace {
    /// Makes the instance's programs report packets that match `filter`, inspecting one in `every`.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Traced`] if another process traces, [`DatapathError::CannotTrace`] if the
    /// attached programs are from a director that cannot be traced; as [`Datapath::open`].
    pub fn start(
        datapath: &Datapath,
        every: u64,
        filter: TraceFilter,
    ) -> Result<Self, DatapathError> {
        let instance = datapath.instance.clone();
        if !instance.map_pin(map::TRACED).exists() {
            return Err(DatapathError::CannotTrace);
        }
        let lock = lock(&instance)?;
        let pin = pin(&instance).unwrap_or(0);
        let tunables = mapped(&instance, map::TUNABLES)?;
        let filters = mapped(&instance, map::TRACE_FILTER)?;
        let failed = |name| move |error| DatapathError::Map { name, error };
        let ring = Map::RingBuf(load::pinned(&instance, map::TRACE_RING)?);
        let ring = RingBuf::try_from(ring).map_err(failed(map::TRACE_RING))?;
        let turns = Map::PerCpuArray(load::pinned(&instance, map::TRACE_TURNS)?);
        let turns = PerCpuArray::try_from(turns).map_err(failed(map::TRACE_TURNS))?;
        let none = TraceCounts::default();
        let mut trace = Self { instance, tunables, ring, turns, before: none, pin, _lock: lock };
        // A killed process leaves a lease and a filter; programs do not read the filter once the
        // lease has ended.
        trace.stop();
        super::grace::wait();
        filters.set(0, filter);
        while trace.ring.next().is_some() {}
        make_traceable(&trace.instance, true)?;
        trace.begin_turns(every.max(1))?;
        trace.before = trace.totals()?;
        trace.tunables.publish(0, offset_of!(Tunables, trace_every), every.max(1));
        trace.renew()?;
        Ok(trace)
    }

    /// Makes each CPU start at a random packet, as the program continues at random distances.
    fn begin_turns(&mut self, every: u64) -> Result<(), DatapathError> {
        let failed = |error| DatapathError::Map { name: map::TRACE_TURNS, error };
        let mut turns = Vec::new();
        for turn in self.turns.get(&0, 0).map_err(failed)?.iter() {
            let left = 1 + random_odd()? / 2 % (2 * every - 1);
            turns.push(AsPod(TraceTurn { left, ..turn.0 }));
        }
        let turns = PerCpuValues::try_from(turns).map_err(|error| failed(error.into()))?;
        self.turns.set(0, turns, 0).map_err(failed)
    }

    /// Renews the lease; must be called at least once in two seconds.
    ///
    /// # Errors
    ///
    /// [`DatapathError::NotAttached`] if the director has been detached since.
    pub fn renew(&self) -> Result<(), DatapathError> {
        if pin(&self.instance) != Some(self.pin) {
            return Err(DatapathError::NotAttached(self.instance.name().into()));
        }
        make_traceable(&self.instance, false)?;
        let until = clock_ns() + TRACE_LEASE_NS;
        self.tunables.publish(0, offset_of!(Tunables, trace_until_ns), until);
        Ok(())
    }

    /// Makes programs stop reporting. Their records can still be read.
    pub fn stop(&self) {
        self.tunables.publish(0, offset_of!(Tunables, trace_until_ns), 0);
    }

    /// Passes the next record to `read`; returns whether there was one.
    pub fn next(&mut self, read: impl FnOnce(&[u8])) -> bool {
        match self.ring.next() {
            Some(record) => {
                read(&record);
                true
            }
            None => false,
        }
    }

    /// The counts so far.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn counts(&self) -> Result<TraceCounts, DatapathError> {
        let now = self.totals()?;
        Ok(TraceCounts {
            looked_at: now.looked_at.saturating_sub(self.before.looked_at),
            lost: now.lost.saturating_sub(self.before.lost),
        })
    }

    fn totals(&self) -> Result<TraceCounts, DatapathError> {
        let failed = |error| DatapathError::Map { name: map::TRACE_TURNS, error };
        let turns = self.turns.get(&0, 0).map_err(failed)?;
        let mut counts = TraceCounts::default();
        for turn in turns.iter() {
            counts.looked_at += turn.0.looked_at;
            counts.lost += turn.0.lost;
        }
        Ok(counts)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Datapath {
    /// How long packets are still traced without another renewal, in nanoseconds; `None` if they
    /// are not.
    pub fn traced_for_ns(&self) -> Option<u64> {
        let until = self.tables.tunables.get(0).trace_until_ns;
        until.checked_sub(clock_ns()).filter(|left| *left > 0)
    }
}

fn mapped<T: super::mmap::Shared>(
    instance: &Instance,
    name: &'static str,
) -> Result<MappedArray<T>, DatapathError> {
    let data = load::pinned(instance, name)?;
    MappedArray::new(Fd(&data), 1).map_err(|error| DatapathError::Mmap { name, error })
}

fn pin(instance: &Instance) -> Option<u64> {
    fs::metadata(instance.map_pin(map::TUNABLES)).map(|pin| pin.ino()).ok()
}

/// The part of `union bpf_attr` that `BPF_MAP_LOOKUP_ELEM` reads.
#[repr(C)]
struct Lookup {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_MAP_LOOKUP_ELEM` of linux/bpf.h.
const MAP_LOOKUP_ELEM: libc::c_int = 1;

/// Interface slots that have the tracing program.
fn traceable(instance: &Instance) -> Result<Vec<u32>, DatapathError> {
    let programs = load::pinned(instance, map::TRACED)?;
    let is_there = |slot: &u32| {
        let mut id = 0u32;
        let attr = Lookup {
            map_fd: programs.fd().as_fd().as_raw_fd() as u32,
            _pad: 0,
            key: std::ptr::from_ref(slot) as u64,
            value: (&raw mut id) as u64,
            flags: 0,
        };
        bpf(MAP_LOOKUP_ELEM, &attr).is_ok()
    };
    Ok((1..MAX_INTERFACES).filter(is_there).collect())
}

/// Loads the tracing program for each interface that has none, or (`again`) for all. Attaching
/// programs again removes these, since maps may have been replaced; if that happens meanwhile, the
/// pins show it.
fn make_traceable(instance: &Instance, again: bool) -> Result<(), DatapathError> {
    let there = if again { Vec::new() } else { traceable(instance)? };
    let datapath = Datapath::open(instance)?;
    let is_used = |slot: &u32| datapath.tables.interfaces.get(*slot).ifindex != 0;
    let missing = (1..MAX_INTERFACES).filter(|slot| is_used(slot) && !there.contains(slot));
    for slot in missing {
        grow::consistently(instance, || {
            let constants = datapath.constants(slot);
            let sizes = Sizes { table_bits: constants.table_bits, backends: 1, rings: 1 };
            let mut ebpf = load::load(sizes, &constants, Some(&|name| instance.map_pin(name)))?;
            load::verify_traced(&mut ebpf, slot)
        })?;
    }
    Ok(())
}

/// Takes the lock for tracing the instance, which one process holds at a time.
fn lock(instance: &Instance) -> Result<Lock, DatapathError> {
    let path = instance.run_dir().join("trace");
    Lock::take(&path).map_err(|why| match why {
        NotTaken::Held { holder } => DatapathError::Traced { holder },
        NotTaken::Failed(error) => DatapathError::File { path, error },
    })
}
