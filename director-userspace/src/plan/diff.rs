//! From what is to what should be.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use director_common::{
    backend::{BackendRef, BackendState},
    service::ServiceKey,
};

use super::{
    BackendSpec, Desired, DesiredService, Member, Observed, ObservedBackend, Op, Paths, Plan,
    Presence, observed::PresenceKey, ring_fingerprint,
};

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A map is full.
    #[error(
        "no room for {what}: the maps were made for {capacity}; `director detach` and attach again \
         to have them made larger (connections will be re-balanced)"
    )]
    Full {
        /// "services", "backends" or "rings".
        what: &'static str,
        /// How many fit.
        capacity: u32,
    },
}

/// The steps from `observed` to `desired`; `now_ns` is CLOCK_MONOTONIC. What is not in `desired`
/// goes: services at once, backends after their service's drain timeout.
///
/// # Errors
///
/// [`PlanError::Full`]; then nothing is to be done.
pub fn diff(observed: &Observed, desired: &Desired, now_ns: u64) -> Result<Plan, PlanError> {
    let mut differ = Differ {
        observed,
        now_ns,
        free_services: free(observed.capacity.services, |slot| {
            observed.services.contains_key(&slot)
        }),
        free_backends: free_backends(observed),
        free_rings: observed.free_rings().collect::<BTreeSet<_>>().into_iter().collect(),
        plan: Plan::default(),
    };
    differ.free_rings.reverse();
    differ.run(desired)?;
    // A change may give every service a new ring before its old one is free: what would leave no
    // room for that is refused now, and not when the change comes.
    let capacity = observed.capacity.rings;
    if 2 * desired.services.len() as u64 > u64::from(capacity) {
        return Err(PlanError::Full { what: "rings", capacity });
    }
    Ok(differ.plan)
}

/// Numbers below `capacity` that are not taken, the lowest last.
fn free(capacity: u32, taken: impl Fn(u32) -> bool) -> Vec<u32> {
    (0..capacity).rev().filter(|slot| !taken(*slot)).collect()
}

/// Free backend slots, the one that was used least often last: a generation comes back only when all
/// slots have been through all of them.
fn free_backends(observed: &Observed) -> Vec<u32> {
    let taken = |slot| slot == 0 || observed.backends.contains_key(&slot);
    let mut slots = free(observed.capacity.backends, taken);
    slots.sort_by_key(|slot| Reverse((observed.words[*slot as usize].generation(), *slot)));
    slots
}

struct Differ<'a> {
    observed: &'a Observed,
    now_ns: u64,
    free_services: Vec<u32>,
    free_backends: Vec<u32>,
    free_rings: Vec<u32>,
    plan: Plan,
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

        let gone = self.observed.services.keys().filter(|slot| !wanted.contains_key(slot));
        for slot in gone.copied().collect::<Vec<_>>() {
            self.remove_service(slot, &wanted);
        }
        // A backend whose service is not there: a process died between two steps.
        for backend in self.observed.backends.values() {
            if !self.observed.services.contains_key(&backend.service) {
                self.free_backend(backend);
            }
        }
        for service in &desired.services {
            match by_key.get(&service.key) {
                Some(slot) => self.update_service(*slot, service, &desired.paths)?,
                None => self.add_service(service)?,
            }
        }
        Ok(())
    }

    fn remove_service(&mut self, slot: u32, wanted: &BTreeMap<u32, &DesiredService>) {
        let service = &self.observed.services[&slot];
        let shared = PresenceKey::from(service.key);
        let presence = if self.observed.presence.get(&shared) == Some(&slot) {
            let heir = wanted.iter().find(|(_, other)| PresenceKey::from(other.key) == shared);
            heir.map_or(Presence::Remove, |(slot, _)| Presence::Move(*slot))
        } else {
            Presence::Keep
        };
        self.plan.ops.push(Op::HideService {
            slot,
            key: service.key,
            name: service.name.clone(),
            presence,
        });
        for (_, backend) in self.observed.backends_of(slot) {
            self.free_backend(backend);
        }
        self.plan.ops.push(Op::RemoveService { slot });
    }

    fn free_backend(&mut self, backend: &ObservedBackend) {
        self.plan.ops.push(Op::FreeBackend {
            reference: backend.reference,
            service: backend.service,
            address: backend.address,
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
        if observed.name != service.name || observed.drain_timeout_s != drain_timeout_s {
            self.plan.ops.push(Op::NoteService {
                slot,
                key: service.key,
                name: service.name.clone(),
                drain_timeout_s,
            });
        }
        let present: HashMap<IpAddr, &ObservedBackend> =
            self.observed.backends_of(slot).map(|(_, b)| (b.address, b)).collect();
        let mut members = Vec::new();
        for spec in &service.backends {
            members.push(match present.get(&spec.address) {
                Some(backend) => self.set_backend(slot, backend, spec),
                None => self.add_backend(slot, spec)?,
            });
        }
        let takers: Vec<Member> = members.iter().filter(|m| m.weight > 0).copied().collect();
        if observed.ring_fingerprint != ring_fingerprint(&takers, service.when_empty) {
            self.set_ring(slot, service, &members)?;
        }
        if !observed.is_shown {
            self.plan.ops.push(Op::ShowService { slot, key: service.key });
        }
        let wanted: BTreeSet<IpAddr> = service.backends.iter().map(|spec| spec.address).collect();
        let observed = self.observed;
        for (_, backend) in observed.backends_of(slot).filter(|(_, b)| !wanted.contains(&b.address))
        {
            self.let_go(backend, service, paths);
        }
        Ok(())
    }

    /// A backend that is no longer configured: its known flows get the service's drain timeout.
    fn let_go(&mut self, backend: &ObservedBackend, service: &DesiredService, paths: &Paths) {
        let timeout_ns = u64::try_from(service.drain_timeout.as_nanos()).unwrap_or(u64::MAX);
        let expired =
            backend.state == BackendState::Draining && backend.drain_deadline_ns <= self.now_ns;
        if expired || timeout_ns == 0 {
            self.free_backend(backend);
            return;
        }
        if backend.state != BackendState::Draining {
            self.plan.ops.push(Op::DrainBackend {
                reference: backend.reference,
                address: backend.address,
                deadline_ns: self.now_ns.saturating_add(timeout_ns),
            });
        }
        if let Some(path) = paths.get(&backend.address)
            && path.next_hop.has_mac()
            && path.next_hop != backend.next_hop
            && !backend.fixed_next_hop
        {
            self.plan.ops.push(Op::MoveBackend {
                reference: backend.reference,
                address: backend.address,
                next_hop: path.next_hop,
            });
        }
    }

    fn add_backend(&mut self, service: u32, spec: &BackendSpec) -> Result<Member, PlanError> {
        let capacity = self.observed.capacity.backends;
        let slot =
            self.free_backends.pop().ok_or(PlanError::Full { what: "backends", capacity })?;
        let reference = BackendRef::new(slot, self.observed.words[slot as usize].generation());
        self.plan.ops.push(Op::AddBackend { reference, service, spec: spec.clone() });
        Ok(Member { reference, address: spec.address, weight: spec.weight })
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
        let mut changes = Vec::new();
        let mut note = |changed: bool, what: String| {
            if changed {
                changes.push(what);
            }
        };
        note(present.state == BackendState::Draining, "drains no longer".into());
        note(
            present.weight != spec.weight,
            format!("weight {} -> {}", present.weight, spec.weight),
        );
        note(present.forward != spec.forward, format!("forward {:?}", spec.forward).to_lowercase());
        note(present.fixed_next_hop != spec.fixed_next_hop, "fixed next hop".into());
        // A way that is not known at the moment is no reason to forget the last one.
        let next_hop =
            if spec.path.next_hop.is_resolved() { spec.path.next_hop } else { present.next_hop };
        note(present.next_hop != next_hop, "next hop".into());
        let mtu = if spec.path.mtu == 0 { present.mtu } else { spec.path.mtu };
        note(present.mtu != mtu, format!("mtu {} -> {mtu}", present.mtu));
        note(new_source, format!("tunnel source {source}"));
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
                changes: changes.join(", "),
            });
        }
        Member { reference, address: spec.address, weight: spec.weight }
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
            members,
            when_empty: service.when_empty,
        });
        Ok(())
    }
}
