//! What a plan removes: services that are not wanted, and what other processes left or damaged.

use std::collections::{BTreeMap, HashMap};

use director_common::{backend::BackendRef, service::ServiceKey};

use super::{Differ, free_backend, generation};
use crate::policy::plan::{
    Desired, DesiredService, ObservedService, Op, Presence, View, observed::PresenceKey,
};

impl<V: View> Differ<'_, V> {
    /// Removes what is not wanted, or damaged.
    pub(super) fn remove(&mut self, desired: &Desired, by_key: &HashMap<ServiceKey, u32>) {
        let Some(observed) = self.observed.whole() else { return };
        let stray = observed.stray_keys.iter().map(|key| Op::RemoveStrayKey(*key));
        self.plan.ops.extend(stray);
        let damaged = observed.damaged.services.keys().map(|slot| Op::ResetService { slot: *slot });
        self.plan.ops.extend(damaged);
        // After the rings that may name them.
        let reference = |slot: u32| BackendRef::new(slot, generation(observed, slot));
        let damaged = observed.damaged.backends.iter();
        let reset = damaged.map(|slot| Op::ResetBackend { reference: reference(*slot) });
        self.deferred.extend(reset);

        let wanted: BTreeMap<u32, &DesiredService> = desired
            .services
            .iter()
            .filter_map(|service| Some((*by_key.get(&service.key)?, service)))
            .collect();
        // All steps of a kind together: a grace period separates the kinds.
        let removed = observed.services.iter().filter(|(slot, _)| !wanted.contains_key(slot));
        let removed: Vec<(u32, &ObservedService)> =
            removed.map(|(slot, service)| (*slot, service)).collect();
        for (slot, service) in &removed {
            let shared = PresenceKey::from(service.key);
            let presence = if observed.presence.get(&shared) == Some(slot) {
                let mut others = wanted.iter();
                let successor = others.find(|(_, other)| PresenceKey::from(other.key) == shared);
                successor.map_or(Presence::Remove, |(slot, _)| Presence::Move(*slot))
            } else {
                Presence::Keep
            };
            let (key, name) = (service.key, service.name.clone());
            self.plan.ops.push(Op::HideService { slot: *slot, key, name, presence });
        }
        for (slot, _) in &removed {
            for backend in self.backends.remove(slot).unwrap_or_default() {
                self.plan.ops.push(free_backend(backend));
            }
        }
        self.plan.ops.extend(removed.iter().map(|(slot, _)| Op::RemoveService { slot: *slot }));
        // A backend without a service: a process died between two steps.
        for backend in observed.backends.values() {
            if !observed.services.contains_key(&backend.service) {
                self.plan.ops.push(free_backend(backend));
            }
        }
    }
}
