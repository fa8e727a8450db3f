//! The steps from the observed to the desired state.

mod removal;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use director_common::{
    backend::{BackendRef, BackendState, NextHop},
    service::ServiceKey,
};

use super::{
    BackendSpec, Desired, DesiredService, Member, ObservedBackend, ObservedRing, ObservedService,
    Op, PathKey, Paths, Plan, View, front, observed::PresenceKey, ring_fingerprint,
};
use crate::policy::config::model::Availability;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A map is full.
    #[error("no room for {what}: the maps hold at most {capacity}")]
    Full {
        /// "services", "backends" or "rings".
        what: &'static str,
        /// How many fit.
        capacity: u32,
    },
    /// A service is to be changed that is not among those that were read: everything must be.
    #[error("service {service} is not in the maps any more")]
    NotObserved {
        /// Its address, protocol and port.
        service: String,
    },
}

/// The steps from `observed` to `desired`; `now_ns` is CLOCK_MONOTONIC. If everything was observed,
/// what is not in `desired` is removed: services at once, backends after their service's drain
/// timeout. Of some services, only those are changed.
///
/// # Errors
///
/// [`PlanError::Full`], [`PlanError::NotObserved`]; nothing must be applied then.
pub fn diff<V: View>(observed: &V, desired: &Desired, now_ns: u64) -> Result<Plan, PlanError> {
    let mut backends: HashMap<u32, Vec<&ObservedBackend>> = HashMap::new();
    for backend in observed.backends().values() {
        backends.entry(backend.service).or_default().push(backend);
    }
    let mut free_rings = observed.free_rings();
    free_rings.reverse();
    let mut differ = Differ {
        observed,
        backends,
        now_ns,
        free_services: free_services(observed),
        free_backends: None,
        free_rings,
        plan: Plan::default(),
        deferred: Vec::new(),
    };
    differ.run(desired)?;
    Ok(differ.plan)
}

/// Free service slots, the lowest last; none if only some services are known.
fn free_services(observed: &impl View) -> Vec<u32> {
    let Some(whole) = observed.whole() else { return Vec::new() };
    let taken =
        |slot| whole.services.contains_key(&slot) || whole.damaged.services.contains_key(&slot);
    free(whole.capacity.services, taken)
}

/// Numbers below `capacity` that are not taken, the lowest last.
fn free(capacity: u32, taken: impl Fn(u32) -> bool) -> Vec<u32> {
    (0..capacity).rev().filter(|slot| !taken(*slot)).collect()
}

/// Free backend slots, the least used last, which is taken first: a generation comes back only
/// after all slots have used all generations.
fn free_backends(observed: &impl View) -> Vec<u32> {
    let taken = |slot| slot == 0 || observed.is_taken(slot);
    let mut slots = free(observed.capacity().backends, taken);
    slots.sort_by_key(|slot| Reverse((generation(observed, *slot), *slot)));
    slots
}

fn generation(observed: &impl View, slot: u32) -> u16 {
    observed.words().get(slot as usize).map_or(0, |word| word.generation())
}

fn free_backend(backend: &ObservedBackend) -> Op {
    Op::FreeBackend {
        reference: backend.reference,
        service: backend.service,
        address: backend.address,
    }
}

struct Differ<'a, V> {
    observed: &'a V,
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

impl<V: View> Differ<'_, V> {
    fn run(&mut self, desired: &Desired) -> Result<(), PlanError> {
        let by_key: HashMap<ServiceKey, u32> =
            self.observed.services().iter().map(|(slot, s)| (s.key, *slot)).collect();
        self.remove(desired, &by_key);
        for service in &desired.services {
            match by_key.get(&service.key) {
                Some(slot) => self.update_service(*slot, service, &desired.paths)?,
                None => self.add_service(service)?,
            }
        }
        self.plan.ops.append(&mut self.deferred);
        Ok(())
    }

    fn add_service(&mut self, service: &DesiredService) -> Result<(), PlanError> {
        let capacity = self.observed.capacity().services;
        if self.observed.whole().is_none() {
            return Err(PlanError::NotObserved { service: front(service.key) });
        }
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
        let observed = &self.observed.services()[&slot];
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
        let mut kept = BTreeSet::new();
        let mut members = Vec::with_capacity(service.backends.len());
        for (at, spec) in service.backends.iter().enumerate() {
            let backend = match present.get(at) {
                Some(backend) if backend.address == spec.address => Some(*backend),
                _ => by_address
                    .get_or_insert_with(|| present.iter().map(|b| (b.address, *b)).collect())
                    .get(&spec.address)
                    .copied(),
            };
            kept.extend(backend.map(|backend| backend.reference.slot()));
            members.push(match backend {
                Some(backend) => self.set_backend(slot, backend, spec),
                None => self.add_backend(slot, spec)?,
            });
        }
        if !has_ring(observed, service, &members) {
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
            let present = self.observed.backends().get(&reference.slot());
            if present.is_some_and(|present| present.state != BackendState::Down) {
                self.plan.ops.push(Op::StopBackend { reference, address: spec.address });
            }
        }
        let is_present =
            |whole: &super::Observed| whole.presence.contains_key(&PresenceKey::from(service.key));
        if !observed.is_shown || !self.observed.whole().is_none_or(is_present) {
            self.plan.ops.push(Op::ShowService { slot, key: service.key });
        }
        if kept.len() == present.len() {
            return Ok(());
        }
        let wanted: BTreeSet<IpAddr> = service.backends.iter().map(|spec| spec.address).collect();
        for backend in present.iter().filter(|b| !kept.contains(&b.reference.slot())) {
            if wanted.contains(&backend.address) {
                // A second entry of a configured backend: no version leaves one.
                self.deferred.push(free_backend(backend));
            } else {
                self.start_drain(backend, service, paths);
            }
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
        let capacity = self.observed.capacity().backends;
        let free = self.free_backends.get_or_insert_with(|| free_backends(self.observed));
        let slot = free.pop().ok_or(PlanError::Full { what: "backends", capacity })?;
        let reference = BackendRef::new(slot, generation(self.observed, slot));
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
        if !present.is_exact {
            changes.push("not as this version writes it".to_owned());
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
            let capacity = self.observed.capacity().rings;
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

/// Whether the service has the ring that these members make.
fn has_ring(observed: &ObservedService, service: &DesiredService, members: &[Member]) -> bool {
    let members: Vec<Member> = members.iter().filter(|m| m.weight > 0).copied().collect();
    let fingerprint = ring_fingerprint(service.scheduler, &members, service.when_empty);
    let is_there = match observed.ring {
        ObservedRing::None => members.is_empty(),
        ObservedRing::Whole(_) => !members.is_empty(),
        ObservedRing::Damaged(_) => false,
    };
    is_there
        && observed.when_empty == service.when_empty
        && observed.ring_fingerprint == fingerprint
}

/// A backend's place in the ring; one that is down has none.
fn member(reference: BackendRef, spec: &BackendSpec) -> Member {
    let weight = match spec.availability {
        Availability::Available => spec.weight,
        Availability::Down => 0,
    };
    Member { reference, address: spec.address, weight }
}
