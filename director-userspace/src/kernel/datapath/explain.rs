//! Predicts the verdict of a packet: a copy of the program over the live maps, which records its
//! decision and writes nothing else.

use aya::Ebpf;
use director_common::{
    abi::{ProgramMode, map},
    backend::{Backend, BackendRef, BackendWord},
    flow::{FlowHash, FlowKey},
    flow_table::{FlowState, SET_WAYS},
    interface::{Interface, MAX_INTERFACES},
    service::{Service, ServiceMeta},
    tunables::{TICK_SHIFT, Ticks, Tunables},
};

use super::{
    Datapath, DatapathError, Instance, Outcome, Sizes, clock_ns, grow,
    load::{self, Constants},
    mmap::MappedArray,
    tables::Fd,
    test_run::test_run,
};

/// A flow table entry, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The backend that it names.
    pub backend: BackendRef,
    /// The flow's state.
    pub state: FlowState,
    /// Milliseconds since it was last seen, to about a second.
    pub idle_ms: u64,
    /// Its set.
    pub set: u32,
    /// Its way in the set, from 0.
    pub place: usize,
}

/// The copy of the program that explains, for packets received on one interface.
pub struct Explainer {
    ebpf: Ebpf,
    decision: MappedArray<[u64; 2]>,
    datapath: Datapath,
    interface: u32,
    frames: u64,
}

impl Explainer {
    /// Loads the copy for packets received on the interface with this index, or on the first
    /// interface.
    ///
    /// # Errors
    ///
    /// [`DatapathError::NotAttached`], [`DatapathError::NotOn`] if the director is not on the
    /// interface, and whatever the kernel refuses.
    pub fn new(instance: &Instance, interface: Option<(u32, &str)>) -> Result<Self, DatapathError> {
        // Maps may be growing: never mixes maps of two sizes.
        grow::consistently(instance, || Self::load(instance, interface))
    }

    fn load(instance: &Instance, interface: Option<(u32, &str)>) -> Result<Self, DatapathError> {
        let datapath = Datapath::open(instance)?;
        let ifindex = |slot: &u32| datapath.tables.interfaces.get(*slot).ifindex;
        let mut slots = (1..MAX_INTERFACES).filter(|slot| ifindex(slot) != 0);
        let slot = match interface {
            Some((index, name)) => slots
                .find(|slot| ifindex(slot) == index)
                .ok_or_else(|| DatapathError::NotOn(name.into()))?,
            None => slots.next().ok_or(DatapathError::NotAttached(instance.name().into()))?,
        };
        let constants =
            Constants { mode: ProgramMode::Explain, clients: false, ..datapath.constants(slot) };
        let sizes = Sizes { table_bits: constants.table_bits, backends: 1, rings: 1 };
        let mut ebpf = load::load(sizes, &constants, Some(&|name| instance.map_pin(name)))?;
        load::verify_both(&mut ebpf, slot)?;
        let decision = load::take_map(&mut ebpf, map::DECISION)?;
        let decision = MappedArray::new(Fd(&decision), 1)
            .map_err(|error| DatapathError::Mmap { name: map::DECISION, error })?;
        Ok(Self { ebpf, decision, datapath, interface: slot, frames: 0 })
    }

    /// The verdict of this frame if it were received now. Nothing is written: no counter, no flow.
    ///
    /// # Errors
    ///
    /// [`DatapathError::FrameTooLong`], and what the kernel refuses.
    pub fn explain(&mut self, frame: &[u8]) -> Result<Outcome, DatapathError> {
        self.frames += 1;
        let (_, left) = test_run(&mut self.ebpf, frame, 0, self.frames)?;
        Ok(Outcome::of(self.decision.get(0), left))
    }

    /// The maps that are read.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// The slot of the receiving interface.
    pub fn interface_slot(&self) -> u32 {
        self.interface
    }

    /// The hash of a flow.
    pub fn hash(&self, flow: &FlowKey) -> FlowHash {
        flow.hash(&self.datapath.tables.meta().hash_key)
    }

    /// The flow table's entry of a flow, whatever its age.
    pub fn entry(&self, hash: FlowHash) -> Option<Entry> {
        let tables = &self.datapath.tables;
        let meta = tables.meta();
        let set = hash.table_set(meta.table_salt, meta.table_bits);
        let entries = tables.flows.get(set).entries;
        let place = (0..SET_WAYS).find(|place| entries[*place].is_of(hash))?;
        let last_seen = entries[place].last_seen();
        let age = last_seen.age(Ticks::from_ns(clock_ns()));
        Some(Entry {
            backend: entries[place].backend(),
            state: last_seen.state(),
            idle_ms: (u64::from(age.0) << TICK_SHIFT) / 1_000_000,
            set,
            place,
        })
    }

    /// The service in a slot, and its name.
    pub fn service(&self, slot: u32) -> (Service, String) {
        let tables = &self.datapath.tables;
        (tables.services.get(slot), name_of(&tables.service_meta.get(slot)))
    }

    /// The backend in a slot.
    pub fn backend(&self, slot: u32) -> Backend {
        self.datapath.tables.backends.get(slot)
    }

    /// The backend of a reference, unless its slot has been reused.
    pub fn resolve(&self, reference: BackendRef) -> Option<Backend> {
        let backends = &self.datapath.tables.backends;
        if reference.is_none() || reference.slot() >= backends.len() {
            return None;
        }
        let backend = backends.get(reference.slot());
        BackendWord(backend.word.0).is(reference).then_some(backend)
    }

    /// The interface in a slot.
    pub fn interface(&self, slot: u32) -> Interface {
        self.datapath.tables.interfaces.get(slot & (MAX_INTERFACES - 1))
    }

    /// The tunables.
    pub fn tunables(&self) -> Tunables {
        self.datapath.tables.tunables.get(0)
    }
}

/// A service's name from its metadata.
pub(super) fn name_of(meta: &ServiceMeta) -> String {
    let end = meta.name.iter().position(|byte| *byte == 0).unwrap_or(meta.name.len());
    String::from_utf8_lossy(&meta.name[..end]).into_owned()
}
