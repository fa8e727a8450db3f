//! What the maps hold, for `plan::diff` and for those who look.

use std::collections::BTreeMap;

use director_common::{
    address::Address,
    backend::{BackendRef, BackendState},
    flow::Family,
    service::{PRESENCE, Service, ServiceKey},
};

use super::Tables;
use crate::plan::{Observed, ObservedBackend, ObservedService};

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
    let leads_astray = |key: &ServiceKey, slot: u32| {
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
        if leads_astray(key, *slot) {
            stray_keys.push(*key);
        } else if key.family & PRESENCE != 0 {
            presence.insert((*key).into(), *slot);
        }
    }
    let capacity = tables.capacity();
    let mut words = Vec::with_capacity(capacity.backends as usize);
    let mut backends = BTreeMap::new();
    for slot in 0..capacity.backends {
        let backend = tables.backends.get(slot);
        words.push(backend.word);
        let fields = backend.word.unpack();
        if slot == 0 || fields.state == BackendState::Free {
            continue;
        }
        let family = if fields.is_v6 { Family::V6 } else { Family::V4 };
        let note = tables.backend_notes.get(slot);
        backends.insert(
            slot,
            ObservedBackend {
                service: u32::from(fields.service),
                reference: BackendRef::new(slot, fields.generation),
                state: fields.state,
                address: backend.address.to_ip(family),
                weight: note.weight as u16,
                forward: fields.forward,
                fixed_next_hop: fields.fixed_next_hop,
                next_hop: backend.next_hop,
                source: backend.sources[usize::from(fields.source)].to_ip(family),
                source_place: fields.source,
                mtu: fields.mtu,
                drain_deadline_ns: note.drain_deadline_ns,
            },
        );
    }
    Observed { capacity, services, backends, words, presence, stray_keys }
}

fn observed_service(
    tables: &Tables,
    slot: u32,
    service: &Service,
    is_shown: bool,
) -> ObservedService {
    let note = tables.service_notes.get(slot);
    let end = note.name.iter().position(|byte| *byte == 0).unwrap_or(note.name.len());
    ObservedService {
        key: service.key,
        name: String::from_utf8_lossy(&note.name[..end]).into_owned(),
        word: service.word,
        drain_timeout_s: service.drain_timeout_s,
        ring_fingerprint: service.ring_fingerprint,
        is_shown,
    }
}

/// A key in an order: that of its parts.
fn bytes_of(key: &ServiceKey) -> (Address, [u8; 2], u8, u8) {
    (key.address, key.port, key.protocol, key.family)
}
