//! The service in effect, from the configured one and the facts about its backends.

use std::{collections::HashSet, net::IpAddr};

use super::{
    BackendEvaluation, BackendMemory, Change, Checked, Evaluation, Facts, HealthState, Memory, Now,
    Override, QuorumState, ServiceState,
};
use crate::policy::config::model::{Availability, Backend, OnDown, Service};

/// Largest factor by which weights in effect are scaled up, so that they can have shares.
const MAX_SCALE: u32 = 100;
/// A slow start begins at this share, in percent, and grows in steps of it.
const STEP: u64 = 10;

/// Evaluates `service`. `facts` returns the facts about a backend.
pub fn evaluate(
    service: &Service,
    memory: &mut Memory,
    now: Now,
    mut facts: impl FnMut(&Backend) -> Facts,
) -> Evaluation {
    let facts: Vec<Facts> = service.backends.iter().map(&mut facts).collect();
    let mut changes = Vec::new();
    let mut backends = Vec::with_capacity(facts.len());
    for (backend, facts) in service.backends.iter().zip(&facts) {
        backends.push(state(backend, facts, memory, now, &mut changes));
    }
    if memory.backends.len() > service.backends.len() {
        let there: HashSet<IpAddr> = service.backends.iter().map(|b| b.address).collect();
        memory.backends.retain(|address, _| there.contains(address));
    }
    let panics = panics(service, &backends, memory, &mut changes);
    let usable = |b: &BackendEvaluation| panics || !b.is_down();
    let quorum = quorum_state(service, &backends, &usable, memory, &mut changes);

    let shares: Vec<u64> = service
        .backends
        .iter()
        .zip(&facts)
        .map(|(backend, facts)| share(service, backend, facts, memory, now))
        .collect();
    let scale = weight_scale(service, &facts, &shares);
    let mut again_ns = None;
    let mut effective = service.clone();
    for (at, state) in backends.iter_mut().enumerate() {
        let backend = &mut effective.backends[at];
        let weight = own_weight(backend.weight, &facts[at].admin_override);
        let drains = facts[at].admin_override.drain.is_some()
            || facts[at].load.as_ref().is_some_and(|load| load.drains);
        state.weight = if drains { 0.0 } else { f64::from(weight) * shares[at] as f64 / 100.0 };
        let is_usable = usable(state);
        backend.weight = match quorum {
            QuorumState::Held if is_usable && !drains => scaled(weight, scale, shares[at]),
            QuorumState::Held | QuorumState::Lost => 0,
        };
        let is_rescheduled = !is_usable && service.health.on_down == OnDown::Reschedule;
        backend.availability = if is_rescheduled || state.is_over {
            Availability::Down
        } else {
            Availability::Available
        };
        let memory = memory.backends.get_mut(&state.address);
        let deadline = facts[at].admin_override.drain.as_ref().and_then(|drain| drain.deadline_ns);
        let next = [deadline, memory.and_then(|memory| next_step(service, memory, now))];
        again_ns = next.into_iter().flatten().filter(|ns| *ns > now.ns).chain(again_ns).min();
    }
    if let Some(sorry) = &service.sorry {
        // Also while it is not needed: the flows that it got stay there.
        let weight = match quorum {
            QuorumState::Held => 0,
            QuorumState::Lost => 1,
        };
        effective.backends.push(Backend { weight, ..sorry.clone() });
    }
    let is_checked = backends.iter().any(|backend| backend.state.is_some());
    let state = match quorum {
        QuorumState::Held | QuorumState::Lost if panics => ServiceState::Panic,
        QuorumState::Lost if service.sorry.is_some() => ServiceState::Sorry,
        QuorumState::Lost => ServiceState::Down,
        QuorumState::Held if !is_checked => ServiceState::Unchecked,
        QuorumState::Held if backends.iter().any(BackendEvaluation::is_down) => {
            ServiceState::Degraded
        }
        QuorumState::Held => ServiceState::Up,
    };
    Evaluation { service: effective, state, backends, changes, again_ns }
}

/// The evaluation of one backend; adds a state change to `changes`.
fn state(
    backend: &Backend,
    facts: &Facts,
    memory: &mut Memory,
    now: Now,
    changes: &mut Vec<Change>,
) -> BackendEvaluation {
    let by_agent = facts.load.as_ref().map(|load| load.down.as_deref());
    let (reported, reason) = match (&facts.checked, by_agent) {
        (Some(Checked { state: HealthState::Down, reason }), _) => {
            (Some(HealthState::Down), reason.clone())
        }
        (Some(Checked { state: HealthState::Up, .. }) | None, Some(Some(why))) => {
            (Some(HealthState::Down), format!("its agent reports {why}"))
        }
        (Some(Checked { state: HealthState::Up, .. }), Some(None) | None) | (None, Some(None)) => {
            (Some(HealthState::Up), String::new())
        }
        (None, None) => (None, String::new()),
    };
    let state = reported.unwrap_or(HealthState::Up);
    let before = memory.backends.get(&backend.address).copied();
    let after = match before {
        Some(before) if before.state == state => before,
        Some(_) => BackendMemory {
            state,
            since: now.unix,
            rose_ns: match state {
                HealthState::Up => Some(now.ns),
                HealthState::Down => None,
            },
        },
        None => BackendMemory { state, since: now.unix, rose_ns: None },
    };
    memory.backends.insert(backend.address, after);
    // The first state of a backend is not a change.
    if before.is_some_and(|before| before.state != state) {
        let reason = reason.clone();
        changes.push(Change::Backend { address: backend.address, state, reason });
    }
    let deadline_ns = facts.admin_override.drain.as_ref().and_then(|drain| drain.deadline_ns);
    BackendEvaluation {
        address: backend.address,
        configured_weight: backend.weight,
        weight: f64::from(backend.weight),
        state: reported,
        reason,
        since: after.since,
        admin_override: facts.admin_override.clone(),
        is_over: deadline_ns.is_some_and(|deadline| deadline <= now.ns),
    }
}

/// Whether so many are down that the checker is more likely at fault. Those that get no flows
/// anyway do not count.
fn panics(
    service: &Service,
    backends: &[BackendEvaluation],
    memory: &mut Memory,
    changes: &mut Vec<Change>,
) -> bool {
    let counts = |b: &&BackendEvaluation| {
        own_weight(b.configured_weight, &b.admin_override) > 0 && b.admin_override.drain.is_none()
    };
    let of = backends.iter().filter(counts).count();
    let down = backends.iter().filter(counts).filter(|b| b.is_down()).count();
    let limit = usize::from(service.health.panic.0);
    let panics = limit < 100 && of > 0 && down * 100 > of * limit;
    if std::mem::replace(&mut memory.panics, panics) != panics {
        changes.push(Change::Panic { panics, down, of });
    }
    panics
}

/// The state of the quorum. It is regained at a higher weight than it is lost at (hysteresis).
fn quorum_state(
    service: &Service,
    backends: &[BackendEvaluation],
    usable: &impl Fn(&BackendEvaluation) -> bool,
    memory: &mut Memory,
    changes: &mut Vec<Change>,
) -> QuorumState {
    let weight: u32 = backends
        .iter()
        .filter(|b| usable(b) && b.admin_override.drain.is_none())
        .map(|b| u32::from(own_weight(b.configured_weight, &b.admin_override)))
        .sum();
    let health = &service.health;
    let least = match memory.quorum {
        QuorumState::Held => health.quorum.saturating_sub(health.hysteresis),
        QuorumState::Lost => health.quorum.saturating_add(health.hysteresis),
    };
    let quorum = if weight < least || weight == 0 { QuorumState::Lost } else { QuorumState::Held };
    if std::mem::replace(&mut memory.quorum, quorum) != quorum {
        changes.push(Change::Quorum { quorum, weight, needed: health.quorum });
    }
    quorum
}

/// A backend's weight by the admin override, or else by the file.
fn own_weight(configured: u16, admin_override: &Override) -> u16 {
    admin_override.weight.unwrap_or(configured)
}

/// Percent of its weight that a backend gets, by its load and its slow start.
fn share(service: &Service, backend: &Backend, facts: &Facts, memory: &Memory, now: Now) -> u64 {
    let by_load = facts.load.as_ref().map_or(100, |load| u64::from(load.share));
    let rose_ns = memory.backends.get(&backend.address).and_then(|memory| memory.rose_ns);
    let slow_ns = service.health.slow_start.as_nanos() as u64;
    let by_age = match rose_ns {
        Some(rose_ns) if slow_ns > 0 => {
            let steps = (now.ns.saturating_sub(rose_ns) * (100 / STEP) / slow_ns).min(100 / STEP);
            (steps * STEP).max(STEP)
        }
        _ => 100,
    };
    by_load * by_age / 100
}

/// When a backend's slow start takes its next step; ends the slow start if it took the last one.
fn next_step(service: &Service, memory: &mut BackendMemory, now: Now) -> Option<u64> {
    let rose_ns = memory.rose_ns?;
    let step_ns = service.health.slow_start.as_nanos() as u64 / (100 / STEP);
    let past = now.ns.saturating_sub(rose_ns).checked_div(step_ns).unwrap_or(u64::MAX);
    if past >= 100 / STEP {
        memory.rose_ns = None;
        return None;
    }
    Some(rose_ns + (past + 1) * step_ns)
}

/// The factor by which weights in effect are scaled up: shares of a weight of 1 have to be weights
/// too. 1 where there are no shares, so that the weights shown are the file's.
fn weight_scale(service: &Service, facts: &[Facts], shares: &[u64]) -> u32 {
    let has_shares = service.health.agent.is_some() || shares.iter().any(|share| *share != 100);
    if !has_shares {
        return 1;
    }
    let largest = service
        .backends
        .iter()
        .zip(facts)
        .map(|(backend, facts)| u32::from(own_weight(backend.weight, &facts.admin_override)))
        .max();
    (u32::from(u16::MAX) / largest.unwrap_or(1).max(1)).clamp(1, MAX_SCALE)
}

/// A weight in effect: one whose share is not 0 is not 0.
fn scaled(weight: u16, scale: u32, share: u64) -> u16 {
    let hundredfold = u64::from(weight) * u64::from(scale) * share;
    let rounded = (hundredfold + 50) / 100;
    let least = u64::from(hundredfold > 0);
    u16::try_from(rounded.max(least)).unwrap_or(u16::MAX)
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
