//! What the maps hold, as far as it is valid: an index out of a map is checked here, once, and what
//! no version writes is listed as damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use director_common::{
    backend::{BackendRef, BackendState, BackendWord, ForwardMode, NextHop},
    service::{RING_CHUNKS, RING_SLOTS, ServiceKey, ServiceWord, WhenEmpty},
};

use crate::policy::scheduler::Scheduler;

/// How many entries the maps can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Service slots.
    pub services: u32,
    /// Backend slots, the unused slot 0 included.
    pub backends: u32,
    /// Rings.
    pub rings: u32,
}

/// What a service's word says about its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedRing {
    /// No backend takes new flows.
    None,
    /// This ring, all of its slots.
    Whole(u32),
    /// A word that no version writes, or a ring that several services name: the one, if it exists,
    /// at which packets begin to read.
    Damaged(Option<u32>),
}

impl ObservedRing {
    /// Reads a word, for maps of this capacity.
    pub fn of(word: ServiceWord, capacity: Capacity) -> Self {
        let (first, slots) = (word.first_chunk(), word.slots());
        let is_exact = ServiceWord::new(first, slots, word.when_empty()) == word;
        let ring = first / RING_CHUNKS;
        match slots {
            0 if is_exact && first == 0 => Self::None,
            RING_SLOTS
                if is_exact && first.is_multiple_of(RING_CHUNKS) && ring < capacity.rings =>
            {
                Self::Whole(ring)
            }
            _ => Self::Damaged(Some(ring).filter(|ring| slots > 0 && *ring < capacity.rings)),
        }
    }

    /// The ring that packets read.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Whole(ring) => Some(ring),
            Self::Damaged(ring) => ring,
        }
    }
}

/// A service in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedService {
    /// What identifies it.
    pub key: ServiceKey,
    /// Its name.
    pub name: String,
    /// Its ring.
    pub ring: ObservedRing,
    /// What a new flow gets without one.
    pub when_empty: WhenEmpty,
    /// How new flows are placed; `None` for a number unknown to this version.
    pub scheduler: Option<Scheduler>,
    /// Seconds that removed backends drain.
    pub drain_timeout_s: u64,
    /// What its ring was built from: see [`super::ring_fingerprint`].
    pub ring_fingerprint: u64,
    /// Whether lookups find it: its key leads here.
    pub is_shown: bool,
}

/// A backend in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBackend {
    /// Slot of its service, within the maps' capacity.
    pub service: u32,
    /// Slot and generation.
    pub reference: BackendRef,
    /// Active, draining or down.
    pub state: BackendState,
    /// Its address.
    pub address: IpAddr,
    /// Its share of new flows.
    pub weight: u16,
    /// How packets travel to it.
    pub forward: Option<ForwardMode>,
    /// Whether the configuration fixes the next hop.
    pub fixed_next_hop: bool,
    /// Egress interface and MAC address of the next hop.
    pub next_hop: NextHop,
    /// Source of the outer header; unspecified if it has none.
    pub source: IpAddr,
    /// Which of the two slots for a source holds it.
    pub source_place: u8,
    /// Bytes of IP packet that fit; 0: unknown.
    pub mtu: u16,
    /// When its flows are rescheduled, if it drains: CLOCK_MONOTONIC, nanoseconds.
    pub drain_deadline_ns: u64,
    /// Whether the rest of the entry is as this version writes it: reserved bits, unused bytes of
    /// addresses.
    pub is_exact: bool,
}

/// Everything the maps hold, by slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The capacity of the maps.
    pub capacity: Capacity,
    /// Services in use.
    pub services: BTreeMap<u32, ObservedService>,
    /// Backends in use.
    pub backends: BTreeMap<u32, ObservedBackend>,
    /// Every backend slot's word, also of free slots: they keep the generation.
    pub words: Vec<BackendWord>,
    /// Presence keys, and the service slots they name: see
    /// [`director_common::service::PRESENCE`].
    pub presence: BTreeMap<PresenceKey, u32>,
    /// Keys that lead to no service with that key: left by a process that died.
    pub stray_keys: Vec<ServiceKey>,
    /// What another process wrote.
    pub damaged: Damaged,
}

/// Slots whose entries no version writes; they are neither free nor of use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damaged {
    /// Service slots, and the rings that packets read by them.
    pub services: BTreeMap<u32, Option<u32>>,
    /// Backend slots.
    pub backends: BTreeSet<u32>,
}

/// What the maps hold of some services. The others are there, and unknown: this says only which
/// slots and rings they take, so that a plan made from it can change these services, and neither add
/// nor remove any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSome {
    /// The capacity of the maps.
    pub capacity: Capacity,
    /// The services that were asked for.
    pub services: BTreeMap<u32, ObservedService>,
    /// Their backends.
    pub backends: BTreeMap<u32, ObservedBackend>,
    /// Every backend slot's word.
    pub words: Vec<BackendWord>,
    /// Rings of the other services.
    pub rings_of_others: BTreeSet<u32>,
}

/// A [`ServiceKey`] with the port left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PresenceKey {
    /// See [`ServiceKey`].
    pub address: director_common::address::Address,
    /// See [`ServiceKey`].
    pub protocol: u8,
    /// See [`ServiceKey`].
    pub family: u8,
}

impl From<ServiceKey> for PresenceKey {
    fn from(key: ServiceKey) -> Self {
        let key = key.presence();
        Self { address: key.address, protocol: key.protocol, family: key.family }
    }
}

impl From<PresenceKey> for ServiceKey {
    fn from(key: PresenceKey) -> Self {
        Self {
            address: key.address,
            port: [0; 2],
            protocol: key.protocol,
            family: key.family,
            _pad: [0; 4],
        }
    }
}

impl Observed {
    /// Empty maps of this capacity.
    pub fn empty(capacity: Capacity) -> Self {
        Self {
            capacity,
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            words: vec![BackendWord::default(); capacity.backends as usize],
            presence: BTreeMap::new(),
            stray_keys: Vec::new(),
            damaged: Damaged::default(),
        }
    }

    /// Backends of the service in `slot`, by slot.
    pub fn backends_of(&self, slot: u32) -> impl Iterator<Item = (u32, &ObservedBackend)> {
        self.backends.iter().filter(move |(_, b)| b.service == slot).map(|(slot, b)| (*slot, b))
    }

    /// Rings that no service's word points at.
    pub fn free_rings(&self) -> impl Iterator<Item = u32> {
        let mut used: BTreeSet<u32> =
            self.services.values().filter_map(|service| service.ring.number()).collect();
        used.extend(self.damaged.services.values().flatten());
        (0..self.capacity.rings).filter(move |ring| !used.contains(ring))
    }
}

/// What a plan is made from: all services, or some.
pub trait View {
    /// The capacity of the maps.
    fn capacity(&self) -> Capacity;
    /// The services that are known.
    fn services(&self) -> &BTreeMap<u32, ObservedService>;
    /// Their backends.
    fn backends(&self) -> &BTreeMap<u32, ObservedBackend>;
    /// Every backend slot's word.
    fn words(&self) -> &[BackendWord];
    /// Whether a backend, of whichever service, has this slot, or had it.
    fn is_taken(&self, slot: u32) -> bool;
    /// Rings that no service has.
    fn free_rings(&self) -> Vec<u32>;
    /// Everything, if it is known: only then services can be added and removed.
    fn whole(&self) -> Option<&Observed>;
    /// The same maps, enlarged.
    #[must_use]
    fn grown(&self, capacity: Capacity) -> Self;
}

impl View for Observed {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn services(&self) -> &BTreeMap<u32, ObservedService> {
        &self.services
    }

    fn backends(&self) -> &BTreeMap<u32, ObservedBackend> {
        &self.backends
    }

    fn words(&self) -> &[BackendWord] {
        &self.words
    }

    fn is_taken(&self, slot: u32) -> bool {
        self.backends.contains_key(&slot)
            || self.damaged.backends.contains(&slot)
            || is_in_use(&self.words, slot)
    }

    fn free_rings(&self) -> Vec<u32> {
        Self::free_rings(self).collect()
    }

    fn whole(&self) -> Option<&Observed> {
        Some(self)
    }

    fn grown(&self, capacity: Capacity) -> Self {
        let mut grown = Self { capacity, ..self.clone() };
        grown.words.resize(capacity.backends as usize, BackendWord::default());
        grown
    }
}

impl View for ObservedSome {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn services(&self) -> &BTreeMap<u32, ObservedService> {
        &self.services
    }

    fn backends(&self) -> &BTreeMap<u32, ObservedBackend> {
        &self.backends
    }

    fn words(&self) -> &[BackendWord] {
        &self.words
    }

    fn is_taken(&self, slot: u32) -> bool {
        self.backends.contains_key(&slot) || is_in_use(&self.words, slot)
    }

    fn free_rings(&self) -> Vec<u32> {
        let mut used = self.rings_of_others.clone();
        used.extend(self.services.values().filter_map(|service| service.ring.number()));
        (0..self.capacity.rings).filter(|ring| !used.contains(ring)).collect()
    }

    fn whole(&self) -> Option<&Observed> {
        None
    }

    fn grown(&self, capacity: Capacity) -> Self {
        let mut grown = Self { capacity, ..self.clone() };
        grown.words.resize(capacity.backends as usize, BackendWord::default());
        grown
    }
}

fn is_in_use(words: &[BackendWord], slot: u32) -> bool {
    words.get(slot as usize).is_some_and(|word| word.unpack().state != BackendState::Free)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity { services: 4, backends: 16, rings: 6 };

    #[test]
    fn rings_of_words() {
        let word = |first, slots| ServiceWord::new(first, slots, WhenEmpty::Drop);
        for (word, ring) in [
            (word(0, 0), ObservedRing::None),
            (word(0, RING_SLOTS), ObservedRing::Whole(0)),
            (word(5 * RING_CHUNKS, RING_SLOTS), ObservedRing::Whole(5)),
            (word(6 * RING_CHUNKS, RING_SLOTS), ObservedRing::Damaged(None)),
            (word(RING_CHUNKS, 0), ObservedRing::Damaged(None)),
            (word(RING_CHUNKS, 1), ObservedRing::Damaged(Some(1))),
            (word(RING_CHUNKS + 1, RING_SLOTS), ObservedRing::Damaged(Some(1))),
            (word(u32::MAX, 0xff_ffff), ObservedRing::Damaged(None)),
            (word(0, 0xff_ffff), ObservedRing::Damaged(Some(0))),
            (ServiceWord(word(0, RING_SLOTS).0 | 1 << 58), ObservedRing::Damaged(Some(0))),
            (ServiceWord(word(0, 0).0 | 3 << 56), ObservedRing::Damaged(None)),
            (ServiceWord(u64::MAX), ObservedRing::Damaged(None)),
        ] {
            assert_eq!(ObservedRing::of(word, CAPACITY), ring, "{:#x}", word.0);
        }
    }

    /// Of a word with one other bit, the ring is another, or damaged; never the same.
    #[test]
    fn each_bit_of_a_word_counts() {
        for slots in [0, RING_SLOTS] {
            let word = ServiceWord::new(if slots == 0 { 0 } else { RING_CHUNKS }, slots, {
                WhenEmpty::Reject
            });
            let is = |word: ServiceWord| {
                (ObservedRing::of(word, CAPACITY), word.when_empty(), word.in_use())
            };
            for bit in 0..64 {
                assert_ne!(is(ServiceWord(word.0 ^ 1 << bit)), is(word), "bit {bit}");
            }
        }
    }
}
