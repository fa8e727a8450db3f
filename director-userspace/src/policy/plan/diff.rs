//! The steps from the observed to the desired state.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use director_common::{
    backend::{BackendRef, BackendState, NextHop},
    service::ServiceKey,
};

use super::{
    BackendSpec, Capacity, Desired, DesiredService, Member, Observed, ObservedBackend, Op, PathKey,
    Paths, Plan, Presence, observed::PresenceKey, ring_fingerprint,
};
use crate::policy::config::model::Availability;

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A map is full.
    #[error("no room for {what}: the maps hold at most {capacity}")]
    Full {
        /// "services", "backends" or "rings".
        what: &'static str,
        /// How many fit.
        capacity: u32,
    },
}

/// The steps from `observed` to `desired`; `now_ns` is CLOCK_MONOTONIC. What is not in `desired`
/// is removed: services at once, backends after their service's drain timeout.
///
/// # Errors
///
/// [`PlanError::Full`]; nothing must be applied then.
pub fn diff(observed: &Observed, desired: &Desired, now_ns: u64) -> Result<Plan, PlanError> {
    let mut backends: HashMap<u32, Vec<&ObservedBackend>> = HashMap::new();
    for backend in observed.backends.values() {
        backends.entry(backend.service).or_default().push(backend);
    }
    let mut free_rings: Vec<u32> = observed.free_rings().collect();
    free_rings.reverse();
    let mut differ = Differ {
        observed,
        backends,
        now_ns,
        free_services: free(observed.capacity.services, |slot| {
            observed.services.contains_key(&slot)
        }),
        free_backends: None,
        free_rings,
        plan: Plan::default(),
        deferred: Vec::new(),
    };
    differ.run(desired)?;
    Ok(differ.plan)
}

/// As [`diff`], for maps that can be made larger, up to `most`: the plan, and the capacity that it
/// needs, which is `observed`'s own if that suffices.
///
/// # Errors
///
/// [`PlanError::Full`] if not even `most` suffices.
pub fn diff_growing(
    observed: &Observed,
    desired: &Desired,
    now_ns: u64,
    most: Capacity,
) -> Result<(Plan, Capacity), PlanError> {
    let mut capacity = observed.capacity;
    let mut result = diff(observed, desired, now_ns);
    // Room for the present and the desired entries always suffices; much of it is free afterwards.
    let larger = |there: usize, wanted: usize, most: u32| {
        let need = u64::try_from(there + wanted).unwrap_or(u64::MAX);
        u32::try_from(need + need / 8 + 64).unwrap_or(u32::MAX).min(most)
    };
    loop {
        match result {
            Err(PlanError::Full { what: "backends", .. }) if capacity.backends < most.backends => {
                let taken =
                    (1..observed.capacity.backends).filter(|n| observed.is_taken(*n)).count();
                let wanted = desired.services.iter().map(|service| service.backends.len()).sum();
                capacity.backends = larger(taken, wanted, most.backends).max(capacity.backends + 1);
            }
            Err(PlanError::Full { what: "rings", .. }) if capacity.rings < most.rings => {
                let there = observed.capacity.rings as usize - observed.free_rings().count();
                capacity.rings =
                    larger(there, desired.services.len(), most.rings).max(capacity.rings + 1);
            }
            result => return Ok((result?, capacity)),
        }
        result = diff(&observed.grown(capacity), desired, now_ns);
    }
}

/// Numbers below `capacity` that are not taken, the lowest last.
fn free(capacity: u32, taken: impl Fn(u32) -> bool) -> Vec<u32> {
    (0..capacity).rev().filter(|slot| !taken(*slot)).collect()
}

/// Free backend slots, the least used last, which is taken first: a generation comes back only
/// after all slots have used all generations.
fn free_backends(observed: &Observed) -> Vec<u32> {
    let taken = |slot| slot == 0 || observed.is_taken(slot);
    let mut slots = free(observed.capacity.backends, taken);
    slots.sort_by_key(|slot| Reverse((observed.words[*slot as usize].generation(), *slot)));
    slots
}

fn free_backend(backend: &ObservedBackend) -> Op {
    Op::FreeBackend {
        reference: backend.reference,
        service: backend.service,
        address: backend.address,
    }
}

struct Differ<'a> {
    observed: &'a Observed,
    /// By service.
    backends: HashMap<u32, Vec<&'a ObservedBackend>>,
    now_ns: u64,
    free_services: Vec<u32>,
    /// Computed when the first one is needed: most changes need none.
    free_backends: Option<Vec<u32>>,
    free_rings: Vec<u32>,
    plan: Plan,
    /// Steps at the end of the plan.
    deferred: Vec<Op>,
}

impl Differ<'_> {
    fn run(&mut self, desired: &Desired) -> Result<(), PlanError> {
        for key in &self.observed.stray_keys {
            self.plan.ops.push(Op::RemoveStrayKey(*key));
        }
        let by_key: HashMap<ServiceKey, u32> =
            self.observed.services.iter().map(|(slot, s)| (s.key, *slot)).collect();
        let wanted: BTreeMap<u32, &DesiredService> = desired
            .services
            .iter()
            .filter_map(|service| Some((*by_key.get(&service.key)?, service)))
            .collect();

        // All steps of a kind together: a grace period separates the kinds.
        let removed = self.observed.services.keys().filter(|slot| !wanted.contains_key(slot));
        let removed: Vec<u32> = removed.copied().collect();
        for slot in &removed {
            self.hide_service(*slot, &wanted);
        }
        for slot in &removed {
            for backend in self.backends.remove(slot).unwrap_or_default() {
                self.plan.ops.push(free_backend(backend));
            }
        }
        self.plan.ops.extend(removed.iter().map(|slot| Op::RemoveService { slot: *slot }));
        // A backend without a service: a process died between two steps.
        for backend in self.observed.backends.values() {
            if !self.observed.services.contains_key(&backend.service) {
                self.plan.ops.push(free_backend(backend));
            }
        }
        for service in &desired.services {
            match by_key.get(&service.key) {
                Some(slot) => self.update_service(*slot, service, &desired.paths)?,
                None => self.add_service(service)?,
            }
        }
        self.plan.ops.append(&mut self.deferred);
        Ok(())
    }

    fn hide_service(&mut self, slot: u32, wanted: &BTreeMap<u32, &DesiredService>) {
        let service = &self.observed.services[&slot];
        let shared = PresenceKey::from(service.key);
        let presence = if self.observed.presence.get(&shared) == Some(&slot) {
            let successor = wanted.iter().find(|(_, other)| PresenceKey::from(other.key) == shared);
            successor.map_or(Presence::Remove, |(slot, _)| Presence::Move(*slot))
        } else {
            Presence::Keep
        };
        self.plan.ops.push(Op::HideService {
            slot,
            key: service.key,
            name: service.name.clone(),
            presence,
        });
    }

    fn add_service(&mut self, service: &DesiredService) -> Result<(), PlanError> {
        let capacity = self.observed.capacity.services;
        let slot =
            self.free_services.pop().ok_or(PlanError::Full { what: "services", capacity })?;
        self.plan.ops.push(Op::AddService {
            slot,
            key: service.key,
            name: service.name.clone(),
            drain_timeout_s: service.drain_timeout.as_secs(),
            scheduler: service.scheduler,
            when_empty: service.when_empty,
        });
        let mut members = Vec::new();
        for spec in &service.backends {
            members.push(self.add_backend(slot, spec)?);
        }
        self.set_ring(slot, service, &members)?;
        self.plan.ops.push(Op::ShowService { slot, key: service.key });
        Ok(())
    }

    fn update_service(
        &mut self,
        slot: u32,
        service: &DesiredService,
        paths: &Paths,
    ) -> Result<(), PlanError> {
        let observed = &self.observed.services[&slot];
        let drain_timeout_s = service.drain_timeout.as_secs();
        let is_same = observed.name == service.name
            && observed.scheduler == Some(service.scheduler)
            && observed.drain_timeout_s == drain_timeout_s;
        if !is_same {
            self.plan.ops.push(Op::SetServiceMeta {
                scheduler: service.scheduler,
                slot,
                key: service.key,
                name: service.name.clone(),
                drain_timeout_s,
            });
        }
        let present = self.backends.remove(&slot).unwrap_or_default();
        // Usually both lists are in the same order.
        let mut by_address: Option<HashMap<IpAddr, &ObservedBackend>> = None;
        let mut kept = 0;
        let mut members = Vec::with_capacity(service.backends.len());
        for (at, spec) in service.backends.iter().enumerate() {
            let backend = match present.get(at) {
                Some(backend) if backend.address == spec.address => Some(*backend),
                _ => by_address
                    .get_or_insert_with(|| present.iter().map(|b| (b.address, *b)).collect())
                    .get(&spec.address)
                    .copied(),
            };
            kept += usize::from(backend.is_some());
            members.push(match backend {
                Some(backend) => self.set_backend(slot, backend, spec),
                None => self.add_backend(slot, spec)?,
            });
        }
        let ring_members: Vec<Member> = members.iter().filter(|m| m.weight > 0).copied().collect();
        if observed.ring_fingerprint
            != ring_fingerprint(service.scheduler, &ring_members, service.when_empty)
        {
            self.set_ring(slot, service, &members)?;
        }
        // Only after no ring names them any more.
        for (spec, member) in service
            .backends
            .iter()
            .zip(&members)
            .filter(|(spec, _)| spec.availability == Availability::Down)
        {
            let reference = member.reference;
            let present = self.observed.backends.get(&reference.slot());
            if present.is_some_and(|present| present.state != BackendState::Down) {
                self.plan.ops.push(Op::StopBackend { reference, address: spec.address });
            }
        }
        if !observed.is_shown {
            self.plan.ops.push(Op::ShowService { slot, key: service.key });
        }
        if kept == present.len() {
            return Ok(());
        }
        let wanted: BTreeSet<IpAddr> = service.backends.iter().map(|spec| spec.address).collect();
        for backend in present.iter().filter(|backend| !wanted.contains(&backend.address)) {
            self.start_drain(backend, service, paths);
        }
        Ok(())
    }

    /// A backend that is no longer configured: its known flows get the service's drain timeout.
    fn start_drain(&mut self, backend: &ObservedBackend, service: &DesiredService, paths: &Paths) {
        let timeout_ns = u64::try_from(service.drain_timeout.as_nanos()).unwrap_or(u64::MAX);
        let expired =
            backend.state == BackendState::Draining && backend.drain_deadline_ns <= self.now_ns;
        // A backend that is down has no flows.
        if expired || timeout_ns == 0 || backend.state == BackendState::Down {
            self.deferred.push(free_backend(backend));
            return;
        }
        if backend.state != BackendState::Draining {
            self.plan.ops.push(Op::DrainBackend {
                reference: backend.reference,
                address: backend.address,
                deadline_ns: self.now_ns.saturating_add(timeout_ns),
            });
        }
        let (address, mac) = (backend.address, None);
        let key = backend.forward.map(|forward| PathKey { address, forward, mac });
        let Some(path) = key.and_then(|key| paths.get(&key)) else { return };
        let next_hop = if path.next_hop.has_mac() { path.next_hop } else { backend.next_hop };
        let mtu = if path.mtu == 0 { backend.mtu } else { path.mtu };
        let changes = path_changes(backend, next_hop, mtu);
        if !changes.is_empty() && !backend.fixed_next_hop {
            self.plan.ops.push(Op::MoveBackend {
                reference: backend.reference,
                address,
                next_hop,
                mtu,
                changes: changes.join(", "),
            });
        }
    }

    fn add_backend(&mut self, service: u32, spec: &BackendSpec) -> Result<Member, PlanError> {
        let capacity = self.observed.capacity.backends;
        let free = self.free_backends.get_or_insert_with(|| free_backends(self.observed));
        let slot = free.pop().ok_or(PlanError::Full { what: "backends", capacity })?;
        let reference = BackendRef::new(slot, self.observed.words[slot as usize].generation());
        self.plan.ops.push(Op::AddBackend { reference, service, spec: spec.clone() });
        Ok(member(reference, spec))
    }

    fn set_backend(
        &mut self,
        service: u32,
        present: &ObservedBackend,
        spec: &BackendSpec,
    ) -> Member {
        let reference = present.reference;
        let source = spec.path.source.unwrap_or(present.source);
        let new_source = source != present.source;
        // While the path is unknown, the last known next hop stays.
        let next_hop =
            if spec.path.next_hop.is_resolved() { spec.path.next_hop } else { present.next_hop };
        let mtu = if spec.path.mtu == 0 { present.mtu } else { spec.path.mtu };
        let mut changes = Vec::new();
        if present.state == BackendState::Draining {
            changes.push("no longer drains".to_owned());
        }
        let is_down = spec.availability == Availability::Down;
        let stays_down = present.state == BackendState::Down && is_down;
        if present.state == BackendState::Down && !is_down {
            changes.push("takes packets again".to_owned());
        }
        if present.weight != spec.weight {
            changes.push(format!("weight {} -> {}", present.weight, spec.weight));
        }
        if present.forward != Some(spec.forward) {
            changes.push(format!("forward {}", spec.forward));
        }
        if present.fixed_next_hop != spec.fixed_next_hop {
            changes.push("fixed next hop".to_owned());
        }
        changes.extend(path_changes(present, next_hop, mtu));
        if new_source {
            changes.push(format!("tunnel source {source}"));
        }
        if !changes.is_empty() {
            let mut spec = spec.clone();
            spec.path.next_hop = next_hop;
            spec.path.mtu = mtu;
            spec.path.source = Some(source).filter(|s| !s.is_unspecified());
            self.plan.ops.push(Op::SetBackend {
                reference,
                service,
                spec,
                source_place: present.source_place ^ u8::from(new_source),
                state: if stays_down { BackendState::Down } else { BackendState::Active },
                changes: changes.join(", "),
            });
        }
        member(reference, spec)
    }

    fn set_ring(
        &mut self,
        slot: u32,
        service: &DesiredService,
        members: &[Member],
    ) -> Result<(), PlanError> {
        let members: Vec<Member> = members.iter().filter(|m| m.weight > 0).copied().collect();
        let ring = if members.is_empty() {
            None
        } else {
            let capacity = self.observed.capacity.rings;
            Some(self.free_rings.pop().ok_or(PlanError::Full { what: "rings", capacity })?)
        };
        self.plan.ops.push(Op::SetRing {
            service: slot,
            key: service.key,
            name: service.name.clone(),
            ring,
            scheduler: service.scheduler,
            members,
            when_empty: service.when_empty,
        });
        Ok(())
    }
}

/// What differs of the path to a backend, in words.
fn path_changes(present: &ObservedBackend, next_hop: NextHop, mtu: u16) -> Vec<String> {
    let mut changes = Vec::new();
    if present.next_hop != next_hop {
        changes.push("next hop".to_owned());
    }
    if present.mtu != mtu {
        changes.push(format!("mtu {} -> {mtu}", present.mtu));
    }
    changes
}

/// A backend's place in the ring; one that is down has none.
fn member(reference: BackendRef, spec: &BackendSpec) -> Member {
    let weight = match spec.availability {
        Availability::Available => spec.weight,
        Availability::Down => 0,
    };
    Member { reference, address: spec.address, weight }
}
