//! Reads the maps' contents, for `plan::diff` and for commands that show them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem::offset_of,
    sync::atomic::Ordering,
};

use director_common::{
    address::Address,
    backend::{Backend, BackendRef, BackendState, BackendWord},
    flow::Family,
    service::{PRESENCE, Service, ServiceKey},
};

use super::Tables;
use crate::policy::{
    plan::{Observed, ObservedBackend, ObservedService, ring_of},
    scheduler::Scheduler,
};

/// Reads services and backends.
pub fn observe(tables: &Tables) -> Observed {
    let keys: BTreeMap<_, _> = tables
        .keys
        .iter()
        .filter_map(Result::ok)
        .map(|(key, slot)| (bytes_of(&key.0), (key.0, slot)))
        .collect();
    let services: BTreeMap<u32, ObservedService> = (0..tables.services.len())
        .map(|slot| (slot, tables.services.get(slot)))
        .filter(|(_, service)| service.word.in_use())
        .map(|(slot, service)| {
            let shown = keys.get(&bytes_of(&service.key)).map(|(_, slot)| *slot);
            (slot, observed_service(tables, slot, &service, shown == Some(slot)))
        })
        .collect();
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
    for (key, slot) in keys.values() {
        if is_stray(key, *slot) {
            stray_keys.push(*key);
        } else if key.family & PRESENCE != 0 {
            presence.insert((*key).into(), *slot);
        }
    }
    let (words, backends) = observed_backends(tables, |_| true);
    Observed {
        capacity: tables.capacity(),
        services,
        backends,
        words,
        presence,
        stray_keys,
        rings_of_others: BTreeSet::new(),
    }
}

/// Reads the services with these keys and their backends, in maps that only this process has
/// changed since they were known to be consistent: every service counts as shown.
pub fn observe_some(tables: &Tables, keys: &HashSet<ServiceKey>) -> Observed {
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
            rings_of_others.extend(ring_of(service.word));
        }
    }
    let (words, backends) = observed_backends(tables, |slot| services.contains_key(&slot));
    Observed {
        capacity: tables.capacity(),
        services,
        backends,
        words,
        presence: BTreeMap::new(),
        stray_keys: Vec::new(),
        rings_of_others,
    }
}

/// All slots' words, and the backends of those services that are `wanted`.
fn observed_backends(
    tables: &Tables,
    wanted: impl Fn(u32) -> bool,
) -> (Vec<BackendWord>, BTreeMap<u32, ObservedBackend>) {
    let word_at = offset_of!(Backend, word);
    let word = |slot| BackendWord(tables.backends.word(slot, word_at).load(Ordering::Acquire));
    let words: Vec<BackendWord> = (0..tables.capacity().backends).map(word).collect();
    let in_use = (0u32..).zip(&words).skip(1).filter(|(_, word)| {
        let fields = word.unpack();
        fields.state != BackendState::Free && wanted(u32::from(fields.service))
    });
    let backends = in_use.map(|(slot, word)| (slot, observed_backend(tables, slot, *word)));
    let backends = backends.collect();
    (words, backends)
}

fn observed_backend(tables: &Tables, slot: u32, word: BackendWord) -> ObservedBackend {
    let fields = word.unpack();
    let backend = tables.backends.get(slot);
    let family = if fields.is_v6 { Family::V6 } else { Family::V4 };
    let meta = tables.backend_meta.get(slot);
    ObservedBackend {
        service: u32::from(fields.service),
        reference: BackendRef::new(slot, fields.generation),
        state: fields.state,
        address: backend.address.to_ip(family),
        weight: meta.weight as u16,
        forward: fields.forward,
        fixed_next_hop: fields.fixed_next_hop,
        next_hop: backend.next_hop,
        source: backend.sources[usize::from(fields.source)].to_ip(family),
        source_place: fields.source,
        mtu: fields.mtu,
        drain_deadline_ns: meta.drain_deadline_ns,
    }
}

fn observed_service(
    tables: &Tables,
    slot: u32,
    service: &Service,
    is_shown: bool,
) -> ObservedService {
    let meta = tables.service_meta.get(slot);
    let end = meta.name.iter().position(|byte| *byte == 0).unwrap_or(meta.name.len());
    ObservedService {
        key: service.key,
        name: String::from_utf8_lossy(&meta.name[..end]).into_owned(),
        word: service.word,
        scheduler: Scheduler::from_number(meta.scheduler),
        drain_timeout_s: service.drain_timeout_s,
        ring_fingerprint: service.ring_fingerprint,
        is_shown,
    }
}

/// A key's parts, by which keys are ordered.
fn bytes_of(key: &ServiceKey) -> (Address, [u8; 2], u8, u8) {
    (key.address, key.port, key.protocol, key.family)
}
