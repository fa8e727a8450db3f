//! The real program with maps of its own: nothing pinned, no interface.

use std::mem::offset_of;

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
    programs::ProgramFd,
};
use director_common::{
    abi::{ProgramMode, map},
    flow::HashKey,
    interface::Interface,
    tunables::Tunables,
};

use super::{
    DatapathError, Sizes, Tables, clock_ns,
    load::{self, Constants},
    object, open, test_run,
};
use crate::policy::{
    config::model::Config,
    plan::{Desired, diff},
};

/// The slot of the interface that frames come from.
const INTERFACE_SLOT: u32 = 1;

/// Which programs are loaded.
#[derive(Clone, Copy)]
pub(super) struct Programs<'a> {
    object: &'a [u8],
    /// Whether the tracing program is loaded too.
    traced: bool,
}

impl Programs<'static> {
    /// What a director attaches.
    pub(super) fn own() -> Self {
        Self { object: object::DIRECTOR, traced: false }
    }
}

/// The program, loaded for a configuration.
pub struct Standalone {
    pub(super) ebpf: Ebpf,
    /// The maps.
    pub tables: Tables,
}

impl Standalone {
    /// Loads the program as a director would attach it, and fills its maps from `desired`. Frames
    /// come from interface slot 1, which has these values.
    ///
    /// # Errors
    ///
    /// What the kernel refuses: needs the privilege to load BPF programs.
    pub fn new(
        config: &Config,
        desired: &Desired,
        interface: Interface,
    ) -> Result<Self, DatapathError> {
        Self::of(Programs::own(), config, desired, interface)
    }

    /// As [`Standalone::new`], with another build of the programs: an object file.
    ///
    /// # Errors
    ///
    /// As [`Standalone::new`].
    pub fn of_object(
        object: &[u8],
        config: &Config,
        desired: &Desired,
        interface: Interface,
    ) -> Result<Self, DatapathError> {
        Self::of(Programs { object, ..Programs::own() }, config, desired, interface)
    }

    /// As [`Standalone::new`], permanently tracing one packet in `every`; also returns the ring
    /// that it reports to.
    ///
    /// # Errors
    ///
    /// As [`Standalone::new`].
    pub fn traced(
        config: &Config,
        desired: &Desired,
        interface: Interface,
        every: u64,
    ) -> Result<(Self, RingBuf<MapData>), DatapathError> {
        let mut traced =
            Self::of(Programs { traced: true, ..Programs::own() }, config, desired, interface)?;
        let failed = |error| DatapathError::Map { name: map::TRACE_RING, error };
        let ring = Map::RingBuf(load::take_map(&mut traced.ebpf, map::TRACE_RING)?);
        let ring = RingBuf::try_from(ring).map_err(failed)?;
        let tunables = &traced.tables.tunables;
        tunables.publish(0, offset_of!(Tunables, trace_every), every.max(1));
        tunables.publish(0, offset_of!(Tunables, trace_until_ns), u64::MAX);
        Ok((traced, ring))
    }

    fn of(
        programs: Programs<'_>,
        config: &Config,
        desired: &Desired,
        interface: Interface,
    ) -> Result<Self, DatapathError> {
        let standalone = Self::load(programs, config, desired, Some(interface.macs[0]))?;
        standalone.tables.interfaces.set(INTERFACE_SLOT, interface);
        Ok(standalone)
    }

    /// Loads the programs for an interface with this MAC, or (`None`) for a simulation.
    pub(super) fn load(
        programs: Programs<'_>,
        config: &Config,
        desired: &Desired,
        own_mac: Option<u64>,
    ) -> Result<Self, DatapathError> {
        let mut sizes = Sizes::for_config(config);
        sizes.rings = u32::try_from(desired.services.len()).unwrap_or(0).max(1) * 2;
        let constants = Constants {
            hash_key: HashKey::expand(config.hash_key.0),
            table_salt: open::random_odd()?,
            table_bits: sizes.table_bits,
            interface_slot: INTERFACE_SLOT,
            own_mac: own_mac.unwrap_or(0),
            mode: if own_mac.is_some() { ProgramMode::Forward } else { ProgramMode::Simulate },
            clients: config.flows.clients,
        };
        let mut ebpf = load::load_object(programs.object, sizes, &constants, None)?;
        load::verify_both(&mut ebpf, INTERFACE_SLOT)?;
        if programs.traced {
            load::verify_traced(&mut ebpf, INTERFACE_SLOT)?;
        }
        let mut tables = Tables::open(|name| load::take_map(&mut ebpf, name))?;
        open::set_timeouts(&tables, &config.flows);
        // The heartbeat never becomes stale.
        let at = offset_of!(Tunables, heartbeat_ns);
        tables.tunables.publish(0, at, u64::MAX / 2);
        let plan = diff(&super::observe(&tables), desired, clock_ns())?;
        super::apply(&mut tables, &plan.ops)?;
        Ok(Self { ebpf, tables })
    }

    /// Brings the maps to `desired`, as a running director would.
    ///
    /// # Errors
    ///
    /// If a map is full or cannot be written.
    pub fn reconcile(&mut self, desired: &Desired) -> Result<(), DatapathError> {
        let plan = diff(&super::observe(&self.tables), desired, clock_ns())?;
        super::apply(&mut self.tables, &plan.ops)
    }

    /// Runs the program over one frame from the interface: its action (`XDP_*`), and the frame as it
    /// left it.
    ///
    /// # Errors
    ///
    /// [`DatapathError::FrameTooLong`], and what the kernel refuses.
    pub fn run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), DatapathError> {
        test_run::test_run(&mut self.ebpf, frame, 0, 1)
    }

    /// The loaded program's descriptor.
    ///
    /// # Errors
    ///
    /// If the descriptor cannot be duplicated.
    pub fn program(&mut self) -> Result<ProgramFd, DatapathError> {
        load::descriptor(&mut self.ebpf, object::PROGRAM)
    }
}
