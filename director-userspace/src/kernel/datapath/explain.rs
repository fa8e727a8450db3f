//! What would become of a packet: a copy of the program over the live maps, which records what it
//! decides and writes nothing else.

use aya::Ebpf;
use director_common::{
    abi::map,
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

/// A flow table entry, as somebody reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The backend that it names.
    pub backend: BackendRef,
    /// How far the flow has come.
    pub state: FlowState,
    /// Milliseconds since it was seen, to about a second.
    pub idle_ms: u64,
    /// Its set.
    pub set: u32,
    /// Its place in the set, from 0.
    pub place: usize,
}

/// The program that explains, for packets that would come by one interface.
pub struct Explainer {
    ebpf: Ebpf,
    decision: MappedArray<[u64; 2]>,
    datapath: Datapath,
    interface: u32,
    asked: u64,
}

impl Explainer {
    /// Loads the copy for packets that come by the interface with this index, or by the first one
    /// that there is.
    ///
    /// # Errors
    ///
    /// [`DatapathError::NotAttached`], [`DatapathError::NotOn`] if the director does not know the
    /// interface, and whatever the kernel refuses.
    pub fn new(instance: &Instance, interface: Option<(u32, &str)>) -> Result<Self, DatapathError> {
        // Not with maps of two sizes, should they be growing.
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
        let constants = Constants { explain: true, clients: false, ..datapath.constants(slot) };
        let sizes = Sizes { table_bits: constants.table_bits, backends: 1, rings: 1 };
        let mut ebpf = load::load(sizes, &constants, Some(&|name| instance.map_pin(name)))?;
        load::verify_both(&mut ebpf, slot)?;
        let decision = load::taken(&mut ebpf, map::DECISION)?;
        let decision = MappedArray::new(Fd(&decision), 1)
            .map_err(|error| DatapathError::Mmap { name: map::DECISION, error })?;
        Ok(Self { ebpf, decision, datapath, interface: slot, asked: 0 })
    }

    /// What would become of this frame, if it came now. Nothing is written: no counter, no flow.
    ///
    /// # Errors
    ///
    /// [`DatapathError::FrameTooLong`], and what the kernel refuses.
    pub fn ask(&mut self, frame: &[u8]) -> Result<Outcome, DatapathError> {
        self.asked += 1;
        let (_, left) = test_run(&mut self.ebpf, frame, 0, self.asked)?;
        Ok(Outcome::of(self.decision.get(0), left))
    }

    /// The maps that are asked.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// The slot of the interface that packets would come by.
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
        (tables.services.get(slot), name_of(&tables.service_notes.get(slot)))
    }

    /// The backend in a slot.
    pub fn backend(&self, slot: u32) -> Backend {
        self.datapath.tables.backends.get(slot)
    }

    /// The backend that a reference means, if its slot is not another's by now.
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

    /// The knobs.
    pub fn tunables(&self) -> Tunables {
        self.datapath.tables.tunables.get(0)
    }
}

/// A service's name, as its note has it.
pub(super) fn name_of(note: &ServiceMeta) -> String {
    let end = note.name.iter().position(|byte| *byte == 0).unwrap_or(note.name.len());
    String::from_utf8_lossy(&note.name[..end]).into_owned()
}
