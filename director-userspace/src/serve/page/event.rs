//! Encodes a sample for the status page: JSON of bounded size, in one server-sent event.

use bytes::Bytes;
use director_common::verdict::{ReplyReason, Verdict};
use serde::Serialize;

use crate::serve::view::{
    BackendView, Rate, Rating, Sample, ServiceHealth, ServiceView, Snapshot, Traffic,
    status::{BackendStatus, Status},
};

/// Most services in an event; with more, those with problems come first.
const MAX_SERVICES: usize = 500;
/// Most backends in an event; with more, only those with problems are included.
const MAX_BACKENDS: usize = 2_000;

#[derive(Serialize)]
#[serde(untagged)]
enum Event<'a> {
    Overview(Box<Overview<'a>>),
    Failed { error: &'a str },
}

#[derive(Serialize)]
struct Overview<'a> {
    at_ms: u64,
    instance: &'a str,
    /// Whether the daemon's heartbeat is fresh.
    alive: bool,
    daemon: Option<Daemon<'a>>,
    interfaces: Vec<String>,
    forwarded: Amount,
    passed: Amount,
    dropped: Amount,
    bytes_rate: Option<f64>,
    flows_rate: Option<f64>,
    established: u64,
    flow_capacity: u64,
    reasons: Vec<Reason>,
    services: Vec<Service<'a>>,
    hidden_services: usize,
    hidden_backends: usize,
}

#[derive(Serialize)]
struct Daemon<'a> {
    version: &'a str,
    pid: u32,
    started: u64,
    config_path: &'a str,
    revision: u64,
    applied: u64,
    refused: Option<&'a str>,
    warnings: &'a [String],
}

impl<'a> From<&'a Status> for Daemon<'a> {
    fn from(status: &'a Status) -> Self {
        Self {
            version: &status.version,
            pid: status.pid,
            started: status.started,
            config_path: &status.config_path,
            revision: status.revision,
            applied: status.applied,
            refused: status.refused.as_deref(),
            warnings: &status.warnings,
        }
    }
}

#[derive(Serialize)]
struct Amount {
    packets: u64,
    rate: Option<f64>,
}

impl Amount {
    fn of(snapshot: &Snapshot, which: fn(Verdict) -> bool) -> Self {
        Self { packets: snapshot.packets(which), rate: snapshot.packet_rate(which) }
    }
}

/// Why packets for services reached no backend.
#[derive(Serialize)]
struct Reason {
    /// `drop` or `reply`.
    verdict: &'static str,
    reason: &'static str,
    explanation: &'static str,
    #[serde(flatten)]
    amount: Amount,
}

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    frontend: &'a str,
    #[serde(rename = "mood")]
    rating: Rating,
    health: Option<ServiceHealth>,
    up: usize,
    configured: usize,
    #[serde(flatten)]
    traffic: Traffic,
    rate: Option<Rate>,
    dropped: u64,
    dropped_rate: Option<f64>,
    established: u64,
    backends: Vec<Backend<'a>>,
}

#[derive(Serialize)]
struct Backend<'a> {
    address: String,
    label: &'static str,
    #[serde(rename = "mood")]
    rating: Rating,
    weight: u16,
    share: f64,
    drain_left_s: Option<u64>,
    #[serde(flatten)]
    traffic: Traffic,
    rate: Option<Rate>,
    established: u64,
    status: Option<&'a BackendStatus>,
}

/// The event for a sample.
pub(super) fn encode(sample: &Sample) -> Bytes {
    let event = match &sample.snapshot {
        Ok(snapshot) => Event::Overview(Box::new(overview(snapshot, MAX_SERVICES, MAX_BACKENDS))),
        Err(error) => Event::Failed { error },
    };
    // Plain data always serializes; compact JSON has no line breaks.
    let json = serde_json::to_string(&event).unwrap_or_default();
    Bytes::from(format!("data: {json}\n\n"))
}

fn overview(snapshot: &Snapshot, max_services: usize, max_backends: usize) -> Overview<'_> {
    let sum = |of: fn(&Rate) -> f64| {
        snapshot.services.iter().map(|service| service.rate.as_ref().map(of)).sum()
    };
    let total: usize = snapshot.services.iter().map(|service| service.backends.len()).sum();
    let only_problems = total > max_backends;
    let mut remaining = max_backends;
    let mut services: Vec<&ServiceView> = snapshot.services.iter().collect();
    if services.len() > max_services {
        services.sort_by_key(|service| rating(service));
        services.truncate(max_services);
    }
    let services: Vec<Service<'_>> = services
        .into_iter()
        .map(|service| {
            let is_shown =
                |backend: &&BackendView| !only_problems || backend.rating() < Rating::Neutral;
            let backends: Vec<_> =
                service.backends.iter().filter(is_shown).take(remaining).map(backend).collect();
            remaining -= backends.len();
            let (up, configured) = service.usable();
            Service {
                name: &service.name,
                frontend: &service.frontend,
                rating: rating(service),
                health: service.status,
                up,
                configured,
                traffic: service.traffic,
                rate: service.rate,
                dropped: service.dropped,
                dropped_rate: service.dropped_rate,
                established: service.established,
                backends,
            }
        })
        .collect();
    Overview {
        at_ms: snapshot.at_ms,
        instance: &snapshot.instance,
        alive: snapshot.has_daemon(),
        daemon: snapshot.status.as_deref().map(Daemon::from),
        interfaces: snapshot
            .interfaces
            .iter()
            .map(|interface| format!("{} ({})", interface.name, interface.mode))
            .collect(),
        forwarded: Amount::of(snapshot, |v| matches!(v, Verdict::Tx | Verdict::Redirect)),
        passed: Amount::of(snapshot, |v| matches!(v, Verdict::Pass(_))),
        dropped: Amount::of(snapshot, |v| matches!(v, Verdict::Drop(_))),
        bytes_rate: sum(|rate| rate.bytes),
        flows_rate: sum(|rate| rate.flows),
        established: snapshot.established,
        flow_capacity: snapshot.flow_capacity,
        reasons: reasons(snapshot),
        hidden_services: snapshot.services.len() - services.len(),
        hidden_backends: total - services.iter().map(|s| s.backends.len()).sum::<usize>(),
        services,
    }
}

fn rating(service: &ServiceView) -> Rating {
    let worst = || service.backends.iter().map(BackendView::rating).min();
    service.status.map_or_else(|| worst().unwrap_or(Rating::Neutral), |health| health.rating())
}

fn backend(backend: &BackendView) -> Backend<'_> {
    Backend {
        address: backend.address.to_string(),
        label: backend.label(),
        rating: backend.rating(),
        weight: backend.weight,
        share: backend.share,
        drain_left_s: backend.drain_left_s,
        traffic: backend.traffic,
        rate: backend.rate,
        established: backend.established,
        status: backend.status.as_ref(),
    }
}

fn reasons(snapshot: &Snapshot) -> Vec<Reason> {
    let of = |view: &crate::serve::view::VerdictView| {
        let (verdict, explanation) = match view.verdict {
            Verdict::Drop(reason) => ("drop", reason.explanation()),
            Verdict::Reply(ReplyReason::NoBackend) => {
                ("reply", "no usable backend: the client gets ICMP port unreachable")
            }
            Verdict::Reply(ReplyReason::TooBig) => {
                ("reply", "too big for the path to the backend: the sender gets its MTU by ICMP")
            }
            Verdict::Tx | Verdict::Redirect | Verdict::Pass(_) => return None,
        };
        let amount = Amount { packets: view.packets, rate: view.rate };
        Some(Reason { verdict, reason: view.verdict.reason()?, explanation, amount })
    };
    snapshot.verdicts.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::view::fixture::{snapshot, status};

    #[test]
    fn an_event_is_one_line_of_json_with_state_reason_and_rates() {
        let before = snapshot(1000);
        let mut now = snapshot(3000);
        now.taken = before.taken + std::time::Duration::from_secs(2);
        let now = now.since(&before).with(Some(status(&["10.0.0.12"])));
        let event = serde_json::to_value(overview(&now, 10, 10)).unwrap();
        let web = &event["services"][1];
        assert_eq!((&web["name"], &web["mood"]), (&"web".into(), &"odd".into()));
        assert_eq!(web["health"]["state"], "degraded");
        assert_eq!(web["rate"]["packets"], 3000.0);
        let backend = &web["backends"][1];
        assert_eq!((&backend["label"], &backend["mood"]), (&"down".into(), &"bad".into()));
        assert_eq!(backend["status"]["reason"], "connection refused");
        assert_eq!(event["dropped"]["rate"], 0.0);
        let reasons = event["reasons"].as_array().unwrap();
        assert!(reasons.iter().all(|reason| reason["explanation"].as_str().unwrap().len() > 10));
        let text = serde_json::to_string(&overview(&now, 10, 10)).unwrap();
        assert!(!text.contains('\n'));
    }

    #[test]
    fn with_too_many_backends_only_those_with_problems_are_shown() {
        let now = snapshot(1000).with(Some(status(&["10.0.0.12"])));
        let event = overview(&now, 10, 3);
        let addresses: Vec<_> =
            event.services.iter().flat_map(|s| &s.backends).map(|b| b.address.as_str()).collect();
        assert_eq!(addresses, ["10.0.0.12"]);
        assert_eq!((event.hidden_services, event.hidden_backends), (0, 3));
        let event = overview(&now, 1, 10);
        assert_eq!((event.services[0].name, event.hidden_services), ("web", 1));
    }
}
