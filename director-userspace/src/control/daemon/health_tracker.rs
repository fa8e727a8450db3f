//! The health of configured backends: their probes, the results, and the evaluation of services.

use std::{
    collections::{HashMap, HashSet},
    mem,
    net::IpAddr,
    sync::Arc,
};

use super::{
    overrides::Overrides,
    probes::{Interned, Marks, Probes, kind, load_of, probes, share},
};
use crate::{
    health::{AgentReport, AgentTarget, Checker, Event, Health, Target},
    kernel::{datapath::clock_ns, wall_clock},
    policy::{
        config::{
            Config,
            model::{Backend, Frontend, Service},
        },
        health_policy::{
            BackendEvaluation, BackendMemory, Change, Checked, Evaluation, Facts, HealthState,
            Memory, Now, Override, ServiceState, evaluate,
        },
    },
};

/// Probes, their results, and admin overrides.
pub(super) struct HealthTracker {
    checker: Checker,
    pub(super) overrides: Overrides,
    /// In the configuration's order.
    services: Vec<WatchedService>,
    memories: HashMap<Frontend, Memory>,
    targets: HashMap<Arc<Target>, TargetState<Health>>,
    agents: HashMap<Arc<AgentTarget>, TargetState<AgentReport>>,
    /// Backends that are known to be down, also from an earlier process; for targets that were not
    /// checked yet.
    known_down: HashMap<Frontend, HashSet<IpAddr>>,
}

/// The services that watch a target, and the state that its last event carried.
struct TargetState<T> {
    /// Their indices in the configuration.
    services: Vec<usize>,
    /// `None` until the target was checked.
    state: Option<T>,
}

/// What an evaluation changed.
pub(super) struct Evaluated {
    /// State changes to report.
    pub(super) changes: Vec<StateChange>,
    /// Indices of the services that differ from those in effect before.
    pub(super) differing: Vec<usize>,
}

/// A service's probes, and its last evaluation.
struct WatchedService {
    frontend: Frontend,
    /// In the order of its backends.
    backends: Vec<Probes>,
    state: ServiceState,
    since: u64,
    evaluations: Vec<BackendEvaluation>,
    /// When to evaluate it again, CLOCK_MONOTONIC nanoseconds.
    again_ns: Option<u64>,
}

impl WatchedService {
    fn new(frontend: Frontend) -> Self {
        Self {
            frontend,
            backends: Vec::new(),
            state: ServiceState::Unchecked,
            since: 0,
            evaluations: Vec::new(),
            again_ns: None,
        }
    }
}

/// A state change of a service.
#[derive(Clone, Debug)]
pub(super) struct StateChange {
    /// The service's name.
    pub(super) name: String,
    /// What identifies it.
    pub(super) frontend: Frontend,
    /// What changed.
    pub(super) change: Change,
}

/// The time by both clocks.
pub(super) fn now() -> Now {
    Now { ns: clock_ns(), unix: wall_clock::now() }
}

impl HealthTracker {
    /// `known_down` are backends that an earlier process found down, and since when (seconds since
    /// 1970): until they are checked, they count as down.
    pub(super) fn new(
        checker: Checker,
        overrides: Overrides,
        known_down: HashMap<(Frontend, IpAddr), u64>,
    ) -> Self {
        let mut memories: HashMap<Frontend, Memory> = HashMap::new();
        for ((frontend, address), since) in &known_down {
            let down = BackendMemory { state: HealthState::Down, since: *since, rose_ns: None };
            memories.entry(*frontend).or_default().backends.insert(*address, down);
        }
        Self {
            checker,
            overrides,
            services: Vec::new(),
            memories,
            targets: HashMap::new(),
            agents: HashMap::new(),
            known_down: known_down.into_keys().fold(
                HashMap::new(),
                |mut all, (frontend, address)| {
                    all.entry(frontend).or_insert_with(HashSet::new).insert(address);
                    all
                },
            ),
        }
    }

    /// Probes what `config` names; known probes continue undisturbed.
    pub(super) fn watch(&mut self, config: &Config, marks: &Marks) {
        let before = mem::take(&mut self.services).into_iter();
        let mut before: HashMap<Frontend, WatchedService> =
            before.map(|service| (service.frontend, service)).collect();
        let mut targets: HashMap<Arc<Target>, Vec<usize>> = HashMap::new();
        let mut agents: HashMap<Arc<AgentTarget>, Vec<usize>> = HashMap::new();
        let mut checks = Interned::default();
        let mut down = HashSet::new();
        for (at, service) in config.services.iter().enumerate() {
            let mut backends = Vec::with_capacity(service.backends.len());
            let known_down = self.known_down.get(&service.frontend);
            for backend in &service.backends {
                let mut probes = probes(service, backend, marks, &mut checks);
                for target in &mut probes.checks {
                    share(&mut targets, target, at);
                    if known_down.is_some_and(|known| known.contains(&backend.address)) {
                        down.insert(target.clone());
                    }
                }
                if let Some(agent) = &mut probes.agent {
                    share(&mut agents, agent, at);
                }
                backends.push(probes);
            }
            // The last evaluation stays until the next.
            let known = before.remove(&service.frontend);
            let known = known.unwrap_or_else(|| WatchedService::new(service.frontend));
            self.services.push(WatchedService { backends, ..known });
        }
        let initial = |target: &Target| down.contains(target).then_some(HealthState::Down);
        let wanted = targets.keys().map(|target| Target::clone(target));
        let wanted_agents = agents.keys().map(|agent| AgentTarget::clone(agent));
        self.checker.set(wanted, wanted_agents, &initial);
        // A target that stays keeps its state; for the others, the checker may have one.
        let (mut targets_before, mut agents_before) =
            (mem::take(&mut self.targets), mem::take(&mut self.agents));
        for (target, services) in targets {
            let before = targets_before.remove(&target).and_then(|known| known.state);
            let state = before.or_else(|| self.checker.health(&target));
            self.targets.insert(target, TargetState { services, state });
        }
        for (agent, services) in agents {
            let before = agents_before.remove(&agent).and_then(|known| known.state);
            let state = before.or_else(|| self.checker.agent(&agent));
            self.agents.insert(agent, TargetState { services, state });
        }
        let wanted: HashSet<Frontend> = config.services.iter().map(|s| s.frontend).collect();
        self.memories.retain(|frontend, _| wanted.contains(frontend));
        self.known_down.retain(|frontend, _| wanted.contains(frontend));
        for service in &config.services {
            if let Some(known) = self.known_down.get_mut(&service.frontend) {
                let there: HashSet<IpAddr> = service.backends.iter().map(|b| b.address).collect();
                known.retain(|address| there.contains(address));
            }
        }
    }

    /// Whether every target has been checked once.
    pub(super) fn is_settled(&self) -> bool {
        self.checker.is_settled()
    }

    /// Records the states that `events` carry; returns the indices of the services concerned.
    pub(super) fn record(&mut self, events: Vec<Event>) -> Vec<usize> {
        let mut services: Vec<usize> = Vec::new();
        for event in events {
            match event {
                Event::Check { target, health } => {
                    if let Some(known) = self.targets.get_mut(&target) {
                        known.state = Some(health);
                        services.extend(&known.services);
                    }
                }
                Event::Agent { target, report } => {
                    if let Some(known) = self.agents.get_mut(&target) {
                        known.state = Some(report);
                        services.extend(&known.services);
                    }
                }
            }
        }
        services.sort_unstable();
        services.dedup();
        services
    }

    /// Reads every state from the checker, which may be ahead of its events.
    pub(super) fn catch_up(&mut self) {
        for (target, known) in &mut self.targets {
            known.state = self.checker.health(target);
        }
        for (agent, known) in &mut self.agents {
            known.state = self.checker.agent(agent);
        }
    }

    /// Indices of the services that are due for evaluation by time alone.
    pub(super) fn due(&self, now_ns: u64) -> Vec<usize> {
        let is_due = |service: &WatchedService| service.again_ns.is_some_and(|at| at <= now_ns);
        let services = self.services.iter().enumerate();
        services.filter(|(_, service)| is_due(service)).map(|(at, _)| at).collect()
    }

    /// When the first of those is due; CLOCK_MONOTONIC, nanoseconds.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.services.iter().filter_map(|service| service.again_ns).min()
    }

    /// Evaluates all services; returns the configuration in effect, and state changes.
    pub(super) fn evaluate_all(&mut self, config: &Config) -> (Config, Vec<StateChange>) {
        let mut effective = config.clone();
        let all: Vec<usize> = (0..config.services.len()).collect();
        self.catch_up();
        let Evaluated { changes, .. } = self.evaluate_some(config, &all, &mut effective);
        (effective, changes)
    }

    /// The same for some services, in place; also returns which of them differ.
    pub(super) fn evaluate_some(
        &mut self,
        config: &Config,
        services: &[usize],
        effective: &mut Config,
    ) -> Evaluated {
        let mut differing = Vec::new();
        let now = now();
        let mut changes = Vec::new();
        for &at in services {
            let service = &config.services[at];
            let mut memory = self.memories.remove(&service.frontend).unwrap_or_default();
            let evaluation = self.evaluate_service(at, service, &mut memory, now);
            self.memories.insert(service.frontend, memory);
            let watched = &mut self.services[at];
            let (from, to) = (watched.state, evaluation.state);
            if from != to && watched.since != 0 {
                changes.push(StateChange {
                    name: service.name.to_string(),
                    frontend: service.frontend,
                    change: Change::Service { from, to },
                });
            }
            if watched.state != evaluation.state || watched.since == 0 {
                watched.since = now.unix;
            }
            watched.state = evaluation.state;
            watched.evaluations = evaluation.backends;
            // A new check, or one by a new path, has no result yet: the last one counts until then.
            let down = watched.evaluations.iter().filter(|backend| match backend.state {
                Some(HealthState::Down) => true,
                Some(HealthState::Up) | None => false,
            });
            let down: HashSet<IpAddr> = down.map(|backend| backend.address).collect();
            if down.is_empty() {
                self.known_down.remove(&service.frontend);
            } else {
                self.known_down.insert(service.frontend, down);
            }
            watched.again_ns = evaluation.again_ns;
            if effective.services[at] != evaluation.service {
                differing.push(at);
            }
            effective.services[at] = evaluation.service;
            changes.extend(evaluation.changes.into_iter().map(|change| StateChange {
                name: service.name.to_string(),
                frontend: service.frontend,
                change,
            }));
        }
        Evaluated { changes, differing }
    }

    /// The services in effect if `config` were the configuration. Nothing is recorded.
    pub(super) fn preview(&self, config: &Config, marks: &Marks) -> Config {
        let mut effective = config.clone();
        let mut checks = Interned::default();
        for (service, effective) in config.services.iter().zip(&mut effective.services) {
            if self.is_plain(service) {
                continue;
            }
            let mut memory = self.memories.get(&service.frontend).cloned().unwrap_or_default();
            let front = service.frontend.to_string();
            *effective = evaluate(service, &mut memory, now(), |backend| {
                let probes = probes(service, backend, marks, &mut checks);
                self.facts(service, backend, &probes, self.overrides.of(&front, backend.address))
            })
            .service;
        }
        effective
    }

    /// Whether neither health nor overrides change a service. Most of a hundred thousand backends
    /// belong to such.
    fn is_plain(&self, service: &Service) -> bool {
        let health = &service.health;
        health.checks.is_empty()
            && health.agent.is_none()
            && health.quorum <= 1
            && service.sorry.is_none()
            && (self.overrides.is_empty()
                || self.overrides.of_service(&service.frontend.to_string()).is_none())
    }

    fn evaluate_service(
        &self,
        at: usize,
        service: &Service,
        memory: &mut Memory,
        now: Now,
    ) -> Evaluation {
        if self.is_plain(service) {
            *memory = Memory::default();
            return Evaluation {
                service: service.clone(),
                state: ServiceState::Unchecked,
                backends: Vec::new(),
                changes: Vec::new(),
                again_ns: None,
            };
        }
        let overrides = self.overrides.of_service(&service.frontend.to_string());
        let mut index = 0;
        evaluate(service, memory, now, |backend| {
            let probes = &self.services[at].backends[index];
            index += 1;
            let own = overrides.and_then(|overrides| overrides.get(&backend.address)).cloned();
            self.facts(service, backend, probes, own.unwrap_or_default())
        })
    }

    fn facts(
        &self,
        service: &Service,
        backend: &Backend,
        probes: &Probes,
        admin_override: Override,
    ) -> Facts {
        let known_down = self.known_down.get(&service.frontend);
        let is_known_down = known_down.is_some_and(|known| known.contains(&backend.address));
        let mut checked = (probes.without_path > 0).then(|| Checked {
            state: if is_known_down || probes.starts_down {
                HealthState::Down
            } else {
                HealthState::Up
            },
            reason: "not checked yet".to_owned(),
        });
        for target in &probes.checks {
            let (state, reason) = match self.health(target) {
                Some(health) => (health.state, health.reason),
                None if is_known_down => (HealthState::Down, String::new()),
                None => (target.check.start.into(), String::new()),
            };
            let checked =
                checked.get_or_insert(Checked { state: HealthState::Up, reason: String::new() });
            match (checked.state, state) {
                (HealthState::Up, HealthState::Down) => {
                    let reason =
                        if reason.is_empty() { "not checked yet".to_owned() } else { reason };
                    let reason = format!("{}: {reason}", kind(&target.check));
                    *checked = Checked { state, reason };
                }
                (HealthState::Up, HealthState::Up) | (HealthState::Down, _) => {}
            }
        }
        let load = probes.agent.as_ref().and_then(|agent| self.report(agent));
        Facts { checked, load: load.map(|report| load_of(&report)), admin_override }
    }

    /// The health of a target by its last event. A target that is not watched, which a preview may
    /// name, is looked up in the checker.
    ///
    /// The reason is the checker's, which changes without an event.
    fn health(&self, target: &Arc<Target>) -> Option<Health> {
        let current = self.checker.health(target);
        let Some(known) = self.targets.get(target) else { return current };
        let known = known.state.clone()?;
        Some(current.filter(|current| current.state == known.state).unwrap_or(known))
    }

    /// The report of an agent, likewise.
    fn report(&self, agent: &Arc<AgentTarget>) -> Option<AgentReport> {
        let current = self.checker.agent(agent);
        let Some(known) = self.agents.get(agent) else { return current };
        let known = known.state.clone()?;
        let is_same =
            |current: &AgentReport| (current.mode, current.share) == (known.mode, known.share);
        Some(current.filter(is_same).unwrap_or(known))
    }

    /// Each service's evaluation, in the configuration's order.
    pub(super) fn evaluations(
        &self,
    ) -> impl Iterator<Item = (ServiceState, u64, &[BackendEvaluation], Vec<BackendChecks>)> {
        self.services.iter().map(|service| {
            let checks = service.backends.iter().map(|probes| self.checks(probes)).collect();
            (service.state, service.since, service.evaluations.as_slice(), checks)
        })
    }

    fn checks(&self, probes: &Probes) -> BackendChecks {
        let health = |target: &Arc<Target>| (target.clone(), self.checker.health(target));
        BackendChecks {
            checks: probes.checks.iter().map(health).collect(),
            agent: probes.agent.as_ref().and_then(|agent| self.checker.agent(agent)),
            without_path: probes.without_path,
        }
    }

    /// Backends that are down, for a later process.
    pub(super) fn down<'a>(
        &'a self,
        config: &'a Config,
    ) -> impl Iterator<Item = (&'a Service, IpAddr)> {
        config.services.iter().zip(&self.services).flat_map(|(service, watched)| {
            let down = watched.evaluations.iter().filter(|backend| backend.is_down());
            down.map(move |backend| (service, backend.address))
        })
    }
}

/// The probes of a backend, and their results.
pub(super) struct BackendChecks {
    pub(super) checks: Vec<(Arc<Target>, Option<Health>)>,
    pub(super) agent: Option<AgentReport>,
    pub(super) without_path: usize,
}
