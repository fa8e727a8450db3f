//! What the maps hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use director_common::{
    backend::{BackendRef, BackendState, BackendWord, ForwardMode, NextHop},
    service::{RING_CHUNKS, ServiceKey, ServiceWord},
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

/// A service in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedService {
    /// What identifies it.
    pub key: ServiceKey,
    /// Its name.
    pub name: String,
    /// Its ring and policy.
    pub word: ServiceWord,
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
    /// Slot of its service.
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
    /// Rings of services that were not read: a change to a few of many services leaves the others
    /// out.
    pub rings_of_others: BTreeSet<u32>,
}

/// The ring that a service's word points at.
pub fn ring_of(word: ServiceWord) -> Option<u32> {
    (word.slots() > 0).then(|| word.first_chunk() / RING_CHUNKS)
}

/// A [`ServiceKey`] with an order.
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
            rings_of_others: BTreeSet::new(),
        }
    }

    /// The same maps, enlarged to `capacity`.
    pub fn grown(&self, capacity: Capacity) -> Self {
        let mut grown = Self { capacity, ..self.clone() };
        grown.words.resize(capacity.backends as usize, BackendWord::default());
        grown
    }

    /// Whether a backend has this slot.
    pub(super) fn is_taken(&self, slot: u32) -> bool {
        self.backends.contains_key(&slot)
            || self.words[slot as usize].unpack().state != BackendState::Free
    }

    /// Backends of the service in `slot`, by slot.
    pub fn backends_of(&self, slot: u32) -> impl Iterator<Item = (u32, &ObservedBackend)> {
        self.backends.iter().filter(move |(_, b)| b.service == slot).map(|(slot, b)| (*slot, b))
    }

    /// Rings that no service's word points at.
    pub fn free_rings(&self) -> impl Iterator<Item = u32> {
        let mut used: BTreeSet<u32> =
            self.services.values().filter_map(|service| ring_of(service.word)).collect();
        used.extend(&self.rings_of_others);
        (0..self.capacity.rings).filter(move |ring| !used.contains(ring))
    }
}
