//! What is probed of a configuration's backends: targets of health checks and agents, each once.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crate::{
    health::{AgentMode, AgentReport, AgentTarget, Target},
    policy::{
        config::model::{
            Agent, AgentSource, Backend, ForwardMode, HealthCheck, Port, Service, Start, Via,
        },
        health_policy::Load,
    },
};

/// Firewall marks of probes through the data path, by VIP, backend and forwarding mode.
pub(super) type Marks = HashMap<(IpAddr, IpAddr, ForwardMode), u32>;

/// The probes of a backend.
#[derive(Default)]
pub(super) struct Probes {
    pub(super) checks: Vec<Arc<Target>>,
    pub(super) agent: Option<Arc<AgentTarget>>,
    /// Number of checks through the data path that have no path.
    pub(super) without_path: usize,
    /// Whether one of those has `start: down`.
    pub(super) starts_down: bool,
}

pub(super) fn kind(check: &HealthCheck) -> String {
    match check.via {
        Via::Direct => check.probe.as_str().to_owned(),
        Via::Path => format!("{} via path", check.probe.as_str()),
    }
}

pub(super) fn load_of(report: &AgentReport) -> Load {
    let down = match report.mode {
        AgentMode::Up | AgentMode::Drain => None,
        mode => Some(if report.text.is_empty() { mode.to_string() } else { report.text.clone() }),
    };
    Load { share: report.share.unwrap_or(100), drains: report.mode == AgentMode::Drain, down }
}

/// Equal checks and agents are kept once.
#[derive(Default)]
pub(super) struct Interned {
    checks: HashMap<HealthCheck, Arc<HealthCheck>>,
    agents: HashMap<Agent, Arc<Agent>>,
}

/// Adds the service at this index to the users of a target; equal targets are shared.
pub(super) fn share<T: Eq + std::hash::Hash>(
    all: &mut HashMap<Arc<T>, Vec<usize>>,
    target: &mut Arc<T>,
    service: usize,
) {
    if let Some((same, _)) = all.get_key_value(target.as_ref()) {
        *target = same.clone();
    }
    let services = all.entry(target.clone()).or_default();
    if services.last() != Some(&service) {
        services.push(service);
    }
}

/// The probes of a service's backend.
pub(super) fn probes(
    service: &Service,
    backend: &Backend,
    marks: &Marks,
    interned: &mut Interned,
) -> Probes {
    let own_port = match service.frontend.port {
        Port::Any => None,
        Port::Exact(port) => Some(port.get()),
    };
    let mut probes = Probes::default();
    for check in &service.health.checks {
        let mark = match check.via {
            Via::Direct => None,
            Via::Path => {
                match marks.get(&(service.frontend.address, backend.address, service.forward)) {
                    Some(mark) => Some(*mark),
                    None => {
                        probes.without_path += 1;
                        probes.starts_down |= check.start == Start::Down;
                        continue;
                    }
                }
            }
        };
        let known = interned.checks.get(check).cloned();
        let check = known.unwrap_or_else(|| {
            let new = Arc::new(check.clone());
            interned.checks.insert(check.clone(), new.clone());
            new
        });
        let port = check.port.map(std::num::NonZeroU16::get).or(own_port);
        probes.checks.push(Arc::new(Target { check, address: backend.address, port, mark }));
    }
    if let Some(agent) = &service.health.agent {
        let agent =
            interned.agents.entry(agent.clone()).or_insert_with_key(|a| Arc::new(a.clone()));
        let port = match &agent.source {
            AgentSource::Agent { port } => Some(port.get()),
            AgentSource::Http { port, .. } => port.map(std::num::NonZeroU16::get).or(own_port),
            AgentSource::Exec(_) => own_port,
        };
        let target = AgentTarget { agent: agent.clone(), address: backend.address, port };
        probes.agent = Some(Arc::new(target));
    }
    probes
}
