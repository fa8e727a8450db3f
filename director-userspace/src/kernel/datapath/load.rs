//! Loading the object: sizes, load-time constants, pins.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{ProgramFd, Xdp},
};
use director_common::{
    abi::{ProgramMode, constant, map},
    flow::HashKey,
    flow_table::SET_WAYS,
    service::{MAX_SERVICES, RING_CHUNKS},
};
use nix::time::{ClockId, clock_getres};

use super::{DatapathError, Instance, object};
use crate::policy::{config::model::Config, plan::Capacity};

/// Entries of the flow table for each flow that it is sized for, as a binary logarithm. With four,
/// 0.4 % of that many flows find their set full (Poisson, sets of four) and seven in eight are in
/// their preferred way; with two, 4 % and three in four; with one, 20 % find no entry.
pub(super) const SPARE_BITS: u32 = 2;

/// Maps that the explaining program does not share.
const NOT_EXPLAINED: [&str; 7] = [
    map::SLOW_PATH,
    map::FLOW_KEYS,
    map::TRACED,
    map::TRACE_FILTER,
    map::TRACE_TURNS,
    map::TRACE_SCRATCH,
    map::TRACE_RING,
];

/// The sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Binary logarithm of the flow table's sets of four.
    pub table_bits: u32,
    /// Backend slots.
    pub backends: u32,
    /// Rings of 256 KiB.
    pub rings: u32,
}

impl Sizes {
    /// The largest sizes of maps.
    pub const LARGEST: Capacity =
        Capacity { services: MAX_SERVICES, backends: 1 << 20, rings: 2 * MAX_SERVICES };

    /// What the configuration needs and an eighth more; at least a few thousand backends and a few
    /// dozen rings. Maps are grown when that does not suffice.
    pub fn for_config(config: &Config) -> Self {
        let services = config.services.len() as u32;
        let backends: usize = config.services.iter().map(|s| s.backends.len()).sum();
        let backends = u32::try_from(backends).unwrap_or(u32::MAX / 4);
        Self {
            table_bits: (config.flows.size / SET_WAYS as u32).trailing_zeros() + SPARE_BITS,
            backends: (backends + backends / 8 + 64).clamp(4096, Self::LARGEST.backends),
            rings: (services + services / 8 + 64).min(Self::LARGEST.rings),
        }
    }
}

impl Sizes {
    /// What fits maps of these sizes.
    pub fn capacity(&self) -> Capacity {
        Capacity { services: MAX_SERVICES, backends: self.backends, rings: self.rings }
    }
}

/// The load-time constants of a copy of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Constants {
    pub(super) hash_key: HashKey,
    pub(super) table_salt: u64,
    pub(super) table_bits: u32,
    pub(super) interface_slot: u32,
    pub(super) own_mac: u64,
    pub(super) mode: ProgramMode,
    /// Whether clients are tracked.
    pub(super) clients: bool,
}

/// Loads maps (reused from `pins`, else pinned there) and programs, which are not verified yet.
pub(super) fn load(
    sizes: Sizes,
    constants: &Constants,
    pins: Option<&dyn Fn(&str) -> PathBuf>,
) -> Result<Ebpf, DatapathError> {
    load_object(object::DIRECTOR, sizes, constants, pins)
}

/// As [`load`], with another build of the programs.
pub(super) fn load_object(
    object: &[u8],
    sizes: Sizes,
    constants: &Constants,
    pins: Option<&dyn Fn(&str) -> PathBuf>,
) -> Result<Ebpf, DatapathError> {
    let (mode, clients) = (constants.mode as u32, u32::from(constants.clients));
    let (jiffy_ns, first_jiffy) = timer();
    let mut loader = EbpfLoader::new();
    // The program reads no kernel structure that would need relocation; reading the kernel's types
    // for that takes longer than everything else.
    loader
        .btf(None)
        .override_global(constant::HASH_KEY, &constants.hash_key.words, true)
        .override_global(constant::TABLE_SALT, &constants.table_salt, true)
        .override_global(constant::TABLE_BITS, &constants.table_bits, true)
        .override_global(constant::INTERFACE_SLOT, &constants.interface_slot, true)
        .override_global(constant::OWN_MAC, &constants.own_mac, true)
        .override_global(constant::JIFFY_NS, &jiffy_ns, true)
        .override_global(constant::FIRST_JIFFY, &first_jiffy, true)
        .override_global(constant::PROGRAM_MODE, &mode, true)
        .override_global(constant::TRACK_CLIENTS, &clients, true)
        .map_max_entries(map::FLOWS, 1 << sizes.table_bits)
        .map_max_entries(map::FLOW_KEYS, if constants.clients { 1 << sizes.table_bits } else { 1 })
        .map_max_entries(map::BACKENDS, sizes.backends)
        .map_max_entries(map::BACKEND_META, sizes.backends)
        .map_max_entries(map::BACKEND_STATS, sizes.backends)
        .map_max_entries(map::RINGS, sizes.rings * RING_CHUNKS);
    if let Some(pin) = pins {
        // The explaining program reads the live maps, and calls programs of its own.
        let own =
            |name: &str| constants.mode == ProgramMode::Explain && NOT_EXPLAINED.contains(&name);
        for name in map::PINNED.into_iter().filter(|name| !own(name)) {
            loader.map_pin_path(name, pin(name));
        }
    }
    Ok(loader.load(object)?)
}

/// Jiffies: nanoseconds between two ticks of the kernel's timer, and the initial count (since 2.5,
/// minus five minutes as a 32-bit number, so that overflows show early).
fn timer() -> (u64, u64) {
    // The clock exists on every Linux.
    let jiffy_ns = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(4_000_000, |resolution| resolution.tv_nsec().max(1) as u64);
    let hertz = (1_000_000_000 + jiffy_ns / 2) / jiffy_ns;
    (jiffy_ns, u64::from((300 * hertz as u32).wrapping_neg()))
}

/// Verifies a program of the object.
pub(super) fn verify<'a>(
    ebpf: &'a mut Ebpf,
    program: &'static str,
) -> Result<&'a mut Xdp, DatapathError> {
    let xdp = program_of(ebpf, program)?;
    xdp.load().map_err(|error| DatapathError::Program { program, error })?;
    Ok(xdp)
}

/// A program of the object.
pub(super) fn program_of<'a>(
    ebpf: &'a mut Ebpf,
    program: &'static str,
) -> Result<&'a mut Xdp, DatapathError> {
    let not_found = || aya::programs::ProgramError::InvalidName { name: program.into() };
    let found = ebpf.program_mut(program).ok_or_else(not_found).and_then(TryInto::try_into);
    found.map_err(|error| DatapathError::Program { program, error })
}

/// Verifies the forwarding program and the slow path, and puts the latter into its program array:
/// from then on, every program with the same interface slot calls it.
pub(super) fn verify_both(ebpf: &mut Ebpf, interface_slot: u32) -> Result<&mut Xdp, DatapathError> {
    verify(ebpf, object::PROGRAM)?;
    verify_called(ebpf, object::SLOW_PATH, map::SLOW_PATH, interface_slot)?;
    program_of(ebpf, object::PROGRAM)
}

/// Verifies the tracing program and puts it into its program array, as [`verify_both`] does.
pub(super) fn verify_traced(ebpf: &mut Ebpf, interface_slot: u32) -> Result<(), DatapathError> {
    verify_called(ebpf, object::TRACED, map::TRACED, interface_slot)
}

fn verify_called(
    ebpf: &mut Ebpf,
    program: &'static str,
    name: &'static str,
    interface_slot: u32,
) -> Result<(), DatapathError> {
    verify(ebpf, program)?;
    let called = descriptor(ebpf, program)?;
    let failed = |error| DatapathError::Map { name, error };
    program_array(ebpf, name)?.set(interface_slot, &called, 0).map_err(failed)
}

/// Stops tracing packets of the interface in this slot.
pub(super) fn clear_traced(ebpf: &mut Ebpf, interface_slot: u32) -> Result<(), DatapathError> {
    // There may be none.
    let _ = program_array(ebpf, map::TRACED)?.clear_index(&interface_slot);
    Ok(())
}

/// The program array called `name`.
fn program_array<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<ProgramArray<&'a mut MapData>, DatapathError> {
    let not_found = || aya::maps::MapError::InvalidName { name: name.into() };
    let found = ebpf.map_mut(name).ok_or_else(not_found).and_then(TryInto::try_into);
    found.map_err(|error| DatapathError::Map { name, error })
}

/// A descriptor of a program that was loaded before.
pub(super) fn descriptor(
    ebpf: &mut Ebpf,
    program: &'static str,
) -> Result<ProgramFd, DatapathError> {
    let failed = |error| DatapathError::Program { program, error };
    let xdp = program_of(ebpf, program)?;
    let fd = xdp.fd().map_err(failed)?;
    fd.try_clone().map_err(|error| failed(aya::programs::ProgramError::IOError(error)))
}

/// The pinned map `name`.
pub(super) fn pinned(instance: &Instance, name: &'static str) -> Result<MapData, DatapathError> {
    MapData::from_pin(instance.map_pin(name)).map_err(|error| DatapathError::Map { name, error })
}

/// The map `name` of a loaded object.
pub(super) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, DatapathError> {
    use aya::maps::Map;
    let not_found = || aya::maps::MapError::InvalidName { name: name.into() };
    let failed = |error| DatapathError::Map { name, error };
    match ebpf.take_map(name).ok_or_else(not_found).map_err(failed)? {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::DevMapHash(data)
        | Map::RingBuf(data) => Ok(data),
        _ => Err(failed(not_found())),
    }
}
