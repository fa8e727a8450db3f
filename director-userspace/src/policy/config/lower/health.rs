//! A service's checks, and how their results are used.

use std::{sync::Arc, time::Duration};

use super::{
    check::{a_check, agent, check},
    mapping::{items, untagged},
    scalar,
    service::Entry,
};
use crate::policy::config::{
    error::{ConfigErrorKind as Kind, WarningKind},
    model::{
        Agent, AgentSource, Backend, Health, HealthCheck, OnDown, Percent, Port, Probe, Protocol,
        Via,
    },
    raw::Value,
    report::{Item, Path, Report},
};

/// The keys of a service that are read here.
const KEYS: [&str; 7] =
    ["health", "agent", "quorum", "hysteresis", "on_down", "slow_start", "panic"];

/// The largest possible sum of weights.
const MAX_QUORUM: u32 = u16::MAX as u32 * crate::policy::config::model::MAX_BACKENDS as u32;

/// The health settings of `defaults`, read once and shared by the services that override none.
#[derive(Default)]
pub(super) struct Usual {
    /// `None` if there are errors in `defaults`, which are reported then.
    health: Option<Arc<Health>>,
}

impl Usual {
    /// Reads the keys of `defaults`, if there is one.
    pub(super) fn read(defaults: Option<&Entry<'_>>, report: &mut Report<'_>) -> Self {
        let health = match defaults {
            Some(defaults) => read(defaults, report),
            None => Some(Health::default()),
        };
        Self { health: health.map(Arc::new) }
    }

    /// A service's health.
    pub(super) fn of(&self, entry: &Entry<'_>, report: &mut Report<'_>) -> Option<Arc<Health>> {
        if KEYS.iter().any(|key| entry.has_own(key)) {
            read(entry, report).map(Arc::new)
        } else {
            self.health.clone()
        }
    }
}

fn read(entry: &Entry<'_>, report: &mut Report<'_>) -> Option<Health> {
    let default = Health::default();
    let checks = match entry.get("health") {
        Some(item) => checks(&item, report),
        None => Some(default.checks),
    };
    let agent = match entry.get("agent") {
        Some(item) if is_none(&item) => Some(None),
        Some(item) => agent(&item, report).map(Some),
        None => Some(None),
    };
    let quorum = match entry.get("quorum") {
        Some(item) => scalar::whole(&item, "quorum", 1..=MAX_QUORUM, report),
        None => Some(default.quorum),
    };
    let hysteresis = match entry.get("hysteresis") {
        Some(item) => scalar::whole(&item, "hysteresis", 0..=MAX_QUORUM, report),
        None => Some(default.hysteresis),
    };
    let on_down: Option<OnDown> = match entry.get("on_down") {
        Some(item) => scalar::word(&item, &[], report),
        None => Some(default.on_down),
    };
    let slow_start = match entry.get("slow_start") {
        Some(item) => scalar::duration(&item, Duration::ZERO, report),
        None => Some(default.slow_start),
    };
    let panic = match entry.get("panic") {
        Some(item) => panic(&item, report),
        None => Some(default.panic),
    };
    let (quorum, hysteresis) = (quorum?, hysteresis?);
    if hysteresis >= quorum
        && let Some(item) = entry.get("hysteresis")
    {
        let message =
            format!("a hysteresis of {hysteresis} is not less than the quorum of {quorum}");
        let hint = "the quorum is lost below quorum - hysteresis, which must be above 0";
        return report.error(Kind::NumberOutOfRange, &item, message, hint);
    }
    Some(Health {
        checks: checks?,
        agent: agent?,
        quorum,
        hysteresis,
        on_down: on_down?,
        slow_start: slow_start?,
        panic: panic?,
    })
}

/// One check, a list of them, or `none`.
fn checks(item: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<HealthCheck>> {
    match untagged(item, report) {
        Value::Seq(_) => {
            let all: Vec<_> = items(item, "", report)?.map(|item| check(&item, report)).collect();
            all.into_iter().collect()
        }
        _ if is_none(item) => Some(Vec::new()),
        _ => check(item, report).map(|check| vec![check]),
    }
}

fn is_none(item: &Item<'_>) -> bool {
    matches!(&item.node.value, Value::Scalar(text) if text == "none")
}

/// A share from 1% to 100%, or `never`, which is the same as 100%.
fn panic(item: &Item<'_>, report: &mut Report<'_>) -> Option<Percent> {
    match &item.node.value {
        Value::Scalar(text) if text == "never" => Some(Percent(100)),
        _ => scalar::percent(item, 1..=100, report),
    }
}

/// Checks a service's health settings against its port and protocols.
pub(super) fn check_fit(
    entry: &Entry<'_>,
    health: &Health,
    port: Port,
    protocols: &[Protocol],
    report: &mut Report<'_>,
) {
    if let Some(item) = entry.get("health") {
        let is_list = matches!(item.node.value, Value::Seq(_));
        for (index, check) in health.checks.iter().enumerate() {
            let path = if is_list { Path::Index(&item.path, index) } else { item.path };
            let node = match &item.node.value {
                Value::Seq(nodes) => &nodes[index],
                _ => item.node,
            };
            check_one(check, &Item { node, path }, port, protocols, report);
        }
    }
    if let Some(Agent { source: AgentSource::Http { port: None, .. }, .. }) = &health.agent
        && port == Port::Any
        && let Some(item) = entry.get("agent")
    {
        let message = "an http agent needs a port if the service's port is any";
        report.error::<()>(Kind::NoPort, &item, message, "write `port:` in it");
    }
}

fn check_one(
    check: &HealthCheck,
    item: &Item<'_>,
    port: Port,
    protocols: &[Protocol],
    report: &mut Report<'_>,
) {
    let transport = match check.probe {
        Probe::Tcp | Probe::Http(_) | Probe::Https(_) | Probe::Grpc(_) => Protocol::Tcp,
        Probe::Dns(_) | Probe::Udp(_) => Protocol::Udp,
        Probe::Icmp | Probe::Exec(_) => return,
    };
    if check.port.is_some() {
        return;
    }
    let what = a_check(check.probe.as_str());
    if port == Port::Any {
        let message = format!("{what} needs a port if the service's port is any");
        report.error::<()>(Kind::NoPort, item, message, "write `port:` in the check");
    } else if check.via == Via::Path && !protocols.contains(&transport) {
        let message = format!("{what} probes a {transport} port, and the service has none");
        let hint = "write a check of the service's protocol, or `port:` and a port of the VIP that \
                    the backends listen on too";
        report.error::<()>(Kind::PathCheck, item, message, hint);
    }
}

/// Warns of a quorum that can never be reached.
pub(super) fn check_quorum(
    entry: &Entry<'_>,
    health: &Health,
    backends: &[Backend],
    report: &mut Report<'_>,
) {
    let wanted = u64::from(health.quorum) + u64::from(health.hysteresis);
    if wanted <= 1 || backends.is_empty() {
        return;
    }
    let weights: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if weights < wanted
        && let Some(item) = entry.get("quorum")
    {
        let message =
            format!("the weights of all backends add up to {weights}, less than {wanted}");
        let hint = "once down, the service stays down: it comes back at a weight of quorum + \
                    hysteresis";
        report.warning(WarningKind::QuorumTooHigh, &item, message, hint);
    }
}
