//! The daemon's status, as the API, metrics and the page show it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Daemon, health_tracker::BackendChecks};
use crate::{
    control::director::Director,
    kernel::{datapath::clock_ns, wall_clock},
    policy::{
        config::model::Service,
        health_policy::{BackendEvaluation, HealthState, Override, ServiceState},
    },
    serve::view::status::{
        BackendHealth, BackendStatus, CheckStatus, Drain, Override as OverrideShown, Quorum,
        ServiceStatus, Status, WeightOverride,
    },
};

/// Without watchers, the status is published this seldom: it is for readers of a busy daemon only.
const SELDOM: Duration = Duration::from_secs(5);

impl Daemon {
    /// The current status.
    pub(super) fn status(&self) -> Status {
        let services = self
            .config
            .services
            .iter()
            .zip(&self.effective.services)
            .zip(self.health_tracker.evaluations())
            .map(|((service, effective), (state, since, backends, checks))| {
                service_status(service, effective, state, since, backends, &checks)
            })
            .collect();
        let of_director = self.director.as_ref().map(Director::warnings).unwrap_or_default();
        Status {
            instance: self.instance.name().to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started_at,
            config_path: self.path.display().to_string(),
            revision: self.history.revision(),
            applied: self.history.applied(),
            refused: self.refused.clone(),
            warnings: of_director
                .into_iter()
                .chain(self.server_error.clone())
                .chain(self.web.errors().iter().cloned())
                .chain(self.file_warnings.iter().cloned())
                .collect(),
            services,
        }
    }

    /// Publishes the status if it changed and has readers.
    pub(super) fn publish(&mut self) {
        let is_watched = self.published.receiver_count() > 0;
        if self.status_changed
            && (is_watched || self.answered_at.is_none_or(|at| at.elapsed() >= SELDOM))
        {
            self.status_changed = false;
            self.answered_at = Some(Instant::now());
            let status = Arc::new(self.status());
            self.answers.set_status(status.clone());
            self.published.send_replace(status);
        }
    }
}

fn service_status(
    service: &Service,
    effective: &Service,
    state: ServiceState,
    since: u64,
    backends: &[BackendEvaluation],
    checks: &[BackendChecks],
) -> ServiceStatus {
    let is_usable = |backend: &&BackendEvaluation| {
        (!backend.is_down() || state == ServiceState::Panic)
            && backend.admin_override.drain.is_none()
    };
    let weight =
        |b: &BackendEvaluation| u32::from(b.admin_override.weight.unwrap_or(b.configured_weight));
    let sum = if backends.is_empty() {
        service.backends.iter().map(|backend| u32::from(backend.weight)).sum()
    } else {
        backends.iter().filter(is_usable).map(weight).sum()
    };
    let held = !matches!(state, ServiceState::Down | ServiceState::Sorry);
    let shown = service.backends.iter().enumerate().map(|(at, backend)| {
        let weight = effective.backends.get(at).map_or(0, |backend| backend.weight);
        backend_status(backend.address, backend.weight, weight, backends.get(at), checks.get(at))
    });
    ServiceStatus {
        name: service.name.to_string(),
        frontend: service.frontend.to_string(),
        state,
        since,
        quorum: Quorum { needed: service.health.quorum, up: sum, held },
        sorry: service.sorry.as_ref().map(|sorry| sorry.address),
        backends: shown.collect(),
    }
}

fn backend_status(
    address: IpAddr,
    configured_weight: u16,
    weight: u16,
    known: Option<&BackendEvaluation>,
    checks: Option<&BackendChecks>,
) -> BackendStatus {
    let is_new = |checks: &BackendChecks| {
        checks.checks.iter().any(|(_, health)| health.as_ref().is_none_or(|h| h.good.is_none()))
    };
    let is_draining = known.is_some_and(|known| known.admin_override.drain.is_some());
    let state = match known.and_then(|known| known.state) {
        Some(HealthState::Down) => BackendHealth::Down,
        Some(HealthState::Up) | None if is_draining => BackendHealth::Draining,
        Some(HealthState::Up) if checks.is_some_and(is_new) => BackendHealth::Starting,
        Some(HealthState::Up) => BackendHealth::Up,
        None => BackendHealth::Unchecked,
    };
    let mut reason = known.map(|known| known.reason.clone()).unwrap_or_default();
    let without_path = checks.map_or(0, |checks| checks.without_path);
    if without_path > 0 && reason.is_empty() {
        reason = format!("{without_path} checks via path cannot be made: see the daemon's log");
    }
    BackendStatus {
        address,
        configured_weight,
        weight,
        state,
        since: known.map_or(0, |known| known.since),
        reason,
        override_: known.and_then(|known| admin_override(&known.admin_override)),
        agent: checks.and_then(|checks| checks.agent.as_ref()).map(|report| match &report.failed {
            Some(why) => format!("{} (no report: {why})", report.text),
            None => report.text.clone(),
        }),
        checks: checks.map(check_statuses).unwrap_or_default(),
    }
}

fn admin_override(current: &Override) -> Option<OverrideShown> {
    let deadline = |ns: u64| wall_clock::now() + ns.saturating_sub(clock_ns()) / 1_000_000_000;
    let drain = current
        .drain
        .as_ref()
        .map(|drain| Drain { since: drain.since, deadline: drain.deadline_ns.map(deadline) });
    let weight = current.weight.map(|weight| WeightOverride { weight, since: current.since });
    (drain.is_some() || weight.is_some()).then_some(OverrideShown { drain, weight })
}

fn check_statuses(checks: &BackendChecks) -> Vec<CheckStatus> {
    checks
        .checks
        .iter()
        .map(|(target, health)| {
            let check = &target.check;
            let known = health.as_ref();
            CheckStatus {
                kind: check.probe.as_str().to_owned(),
                via: check.via.to_string(),
                up: known.filter(|health| health.good.is_some()).map(|health| match health.state {
                    HealthState::Up => true,
                    HealthState::Down => false,
                }),
                reason: known.map(|health| health.reason.clone()).unwrap_or_default(),
                latency_ms: known
                    .and_then(|health| health.latency)
                    .map(|latency| latency.as_secs_f64() * 1000.0),
                since: known.map_or(0, |health| wall_clock::seconds(health.since)),
            }
        })
        .collect()
}
