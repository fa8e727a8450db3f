//! A sample as the page gets it: JSON of bounded size, in one server-sent event.

use bytes::Bytes;
use director_common::verdict::{ReplyReason, Verdict};
use serde::Serialize;

use crate::serve::view::{
    BackendView, Mood, Rate, Sample, ServiceHealth, ServiceView, Snapshot, Traffic,
    status::{BackendStatus, Status},
};

/// Most services in an event, those first that are not as they should be.
const MAX_SERVICES: usize = 500;
/// Most backends in an event, likewise.
const MAX_BACKENDS: usize = 2_000;

#[derive(Serialize)]
#[serde(untagged)]
enum Event<'a> {
    Shown(Box<Shown<'a>>),
    Failed { error: &'a str },
}

#[derive(Serialize)]
struct Shown<'a> {
    at_ms: u64,
    instance: &'a str,
    /// Whether the daemon's heart beats for the program.
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
    fn from(conditions: &'a Status) -> Self {
        Self {
            version: &conditions.version,
            pid: conditions.pid,
            started: conditions.started,
            config_path: &conditions.config_path,
            revision: conditions.revision,
            applied: conditions.applied,
            refused: conditions.refused.as_deref(),
            warnings: &conditions.warnings,
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
    mood: Mood,
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
    mood: Mood,
    weight: u16,
    share: f64,
    drain_left_s: Option<u64>,
    #[serde(flatten)]
    traffic: Traffic,
    rate: Option<Rate>,
    established: u64,
    condition: Option<&'a BackendStatus>,
}

/// The event for a sample.
pub(super) fn encode(sample: &Sample) -> Bytes {
    let event = match &sample.snapshot {
        Ok(snapshot) => Event::Shown(Box::new(shown(snapshot, MAX_SERVICES, MAX_BACKENDS))),
        Err(error) => Event::Failed { error },
    };
    // Plain data always serializes; JSON has no line breaks of its own.
    let json = serde_json::to_string(&event).unwrap_or_default();
    Bytes::from(format!("data: {json}\n\n"))
}

fn shown(snapshot: &Snapshot, max_services: usize, max_backends: usize) -> Shown<'_> {
    let sum = |of: fn(&Rate) -> f64| {
        snapshot.services.iter().map(|service| service.rate.as_ref().map(of)).sum()
    };
    let total: usize = snapshot.services.iter().map(|service| service.backends.len()).sum();
    let only_odd = total > max_backends;
    let mut room = max_backends;
    let mut services: Vec<&ServiceView> = snapshot.services.iter().collect();
    if services.len() > max_services {
        services.sort_by_key(|service| mood(service));
        services.truncate(max_services);
    }
    let services: Vec<Service<'_>> = services
        .into_iter()
        .map(|service| {
            let is_shown = |backend: &&BackendView| !only_odd || backend.mood() < Mood::Neutral;
            let backends: Vec<_> =
                service.backends.iter().filter(is_shown).take(room).map(backend).collect();
            room -= backends.len();
            let (up, configured) = service.usable();
            Service {
                name: &service.name,
                frontend: &service.frontend,
                mood: mood(service),
                health: service.condition,
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
    Shown {
        at_ms: snapshot.at_ms,
        instance: &snapshot.instance,
        alive: snapshot.has_daemon(),
        daemon: snapshot.conditions.as_deref().map(Daemon::from),
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

fn mood(service: &ServiceView) -> Mood {
    let worst = || service.backends.iter().map(BackendView::mood).min();
    service.condition.map_or_else(|| worst().unwrap_or(Mood::Neutral), |health| health.mood())
}

fn backend(backend: &BackendView) -> Backend<'_> {
    Backend {
        address: backend.address.to_string(),
        label: backend.label(),
        mood: backend.mood(),
        weight: backend.weight,
        share: backend.share,
        drain_left_s: backend.drain_left_s,
        traffic: backend.traffic,
        rate: backend.rate,
        established: backend.established,
        condition: backend.condition.as_ref(),
    }
}

fn reasons(snapshot: &Snapshot) -> Vec<Reason> {
    let of = |view: &crate::serve::view::VerdictView| {
        let (verdict, explanation) = match view.verdict {
            Verdict::Drop(reason) => ("drop", reason.explanation()),
            Verdict::Reply(ReplyReason::NoBackend) => {
                ("reply", "no usable backend: the client was told, by ICMP port unreachable")
            }
            Verdict::Reply(ReplyReason::TooBig) => {
                ("reply", "too big for the way to the backend: the sender was told what fits")
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
    use crate::serve::view::fixture::{conditions, snapshot};

    #[test]
    fn an_event_is_one_line_of_json_with_state_reason_and_rates() {
        let before = snapshot(1000);
        let mut now = snapshot(3000);
        now.taken = before.taken + std::time::Duration::from_secs(2);
        let now = now.since(&before).with(Some(conditions(&["10.0.0.12"])));
        let event = serde_json::to_value(shown(&now, 10, 10)).unwrap();
        let web = &event["services"][1];
        assert_eq!((&web["name"], &web["mood"]), (&"web".into(), &"odd".into()));
        assert_eq!(web["health"]["state"], "degraded");
        assert_eq!(web["rate"]["packets"], 3000.0);
        let backend = &web["backends"][1];
        assert_eq!((&backend["label"], &backend["mood"]), (&"down".into(), &"bad".into()));
        assert_eq!(backend["condition"]["reason"], "connection refused");
        assert_eq!(event["dropped"]["rate"], 0.0);
        let reasons = event["reasons"].as_array().unwrap();
        assert!(reasons.iter().all(|reason| reason["explanation"].as_str().unwrap().len() > 10));
        let text = serde_json::to_string(&shown(&now, 10, 10)).unwrap();
        assert!(!text.contains('\n'));
    }

    #[test]
    fn of_too_many_backends_those_in_trouble_are_shown() {
        let now = snapshot(1000).with(Some(conditions(&["10.0.0.12"])));
        let event = shown(&now, 10, 3);
        let shown_ones: Vec<_> =
            event.services.iter().flat_map(|s| &s.backends).map(|b| b.address.as_str()).collect();
        assert_eq!(shown_ones, ["10.0.0.12"]);
        assert_eq!((event.hidden_services, event.hidden_backends), (0, 3));
        let event = shown(&now, 1, 10);
        assert_eq!((event.services[0].name, event.hidden_services), ("web", 1));
    }
}
