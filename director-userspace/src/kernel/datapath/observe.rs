//! Reads the maps' contents, for `plan::diff` and for commands that show them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem::offset_of,
};

use director_common::{
    address::Address,
    backend::{Backend, BackendMeta, BackendRef, BackendState, BackendWord},
    flow::{Family, Protocol},
    service::{PRESENCE, Service, ServiceKey},
};

use super::Tables;
use crate::policy::{
    plan::{
        Capacity, Damaged, Observed, ObservedBackend, ObservedRing, ObservedService, ObservedSome,
    },
    scheduler::Scheduler,
};

/// Reads services and backends.
pub fn observe(tables: &Tables) -> Observed {
    let capacity = tables.capacity();
    let keys = tables.keys.all();
    let (services, damaged_services) = observed_services(tables, &keys);
    let is_stray = |key: &ServiceKey, slot: u32| {
        services.get(&slot).is_none_or(|service| {
            if key.family & PRESENCE == 0 {
                service.key != *key
            } else {
                service.key.presence() != *key
            }
        })
    };
    let mut presence = BTreeMap::new();
    let mut stray_keys = Vec::new();
    for (key, slot) in &keys {
        if is_stray(key, *slot) {
            stray_keys.push(*key);
        } else if key.family & PRESENCE != 0 {
            presence.insert((*key).into(), *slot);
        }
    }
    let words = words(tables);
    let mut backends = BTreeMap::new();
    let mut damaged = Damaged { services: damaged_services, backends: BTreeSet::new() };
    for (slot, word) in (0u32..).zip(&words) {
        match Entry::of(tables, capacity, slot, *word) {
            Entry::Free => {}
            Entry::Backend(backend) => {
                backends.insert(slot, backend);
            }
            Entry::Damaged => {
                damaged.backends.insert(slot);
            }
        }
    }
    Observed { capacity, services, backends, words, presence, stray_keys, damaged }
}

/// Reads the services with these keys and their backends, in maps that only this process has
/// changed since they were known to be consistent: every service counts as shown.
pub fn observe_some(tables: &Tables, keys: &HashSet<ServiceKey>) -> ObservedSome {
    let capacity = tables.capacity();
    let mut services = BTreeMap::new();
    let mut rings_of_others = BTreeSet::new();
    for slot in 0..tables.services.len() {
        let service = tables.services.get(slot);
        if !service.word.in_use() {
            continue;
        }
        if keys.contains(&service.key) {
            services.insert(slot, observed_service(tables, slot, &service, true));
        } else {
            rings_of_others.extend(ObservedRing::of(service.word, capacity).number());
        }
    }
    let words = words(tables);
    let of_these = (0u32..)
        .zip(&words)
        .filter(|(_, word)| !is_free(**word) && services.contains_key(&u32::from(word.service())));
    let backends = of_these
        .filter_map(|(slot, word)| match Entry::of(tables, capacity, slot, *word) {
            Entry::Backend(backend) => Some((slot, backend)),
            Entry::Free | Entry::Damaged => None,
        })
        .collect();
    ObservedSome { capacity, services, backends, words, rings_of_others }
}

fn words(tables: &Tables) -> Vec<BackendWord> {
    let at = offset_of!(Backend, word);
    (0..tables.capacity().backends)
        .map(|slot| BackendWord(tables.backends.load(slot, at)))
        .collect()
}

fn is_free(word: BackendWord) -> bool {
    word.unpack().state == BackendState::Free
}

/// Services in use, and damaged slots with the rings that packets may read by them.
fn observed_services(
    tables: &Tables,
    keys: &BTreeMap<ServiceKey, u32>,
) -> (BTreeMap<u32, ObservedService>, BTreeMap<u32, Option<u32>>) {
    let capacity = tables.capacity();
    let mut services: BTreeMap<u32, ObservedService> = BTreeMap::new();
    let mut damaged = BTreeMap::new();
    let mut by_key: HashMap<ServiceKey, u32> = HashMap::new();
    let mut by_ring: HashMap<u32, u32> = HashMap::new();
    for slot in 0..tables.services.len() {
        let service = tables.services.get(slot);
        let ring = ObservedRing::of(service.word, capacity).number();
        if !service.word.in_use() {
            if service.word.0 != 0 {
                damaged.insert(slot, None);
            }
            continue;
        }
        let is_shown = keys.get(&service.key) == Some(&slot);
        if !is_possible(&service.key) {
            damaged.insert(slot, ring);
            continue;
        }
        // Of two with the same key, the one that packets find.
        match by_key.get(&service.key) {
            Some(other) if is_shown => {
                if let Some(other_service) = services.remove(other) {
                    damaged.insert(*other, other_service.ring.number());
                }
            }
            Some(_) => {
                damaged.insert(slot, ring);
                continue;
            }
            None => {}
        }
        by_key.insert(service.key, slot);
        let observed = observed_service(tables, slot, &service, is_shown);
        if let Some(ring) = observed.ring.number() {
            *by_ring.entry(ring).or_default() += 1;
        }
        services.insert(slot, observed);
    }
    // A ring is one service's: at least one of these words is damaged, and which is unknown.
    for service in services.values_mut() {
        if let ObservedRing::Whole(ring) = service.ring
            && by_ring.get(&ring).is_some_and(|n| *n > 1)
        {
            service.ring = ObservedRing::Damaged(Some(ring));
        }
    }
    (services, damaged)
}

/// Whether some configuration has a service with this key.
fn is_possible(key: &ServiceKey) -> bool {
    let is_address = match key.family {
        family if family == Family::V4 as u8 => {
            Address::from(key.address.to_ip(Family::V4)) == key.address
        }
        family => family == Family::V6 as u8,
    };
    is_address && Protocol::from_number(key.protocol).is_some() && key._pad == [0; 4]
}

/// What a backend's slot holds.
enum Entry {
    Free,
    Backend(ObservedBackend),
    /// What no version writes, or an address that the slot did not get from one.
    Damaged,
}

impl Entry {
    fn of(tables: &Tables, capacity: Capacity, slot: u32, word: BackendWord) -> Self {
        let fields = word.unpack();
        if fields.state == BackendState::Free {
            let free = BackendWord(u64::from(fields.generation));
            return if word == free { Self::Free } else { Self::Damaged };
        }
        let service = u32::from(fields.service);
        let backend = tables.backends.get(slot);
        let family = if fields.is_v6 { Family::V6 } else { Family::V4 };
        let address = backend.address.to_ip(family);
        let meta = tables.backend_meta.get(slot);
        let check = BackendMeta::check_of(backend.address, fields.is_v6, fields.service);
        if slot == 0
            || service >= capacity.services
            || Address::from(address) != backend.address
            || (meta.check != 0 && meta.check != check)
        {
            return Self::Damaged;
        }
        let source = backend.sources[usize::from(fields.source) & 1];
        let is_exact = BackendWord::pack(fields) == word
            && Address::from(source.to_ip(family)) == source
            && meta.check != 0
            && meta.weight <= u32::from(u16::MAX);
        Self::Backend(ObservedBackend {
            service,
            reference: BackendRef::new(slot, fields.generation),
            state: fields.state,
            address,
            weight: meta.weight as u16,
            forward: fields.forward,
            fixed_next_hop: fields.fixed_next_hop,
            next_hop: backend.next_hop,
            source: source.to_ip(family),
            source_place: fields.source,
            mtu: fields.mtu,
            drain_deadline_ns: meta.drain_deadline_ns,
            is_exact,
        })
    }
}

fn observed_service(
    tables: &Tables,
    slot: u32,
    service: &Service,
    is_shown: bool,
) -> ObservedService {
    let meta = tables.service_meta.get(slot);
    ObservedService {
        key: service.key,
        name: super::explain::name_of(&meta),
        ring: ObservedRing::of(service.word, tables.capacity()),
        when_empty: service.word.when_empty(),
        scheduler: Scheduler::from_number(meta.scheduler),
        drain_timeout_s: service.drain_timeout_s,
        ring_fingerprint: service.ring_fingerprint,
        is_shown,
    }
}
