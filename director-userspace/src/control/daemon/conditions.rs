//! What there is to tell: the daemon's knowledge in the form that everybody shows.

use std::{net::IpAddr, sync::Arc};

use super::{Daemon, care::BackendChecks};
use crate::{
    kernel::{datapath::clock_ns, wall_clock},
    policy::{
        conditions::{BackendStanding, Override, Standing},
        config::model::Service,
    },
    serve::view::condition::{
        BackendCondition, BackendHealth, CheckCondition, Conditions, Drain,
        Override as OverrideShown, Quorum, ServiceCondition, ServiceState, WeightByHand,
    },
};

impl Daemon {
    /// Everything that this daemon knows.
    pub(super) fn conditions(&self) -> Conditions {
        let services = self
            .config
            .services
            .iter()
            .zip(&self.effective.services)
            .zip(self.care.standings())
            .map(|((service, effective), (standing, since, backends, checks))| {
                service_condition(service, effective, standing, since, backends, &checks)
            })
            .collect();
        let lost = self.lost.iter().map(|why| format!("the host cannot be followed: {why}"));
        Conditions {
            instance: self.instance.name().to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.began,
            config_path: self.path.display().to_string(),
            revision: self.history.revision(),
            applied: self.history.applied(),
            refused: self.refused.clone(),
            warnings: lost
                .chain(self.unheard.clone())
                .chain(self.web.lost().iter().cloned())
                .chain(self.warnings.iter().chain(&self.warned).cloned())
                .collect(),
            services,
        }
    }

    /// Publishes it, if somebody looks and there is news.
    pub(super) fn publish(&mut self) {
        if self.is_stale && self.published.receiver_count() > 0 {
            self.is_stale = false;
            let conditions = Arc::new(self.conditions());
            self.published.send_replace(conditions);
        }
    }
}

fn service_condition(
    service: &Service,
    effective: &Service,
    standing: Standing,
    since: u64,
    backends: &[BackendStanding],
    checks: &[BackendChecks],
) -> ServiceCondition {
    let up = |backend: &&BackendStanding| {
        (backend.up != Some(false) || standing == Standing::Panic)
            && backend.by_hand.drain.is_none()
    };
    let weight = |b: &BackendStanding| u32::from(b.by_hand.weight.unwrap_or(b.configured_weight));
    let sum = if backends.is_empty() {
        service.backends.iter().map(|backend| u32::from(backend.weight)).sum()
    } else {
        backends.iter().filter(up).map(weight).sum()
    };
    let held = !matches!(standing, Standing::Down | Standing::Sorry);
    let shown = service.backends.iter().enumerate().map(|(at, backend)| {
        let weight = effective.backends.get(at).map_or(0, |backend| backend.weight);
        backend_condition(backend.address, backend.weight, weight, backends.get(at), checks.get(at))
    });
    ServiceCondition {
        name: service.name.to_string(),
        frontend: service.frontend.to_string(),
        state: match standing {
            Standing::Unchecked => ServiceState::Unchecked,
            Standing::Up => ServiceState::Up,
            Standing::Degraded => ServiceState::Degraded,
            Standing::Down => ServiceState::Down,
            Standing::Sorry => ServiceState::Sorry,
            Standing::Panic => ServiceState::Panic,
        },
        since,
        quorum: Quorum { needed: service.health.quorum, up: sum, held },
        sorry: service.sorry.as_ref().map(|sorry| sorry.address),
        backends: shown.collect(),
    }
}

fn backend_condition(
    address: IpAddr,
    configured_weight: u16,
    weight: u16,
    standing: Option<&BackendStanding>,
    checks: Option<&BackendChecks>,
) -> BackendCondition {
    let is_new = |checks: &BackendChecks| {
        checks.checks.iter().any(|(_, health)| health.as_ref().is_none_or(|h| h.good.is_none()))
    };
    let drains = standing.is_some_and(|standing| standing.by_hand.drain.is_some());
    let state = match standing.and_then(|standing| standing.up) {
        Some(false) => BackendHealth::Down,
        _ if drains => BackendHealth::Draining,
        Some(true) if checks.is_some_and(is_new) => BackendHealth::Starting,
        Some(true) => BackendHealth::Up,
        None => BackendHealth::Unchecked,
    };
    let mut reason = standing.map(|standing| standing.reason.clone()).unwrap_or_default();
    let impossible = checks.map_or(0, |checks| checks.impossible);
    if impossible > 0 && reason.is_empty() {
        reason = format!("{impossible} checks via path cannot be made: see the daemon's log");
    }
    BackendCondition {
        address,
        configured_weight,
        weight,
        state,
        since: standing.map_or(0, |standing| standing.since),
        reason,
        override_: standing.and_then(|standing| by_hand(&standing.by_hand)),
        agent: checks.and_then(|checks| checks.agent.as_ref()).map(|report| match &report.failed {
            Some(why) => format!("{} (silent: {why})", report.text),
            None => report.text.clone(),
        }),
        checks: checks.map(check_conditions).unwrap_or_default(),
    }
}

fn by_hand(said: &Override) -> Option<OverrideShown> {
    let deadline = |ns: u64| wall_clock::now() + ns.saturating_sub(clock_ns()) / 1_000_000_000;
    let drain = said
        .drain
        .as_ref()
        .map(|drain| Drain { since: drain.since, deadline: drain.deadline_ns.map(deadline) });
    let weight = said.weight.map(|weight| WeightByHand { weight, since: said.since });
    (drain.is_some() || weight.is_some()).then_some(OverrideShown { drain, weight })
}

fn check_conditions(checks: &BackendChecks) -> Vec<CheckCondition> {
    checks
        .checks
        .iter()
        .map(|(target, health)| {
            let check = &target.check;
            let known = health.as_ref();
            CheckCondition {
                kind: check.probe.as_str().to_owned(),
                via: check.via.to_string(),
                up: known.filter(|health| health.good.is_some()).map(|health| health.up),
                reason: known.map(|health| health.reason.clone()).unwrap_or_default(),
                latency_ms: known
                    .and_then(|health| health.latency)
                    .map(|latency| latency.as_secs_f64() * 1000.0),
                since: known.map_or(0, |health| wall_clock::seconds(health.since)),
            }
        })
        .collect()
}
