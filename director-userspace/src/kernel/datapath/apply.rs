//! Applies a plan, step by step, in the order that packets must see.

use std::{mem::offset_of, net::IpAddr};

use director_common::{
    abi::map,
    address::Address,
    backend::{
        Backend, BackendFields, BackendMeta, BackendRef, BackendState, BackendWord, GENERATIONS,
    },
    service::{NAME_LEN, RING_CHUNKS, RING_SLOTS, Service, ServiceMeta, ServiceWord},
    stats::{BackendStats, ServiceStats},
};

use super::{DatapathError, Tables, grace, rings, tables::AsPod};
use crate::policy::{
    config::model::Availability,
    plan::{BackendSpec, Op, Presence, ring_fingerprint},
    scheduler::Scheduler,
};

/// Applies the steps of a plan, or some of them in their order. May stop after any step (an error,
/// a crash): packets find consistent maps, and the next plan has what is missing. On return no
/// packet holds anything that the steps replaced.
///
/// # Errors
///
/// Only system calls on the services' keys and on counters can fail.
pub fn apply(tables: &mut Tables, ops: &[Op]) -> Result<(), DatapathError> {
    // No packet reads these places until their services' words point at them.
    let built = rings::build(&mut tables.rings, ops);
    tables.ring_sums.set(built);
    let mut unlinked = false;
    let result = ops.iter().try_for_each(|op| {
        match op {
            Op::SetRing { .. } | Op::HideService { .. } => unlinked = true,
            // A packet that read the old ring, or found the service, may still be in flight.
            Op::FreeBackend { .. } | Op::StopBackend { .. } | Op::ResetBackend { .. }
                if unlinked =>
            {
                grace::wait();
                unlinked = false;
            }
            _ => {}
        }
        step(tables, op)
    });
    let removes = |op: &Op| matches!(op, Op::RemoveService { .. } | Op::ResetService { .. });
    if ops.iter().any(removes) {
        super::filter::rebuild(tables);
    }
    if !ops.is_empty() {
        // Also after an error: the next plan reuses what this one freed.
        grace::wait();
    }
    result
}

fn step(tables: &mut Tables, op: &Op) -> Result<(), DatapathError> {
    match op {
        Op::RemoveStrayKey(key) => tables.keys.remove(*key)?,
        Op::AddService { slot, key, name, drain_timeout_s, scheduler, when_empty } => {
            tables.service_meta.set(*slot, service_meta(name, *scheduler));
            zero_service_stats(tables, *slot)?;
            let service =
                Service { key: *key, drain_timeout_s: *drain_timeout_s, ..Service::default() };
            tables.services.set(*slot, service);
            publish_service(tables, *slot, ServiceWord::new(0, 0, *when_empty));
        }
        Op::SetServiceMeta { slot, name, drain_timeout_s, scheduler, .. } => {
            let retired = tables.service_meta.get(*slot).retired;
            tables
                .service_meta
                .set(*slot, ServiceMeta { retired, ..service_meta(name, *scheduler) });
            let at = offset_of!(Service, drain_timeout_s);
            tables.services.publish(*slot, at, *drain_timeout_s);
        }
        Op::AddBackend { reference, service, spec } => {
            add_backend(tables, *reference, *service, spec)?;
        }
        Op::SetBackend { reference, service, spec, source_place, state, .. } => {
            set_backend(tables, *reference, *service, spec, *source_place, *state);
        }
        Op::SetRing { service, ring, scheduler, members, when_empty, .. } => {
            let word = match ring {
                Some(ring) => ServiceWord::new(ring * RING_CHUNKS, RING_SLOTS, *when_empty),
                None => ServiceWord::new(0, 0, *when_empty),
            };
            // If the process ends between these, the ring is built again.
            let at = offset_of!(Service, ring_fingerprint);
            tables.services.publish(*service, at, 0);
            publish_service(tables, *service, word);
            tables.services.publish(
                *service,
                at,
                ring_fingerprint(*scheduler, members, *when_empty),
            );
        }
        Op::ShowService { slot, key } => {
            super::filter::admit(tables, key);
            // The service counts as shown by its own key, so that comes last.
            if !tables.keys.contains(key.presence()) {
                tables.keys.insert(key.presence(), *slot)?;
            }
            tables.keys.insert(*key, *slot)?;
        }
        Op::DrainBackend { reference, deadline_ns, .. } => {
            let slot = reference.slot();
            let meta =
                BackendMeta { drain_deadline_ns: *deadline_ns, ..tables.backend_meta.get(slot) };
            tables.backend_meta.set(slot, BackendMeta { weight: 0, ..meta });
            publish_state(tables, slot, BackendState::Draining);
        }
        Op::StopBackend { reference, .. } => {
            publish_state(tables, reference.slot(), BackendState::Down);
        }
        Op::MoveBackend { reference, next_hop, mtu, .. } => {
            let (slot, at) = (reference.slot(), offset_of!(Backend, next_hop));
            tables.backends.publish(slot, at, next_hop.0);
            let fields = tables.backends.get(slot).word.unpack();
            let fields = BackendFields { mtu: *mtu, ..fields };
            publish_backend(tables, slot, BackendWord::pack(fields));
        }
        Op::FreeBackend { reference, service, .. } => free_backend(tables, *reference, *service)?,
        Op::HideService { key, presence, .. } => {
            tables.keys.remove(*key)?;
            match presence {
                Presence::Keep => {}
                Presence::Move(slot) => tables.keys.insert(key.presence(), *slot)?,
                Presence::Remove => tables.keys.remove(key.presence())?,
            }
        }
        Op::RemoveService { slot } | Op::ResetService { slot } => {
            publish_service(tables, *slot, ServiceWord::default());
        }
        Op::ResetBackend { reference } => {
            // Whatever its counters and its service were.
            publish_backend(tables, reference.slot(), free_word(*reference));
        }
    }
    Ok(())
}

fn service_meta(name: &str, scheduler: Scheduler) -> ServiceMeta {
    let mut bytes = [0; NAME_LEN + 1];
    let length = name.len().min(NAME_LEN);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    ServiceMeta {
        name: bytes,
        retired: BackendStats::default(),
        scheduler: scheduler as u8,
        _pad: [0; 31],
    }
}

fn publish_service(tables: &Tables, slot: u32, word: ServiceWord) {
    tables.services.publish(slot, offset_of!(Service, word), word.0);
}

fn publish_backend(tables: &Tables, slot: u32, word: BackendWord) {
    tables.backends.publish(slot, offset_of!(Backend, word), word.0);
}

fn publish_state(tables: &Tables, slot: u32, state: BackendState) {
    let fields = tables.backends.get(slot).word.unpack();
    publish_backend(tables, slot, BackendWord::pack(BackendFields { state, ..fields }));
}

fn source_address(spec: &BackendSpec) -> Address {
    spec.path.source.map_or_else(Address::default, Address::from)
}

fn word(
    reference: BackendRef,
    service: u32,
    spec: &BackendSpec,
    source_place: u8,
    state: BackendState,
) -> BackendWord {
    BackendWord::pack(BackendFields {
        generation: reference.generation(),
        state,
        forward: Some(spec.forward),
        is_v6: matches!(spec.address, IpAddr::V6(_)),
        fixed_next_hop: spec.fixed_next_hop,
        source: source_place,
        service: service as u16,
        mtu: spec.path.mtu,
    })
}

fn meta(service: u32, spec: &BackendSpec) -> BackendMeta {
    let is_v6 = matches!(spec.address, IpAddr::V6(_));
    BackendMeta {
        drain_deadline_ns: 0,
        weight: u32::from(spec.weight),
        check: BackendMeta::check_of(spec.address.into(), is_v6, service as u16),
    }
}

fn add_backend(
    tables: &mut Tables,
    reference: BackendRef,
    service: u32,
    spec: &BackendSpec,
) -> Result<(), DatapathError> {
    let slot = reference.slot();
    tables.backend_meta.set(slot, meta(service, spec));
    // In its first generation a slot has counted nothing yet: maps start as zeros. (The last
    // generation's end leaves zeros too: see `free_backend`.)
    if reference.generation() != 0 {
        zero_backend_stats(tables, slot)?;
    }
    // The free word of the slot stays until the rest is written.
    let free = tables.backends.get(slot).word;
    tables.backends.set(
        slot,
        Backend {
            word: free,
            next_hop: spec.path.next_hop,
            address: spec.address.into(),
            sources: [source_address(spec), Address::default()],
        },
    );
    let state = match spec.availability {
        Availability::Available => BackendState::Active,
        Availability::Down => BackendState::Down,
    };
    publish_backend(tables, slot, word(reference, service, spec, 0, state));
    Ok(())
}

fn set_backend(
    tables: &Tables,
    reference: BackendRef,
    service: u32,
    spec: &BackendSpec,
    source_place: u8,
    state: BackendState,
) {
    let slot = reference.slot();
    tables.backend_meta.set(slot, meta(service, spec));
    // The place that the word does not name; two words, which no packet reads until it does.
    let at = offset_of!(Backend, sources) + usize::from(source_place) * size_of::<Address>();
    let source = source_address(spec);
    tables.backends.publish(slot, at, source.first);
    tables.backends.publish(slot, at + 8, source.second);
    tables.backends.publish(slot, offset_of!(Backend, next_hop), spec.path.next_hop.0);
    publish_backend(tables, slot, word(reference, service, spec, source_place, state));
}

/// The word of the slot's next use.
fn free_word(reference: BackendRef) -> BackendWord {
    BackendWord::pack(BackendFields {
        generation: (reference.generation() + 1) % GENERATIONS,
        state: BackendState::Free,
        ..BackendWord::default().unpack()
    })
}

fn free_backend(
    tables: &mut Tables,
    reference: BackendRef,
    service: u32,
) -> Result<(), DatapathError> {
    let slot = reference.slot();
    let free = free_word(reference);
    let next = free.generation();
    publish_backend(tables, slot, free);
    // What it forwarded stays with the service.
    if tables.services.get(service).word.in_use() {
        let mut meta = tables.service_meta.get(service);
        meta.retired.add(&super::stats::backend_total(tables, slot)?);
        tables.service_meta.set(service, meta);
    }
    if next == 0 {
        grace::wait();
        zero_backend_stats(tables, slot)?;
    }
    Ok(())
}

fn of(name: &'static str) -> impl Fn(aya::maps::MapError) -> DatapathError {
    move |error| DatapathError::Map { name, error }
}

fn zero_backend_stats(tables: &mut Tables, slot: u32) -> Result<(), DatapathError> {
    super::stats::zero(&mut tables.backend_stats, slot, AsPod(BackendStats::default()))
        .map_err(of(map::BACKEND_STATS))
}

fn zero_service_stats(tables: &mut Tables, slot: u32) -> Result<(), DatapathError> {
    super::stats::zero(&mut tables.service_stats, slot, AsPod(ServiceStats::default()))
        .map_err(of(map::SERVICE_STATS))
}
