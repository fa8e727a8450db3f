//! Services and backends as they are shown: the state in the maps, and the daemon's status.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use director_common::{
    backend::{BackendRef, BackendState, ForwardMode},
    stats::BackendStats,
};
use serde::Serialize;

use super::{
    former_names,
    status::{BackendHealth, BackendStatus, Quorum, ServiceState, ServiceStatus},
};
use crate::{
    kernel::datapath::{self, Census, Counters},
    policy::{
        plan::{Observed, ObservedBackend, ObservedService, front},
        scheduler::Scheduler,
    },
};

/// Packets, bytes and flows, since the maps were created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of IP packets, as received.
    pub bytes: u64,
    /// Flows scheduled.
    pub flows: u64,
}

impl From<BackendStats> for Traffic {
    fn from(stats: BackendStats) -> Self {
        Self { packets: stats.packets, bytes: stats.bytes, flows: stats.flows }
    }
}

impl Traffic {
    /// The rate since `earlier`, which was `elapsed` ago.
    pub(super) fn rate_since(self, earlier: Self, elapsed: Duration) -> Rate {
        Rate {
            packets: per_second(self.packets, earlier.packets, elapsed),
            bytes: per_second(self.bytes, earlier.bytes, elapsed),
            flows: per_second(self.flows, earlier.flows, elapsed),
        }
    }
}

/// Traffic per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Packets forwarded a second.
    pub packets: f64,
    /// Bytes a second.
    pub bytes: f64,
    /// Flows scheduled a second.
    pub flows: f64,
}

/// A counter's growth per second, to a tenth. A counter that is smaller than before was reset.
pub(super) fn per_second(now: u64, before: u64, elapsed: Duration) -> f64 {
    let grown = now.checked_sub(before).unwrap_or(now);
    (grown as f64 / elapsed.as_secs_f64().max(0.001) * 10.0).round() / 10.0
}

/// A backend of a service.
#[derive(Clone, Debug, Serialize)]
pub struct BackendView {
    /// Its slot in the maps.
    #[serde(skip)]
    pub reference: BackendRef,
    /// Its address.
    pub address: IpAddr,
    /// Its weight in effect.
    pub weight: u16,
    /// Share of new flows that the weight gives, percent.
    pub share: f64,
    /// `active`, `down` or `draining`, in the data plane.
    pub state: &'static str,
    /// Seconds until a draining backend's flows are rescheduled.
    pub drain_left_s: Option<u64>,
    /// `tunnel` or `direct`.
    pub forward: &'static str,
    /// The next hop's MAC; null while it is not known.
    pub next_hop: Option<String>,
    /// Packets, bytes and flows.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Established flows in the flow table.
    pub established: u64,
    /// Its traffic per second; null after a single reading.
    pub rate: Option<Rate>,
    /// Whether it is the sorry backend.
    pub is_sorry: bool,
    /// Its status; null without a daemon.
    #[serde(flatten, serialize_with = "former_names::status")]
    pub status: Option<BackendStatus>,
}

impl BackendView {
    /// Its state in one word.
    pub fn label(&self) -> &'static str {
        match &self.status {
            _ if self.drain_left_s.is_some() => "draining",
            Some(status) => status.state.label(),
            None if self.is_sorry => "sorry",
            None => self.state,
        }
    }

    /// How it is rated.
    pub fn rating(&self) -> Rating {
        match self.label() {
            "up" | "active" => Rating::Good,
            "unchecked" | "sorry" => Rating::Neutral,
            "down" => Rating::Bad,
            _ => Rating::Warning,
        }
    }
}

/// The rating of a state, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rating {
    /// It does not work.
    Bad,
    /// It works, in a state that should not last.
    #[serde(rename = "odd")]
    Warning,
    /// Its health is unknown.
    Neutral,
    /// It works.
    Good,
}

/// The health of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceHealth {
    /// The state.
    pub state: ServiceState,
    /// Since when: seconds since 1970.
    pub since: u64,
    /// The weight that must be up.
    pub quorum: Quorum,
}

impl From<&ServiceStatus> for ServiceHealth {
    fn from(service: &ServiceStatus) -> Self {
        Self { state: service.state, since: service.since, quorum: service.quorum }
    }
}

impl ServiceHealth {
    /// How the service is rated.
    pub fn rating(&self) -> Rating {
        match self.state {
            ServiceState::Up => Rating::Good,
            ServiceState::Unchecked => Rating::Neutral,
            ServiceState::Degraded | ServiceState::Sorry => Rating::Warning,
            ServiceState::Down | ServiceState::Panic => Rating::Bad,
        }
    }
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Protocol, address and port.
    pub frontend: String,
    /// The scheduler of new flows.
    pub scheduler: &'static str,
    /// Packets, bytes and flows.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Packets that reached no backend.
    pub dropped: u64,
    /// Flows that the flow table had no room for.
    #[serde(flatten, serialize_with = "former_names::untracked")]
    pub untracked: u64,
    /// Established flows in the flow table.
    pub established: u64,
    /// Its traffic per second; null after a single reading.
    pub rate: Option<Rate>,
    /// `dropped` per second; null after a single reading.
    pub dropped_rate: Option<f64>,
    /// Its status; null without a daemon.
    #[serde(flatten, serialize_with = "former_names::status")]
    pub status: Option<ServiceHealth>,
    /// Its backends, draining ones last.
    pub backends: Vec<BackendView>,
}

impl ServiceView {
    /// Backends that may get new flows, and all that are configured.
    pub fn usable(&self) -> (usize, usize) {
        let configured = || self.backends.iter().filter(|b| b.state != "draining" && !b.is_sorry);
        let is_usable = |backend: &&BackendView| match &backend.status {
            Some(status) => {
                matches!(status.state, BackendHealth::Up | BackendHealth::Unchecked)
                    || status.state == BackendHealth::Starting && backend.weight > 0
            }
            None => backend.state == "active",
        };
        (configured().filter(is_usable).count(), configured().count())
    }

    /// Adds the daemon's status.
    pub(super) fn add(&mut self, service: &ServiceStatus) {
        self.status = Some(service.into());
        let of: HashMap<IpAddr, &BackendStatus> =
            service.backends.iter().map(|backend| (backend.address, backend)).collect();
        for backend in &mut self.backends {
            backend.status = of.get(&backend.address).map(|found| (*found).clone());
            backend.is_sorry = backend.status.is_none() && service.sorry == Some(backend.address);
        }
    }
}

/// All services in the maps, by name.
pub(super) fn services(
    observed: &Observed,
    counters: &Counters,
    census: &Census,
) -> Vec<ServiceView> {
    let mut of_service: HashMap<u32, Vec<(u32, &ObservedBackend)>> = HashMap::new();
    for (slot, backend) in &observed.backends {
        of_service.entry(backend.service).or_default().push((*slot, backend));
    }
    let none = Vec::new();
    let mut services: Vec<_> = observed
        .services
        .iter()
        .map(|(slot, service)| {
            let backends = of_service.get(slot).unwrap_or(&none);
            service_view(*slot, service, backends, counters, census)
        })
        .collect();
    services.sort_by(|a, b| (&a.name, &a.frontend).cmp(&(&b.name, &b.frontend)));
    services
}

fn service_view(
    slot: u32,
    service: &ObservedService,
    backends: &[(u32, &ObservedBackend)],
    counters: &Counters,
    census: &Census,
) -> ServiceView {
    let counted = counters.services.get(&slot).cloned().unwrap_or_default();
    let active = || backends.iter().filter(|(_, b)| b.state == BackendState::Active);
    let total: u64 = active().map(|(_, backend)| u64::from(backend.weight)).sum();
    let traffic: BTreeMap<u32, BackendStats> =
        counted.backends.iter().map(|(slot, (_, counters))| (*slot, counters.stats)).collect();
    let mut backends: Vec<_> = backends
        .iter()
        .map(|(slot, backend)| BackendView {
            established: census.of(*slot),
            ..backend_view(backend, total, traffic.get(slot).copied().unwrap_or_default())
        })
        .collect();
    let is_draining = |backend: &BackendView| backend.state == "draining";
    backends.sort_by_key(|backend| (is_draining(backend), backend.address));
    ServiceView {
        name: service.name.clone(),
        frontend: front(service.key),
        scheduler: service.scheduler.map_or("unknown", Scheduler::as_str),
        traffic: counted.total.into(),
        dropped: counted.dropped,
        untracked: counted.untracked,
        established: backends.iter().map(|backend| backend.established).sum(),
        rate: None,
        dropped_rate: None,
        status: None,
        backends,
    }
}

fn backend_view(backend: &ObservedBackend, total: u64, stats: BackendStats) -> BackendView {
    let is_draining = backend.state == BackendState::Draining;
    let share = if backend.state != BackendState::Active || total == 0 {
        0.0
    } else {
        (f64::from(backend.weight) * 1000.0 / total as f64).round() / 10.0
    };
    let left = backend.drain_deadline_ns.saturating_sub(datapath::clock_ns());
    BackendView {
        reference: backend.reference,
        address: backend.address,
        weight: backend.weight,
        share,
        state: match backend.state {
            BackendState::Draining => "draining",
            BackendState::Down => "down",
            BackendState::Active | BackendState::Free => "active",
        },
        drain_left_s: is_draining.then_some(left / 1_000_000_000),
        forward: backend.forward.map_or("unknown", ForwardMode::as_str),
        next_hop: backend.next_hop.is_resolved().then(|| {
            let mac = backend.next_hop.mac();
            mac.map(|byte| format!("{byte:02x}")).join(":")
        }),
        traffic: stats.into(),
        established: 0,
        rate: None,
        is_sorry: false,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_reset_counter_is_from_zero() {
        let second = Duration::from_secs(1);
        assert_eq!(per_second(30, 10, Duration::from_secs(2)), 10.0);
        assert_eq!(per_second(7, 1000, second), 7.0);
        assert_eq!(per_second(u64::MAX, 0, second), u64::MAX as f64);
        assert!(per_second(1, 0, Duration::ZERO).is_finite());
    }
}
