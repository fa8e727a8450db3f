//! The health of what the configuration names: what is probed, what came of it, and what follows.

use std::{
    collections::{HashMap, HashSet},
    mem,
    net::IpAddr,
    sync::Arc,
};

use crate::{
    health::{AgentMode, AgentReport, AgentTarget, Checker, Event, Health, Target},
    kernel::{datapath::clock_ns, wall_clock},
    policy::{
        config::{
            Config,
            model::{
                Agent, AgentSource, Backend, ForwardMode, Frontend, HealthCheck, Port, Service,
                Start, Via,
            },
        },
        health_policy::{
            BackendEvaluation, BackendMemory, Change, Checked, Evaluation, Facts, Load, Memory,
            Now, Override, Overrides, ServiceState, evaluate,
        },
    },
};

/// Which firewall mark takes a probe which way: from a VIP to a backend, forwarded so.
pub(super) type Marks = HashMap<(IpAddr, IpAddr, ForwardMode), u32>;

/// Probes, their outcome, and what was said by hand.
pub(super) struct HealthTracker {
    checker: Checker,
    pub(super) overrides: Overrides,
    /// As the configuration's services.
    watched: Vec<Watched>,
    memories: HashMap<Frontend, Memory>,
    by_target: HashMap<Arc<Target>, Vec<usize>>,
    by_agent: HashMap<Arc<AgentTarget>, Vec<usize>>,
    /// Backends that are known to be down, also from an earlier process; for targets that were not
    /// asked yet.
    remembered: HashSet<(Frontend, IpAddr)>,
}

/// What is watched of a service, and how it stood last.
struct Watched {
    frontend: Frontend,
    /// As its backends.
    backends: Vec<Probes>,
    state: ServiceState,
    since: u64,
    evaluations: Vec<BackendEvaluation>,
    /// When it is to be evaluated again, CLOCK_MONOTONIC nanoseconds.
    again_ns: Option<u64>,
}

impl Watched {
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

/// What is asked about a backend.
#[derive(Default)]
struct Probes {
    checks: Vec<Arc<Target>>,
    agent: Option<Arc<AgentTarget>>,
    /// Checks that would go the way the traffic goes, were that way there.
    impossible: usize,
    /// Whether one of those takes a backend for down at first.
    starts_down: bool,
}

/// A change of a service's health.
#[derive(Clone, Debug)]
pub(super) struct StateChange {
    /// The service's name.
    pub(super) name: String,
    /// What identifies it.
    pub(super) frontend: Frontend,
    /// What changed.
    pub(super) change: Change,
}

/// Both clocks.
pub(super) fn now() -> Now {
    Now { ns: clock_ns(), unix: wall_clock::now() }
}

impl HealthTracker {
    /// `remembered` are backends that an earlier process knew to be down, and since when (seconds since
    /// 1970): until they have been asked, they are taken for that.
    pub(super) fn new(
        checker: Checker,
        overrides: Overrides,
        remembered: HashMap<(Frontend, IpAddr), u64>,
    ) -> Self {
        let mut memories: HashMap<Frontend, Memory> = HashMap::new();
        for ((frontend, address), since) in &remembered {
            let down = BackendMemory { up: false, since: *since, rose_ns: None };
            memories.entry(*frontend).or_default().backends.insert(*address, down);
        }
        Self {
            checker,
            overrides,
            watched: Vec::new(),
            memories,
            by_target: HashMap::new(),
            by_agent: HashMap::new(),
            remembered: remembered.into_keys().collect(),
        }
    }

    /// Watches what `config` names; known probes go on undisturbed.
    pub(super) fn watch(&mut self, config: &Config, marks: &Marks) {
        let before = mem::take(&mut self.watched).into_iter();
        let mut before: HashMap<Frontend, Watched> =
            before.map(|watched| (watched.frontend, watched)).collect();
        let mut targets: HashMap<Arc<Target>, Vec<usize>> = HashMap::new();
        let mut agents: HashMap<Arc<AgentTarget>, Vec<usize>> = HashMap::new();
        let mut checks = Interned::default();
        let mut down = HashSet::new();
        for (at, service) in config.services.iter().enumerate() {
            let mut backends = Vec::with_capacity(service.backends.len());
            for backend in &service.backends {
                let mut probes = probes(service, backend, marks, &mut checks);
                for target in &mut probes.checks {
                    share(&mut targets, target, at);
                    if self.remembered.contains(&(service.frontend, backend.address)) {
                        down.insert(target.clone());
                    }
                }
                if let Some(agent) = &mut probes.agent {
                    share(&mut agents, agent, at);
                }
                backends.push(probes);
            }
            // How it stood is how it stands until it is evaluated again.
            let known = before.remove(&service.frontend);
            let known = known.unwrap_or_else(|| Watched::new(service.frontend));
            self.watched.push(Watched { backends, ..known });
        }
        let is_down = |target: &Target| down.contains(target).then_some(false);
        let wanted = targets.keys().map(|target| Target::clone(target));
        let asked = agents.keys().map(|agent| AgentTarget::clone(agent));
        self.checker.set(wanted, asked, &is_down);
        (self.by_target, self.by_agent) = (targets, agents);
        let wanted: HashSet<Frontend> = config.services.iter().map(|s| s.frontend).collect();
        self.memories.retain(|frontend, _| wanted.contains(frontend));
        self.remembered.retain(|(frontend, _)| wanted.contains(frontend));
        if !self.remembered.is_empty() {
            let there = config.services.iter().flat_map(|service| {
                service.backends.iter().map(|backend| (service.frontend, backend.address))
            });
            let there: HashSet<_> = there.collect();
            self.remembered.retain(|whose| there.contains(whose));
        }
    }

    /// Whether everything has been asked once.
    pub(super) fn is_settled(&self) -> bool {
        self.checker.is_settled()
    }

    /// The services of the configuration that `events` are about.
    pub(super) fn concerned(&mut self, events: &[Event]) -> Vec<usize> {
        let mut services: Vec<usize> = Vec::new();
        for event in events {
            let about = match event {
                Event::Check { target, .. } => self.by_target.get(target),
                Event::Agent { target, .. } => self.by_agent.get(target),
            };
            services.extend(about.into_iter().flatten());
        }
        services.sort_unstable();
        services.dedup();
        services
    }

    /// The services that are to be looked at by now though nothing happened to them.
    pub(super) fn due(&self, now_ns: u64) -> Vec<usize> {
        let is_due = |watched: &Watched| watched.again_ns.is_some_and(|at| at <= now_ns);
        let services = self.watched.iter().enumerate();
        services.filter(|(_, watched)| is_due(watched)).map(|(at, _)| at).collect()
    }

    /// When the first of those will be; CLOCK_MONOTONIC, nanoseconds.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.watched.iter().filter_map(|watched| watched.again_ns).min()
    }

    /// How all services are to be, and what is new about them.
    pub(super) fn evaluate_all(&mut self, config: &Config) -> (Config, Vec<StateChange>) {
        let mut effective = config.clone();
        let all: Vec<usize> = (0..config.services.len()).collect();
        let (news, _) = self.evaluate_some(config, &all, &mut effective);
        (effective, news)
    }

    /// The same for some, in place; also whether anything is to be other than it was.
    pub(super) fn evaluate_some(
        &mut self,
        config: &Config,
        services: &[usize],
        effective: &mut Config,
    ) -> (Vec<StateChange>, bool) {
        let mut is_other = false;
        let now = now();
        let mut news = Vec::new();
        for &at in services {
            let service = &config.services[at];
            let mut memory = self.memories.remove(&service.frontend).unwrap_or_default();
            let evaluation = self.evaluated(at, service, &mut memory, now);
            self.memories.insert(service.frontend, memory);
            let watched = &mut self.watched[at];
            let (from, to) = (watched.state, evaluation.state);
            if from != to && watched.since != 0 {
                news.push(StateChange {
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
            // Another check, or another way to it, has not been asked yet, and knows no better.
            if watched.evaluations.is_empty() && !self.remembered.is_empty() {
                self.remembered.retain(|(frontend, _)| *frontend != service.frontend);
            }
            for backend in &watched.evaluations {
                let is_whose = (service.frontend, backend.address);
                match backend.up {
                    Some(false) => _ = self.remembered.insert(is_whose),
                    Some(true) | None => _ = self.remembered.remove(&is_whose),
                }
            }
            watched.again_ns = evaluation.again_ns;
            is_other |= effective.services[at] != evaluation.service;
            effective.services[at] = evaluation.service;
            news.extend(evaluation.changes.into_iter().map(|change| StateChange {
                name: service.name.to_string(),
                frontend: service.frontend,
                change,
            }));
        }
        (news, is_other)
    }

    /// How services would be if `config` were in effect. Nothing is remembered.
    pub(super) fn preview(&self, config: &Config, marks: &Marks) -> Config {
        let mut effective = config.clone();
        let mut checks = Interned::default();
        for (service, effective) in config.services.iter().zip(&mut effective.services) {
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

    fn evaluated(&self, at: usize, service: &Service, memory: &mut Memory, now: Now) -> Evaluation {
        let said = self.overrides.of_service(&service.frontend.to_string());
        let health = &service.health;
        let is_plain = health.checks.is_empty()
            && health.agent.is_none()
            && health.quorum <= 1
            && service.sorry.is_none()
            && said.is_none();
        if is_plain {
            // Of a hundred thousand backends, most are these.
            *memory = Memory::default();
            return Evaluation {
                service: service.clone(),
                state: ServiceState::Unchecked,
                backends: Vec::new(),
                changes: Vec::new(),
                again_ns: None,
            };
        }
        let mut place = 0;
        evaluate(service, memory, now, |backend| {
            let probes = &self.watched[at].backends[place];
            place += 1;
            let admin_override = said.and_then(|said| said.get(&backend.address)).cloned();
            self.facts(service, backend, probes, admin_override.unwrap_or_default())
        })
    }

    fn facts(
        &self,
        service: &Service,
        backend: &Backend,
        probes: &Probes,
        admin_override: Override,
    ) -> Facts {
        let is_remembered = self.remembered.contains(&(service.frontend, backend.address));
        let mut checked = (probes.impossible > 0).then(|| Checked {
            up: !is_remembered && !probes.starts_down,
            reason: "not asked yet".to_owned(),
        });
        for target in &probes.checks {
            let health = self.checker.health(target);
            let (up, reason) = health.map_or_else(
                || (!is_remembered && target.check.start == Start::Up, String::new()),
                |health| (health.up, health.reason),
            );
            let checked = checked.get_or_insert(Checked { up: true, reason: String::new() });
            if !up && checked.up {
                let reason = if reason.is_empty() { "not asked yet".to_owned() } else { reason };
                *checked = Checked { up, reason: format!("{}: {reason}", kind(&target.check)) };
            }
        }
        let load = probes.agent.as_ref().and_then(|agent| self.checker.agent(agent));
        Facts { checked, load: load.map(|report| load_of(&report)), admin_override }
    }

    /// How each service stands, in the configuration's order.
    pub(super) fn evaluations(
        &self,
    ) -> impl Iterator<Item = (ServiceState, u64, &[BackendEvaluation], Vec<BackendChecks>)> {
        self.watched.iter().map(|watched| {
            let checks = watched.backends.iter().map(|probes| self.checks(probes)).collect();
            (watched.state, watched.since, watched.evaluations.as_slice(), checks)
        })
    }

    fn checks(&self, probes: &Probes) -> BackendChecks {
        let health = |target: &Arc<Target>| (target.clone(), self.checker.health(target));
        BackendChecks {
            checks: probes.checks.iter().map(health).collect(),
            agent: probes.agent.as_ref().and_then(|agent| self.checker.agent(agent)),
            impossible: probes.impossible,
        }
    }

    /// Backends that are down, for a later process.
    pub(super) fn down<'a>(
        &'a self,
        config: &'a Config,
    ) -> impl Iterator<Item = (&'a Service, IpAddr)> {
        config.services.iter().zip(&self.watched).flat_map(|(service, watched)| {
            let down = watched.evaluations.iter().filter(|backend| backend.up == Some(false));
            down.map(move |backend| (service, backend.address))
        })
    }
}

/// What is asked about a backend, and what came of it.
pub(super) struct BackendChecks {
    pub(super) checks: Vec<(Arc<Target>, Option<Health>)>,
    pub(super) agent: Option<AgentReport>,
    pub(super) impossible: usize,
}

fn kind(check: &HealthCheck) -> String {
    match check.via {
        Via::Direct => check.probe.as_str().to_owned(),
        Via::Path => format!("{} via path", check.probe.as_str()),
    }
}

fn load_of(report: &AgentReport) -> Load {
    let down = match report.mode {
        AgentMode::Up | AgentMode::Drain => None,
        mode => Some(if report.text.is_empty() { mode.to_string() } else { report.text.clone() }),
    };
    Load { share: report.share.unwrap_or(100), drains: report.mode == AgentMode::Drain, down }
}

/// Equal checks and agents are kept once.
#[derive(Default)]
struct Interned {
    checks: HashMap<HealthCheck, Arc<HealthCheck>>,
    agents: HashMap<Agent, Arc<Agent>>,
}

/// Notes that the service at this place wants a target, and has it share those of others.
fn share<T: Eq + std::hash::Hash>(
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

/// What is asked about a backend of a service.
fn probes(service: &Service, backend: &Backend, marks: &Marks, interned: &mut Interned) -> Probes {
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
                        probes.impossible += 1;
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
