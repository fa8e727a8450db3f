//! `director run`: one event loop.
//!
//! - `events`: the events;
//! - `file`: the configuration file and its changes;
//! - `health_tracker`: backends' health, and its evaluation;
//! - `commands`: requests to the API;
//! - `history`: configurations that were in effect;
//! - `status`: what the API, metrics and the page show.
//!
//! Every event ends in a configuration *in effect* (the file's, with weights and backends as health
//! and operators set them), or in a part of what is known being doubtful; [`Director::step`] changes
//! the maps to it, a bounded step at a time. The heartbeat and the watchdog have a thread of their
//! own (`heart`), the kernel's notifications a task ([`HostChanges`]).

mod boot_state;
mod commands;
mod events;
mod file;
#[doc(hidden)]
pub mod fuzz;
mod health_tracker;
mod heart;
mod history;
mod notify;
mod overrides;
mod paths;
mod probes;
mod status;
mod watch;
mod web;

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch as latest, time::Instant};
use tracing::{error, info, warn};

use self::{
    events::{Event, Events},
    file::{Stamp, When},
    health_tracker::{Evaluated, HealthTracker, StateChange},
    heart::Heart,
    history::History,
    overrides::Overrides,
    probes::Marks,
    web::Web,
};
use crate::{
    alarm::{Notifier, Subject, Transition},
    control::director::{
        Changed, Director, DirectorError, HostChanges, Repaired, Scope, Stepped, Waits,
    },
    health::{Checker, Event as HealthEvent},
    kernel::{
        datapath::{Instance, Pulse, clock_ns},
        net::{NetError, Netlink},
        path_probe::PathProbes,
        wall_clock,
    },
    policy::{
        config::{Config, ConfigErrors},
        health_policy::{Change as HealthChange, HealthState, QuorumState},
    },
    serve::{
        api::{Published, Request, server::Server},
        view::Status,
    },
};

/// How long the delivery of alarms may take when the daemon ends.
const SHUTDOWN_NOTICE: Duration = Duration::from_secs(2);
/// Most steps of a change that are written into the log.
const STEPS_LOGGED: usize = 200;
/// How long the daemon waits for the first round of probes before it reports that it is ready.
const FIRST_ROUND: Duration = Duration::from_secs(10);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration it was started with is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The director could not start.
    #[error(transparent)]
    Director(#[from] DirectorError),
    /// Changes of the network configuration cannot be watched.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The file cannot be watched, signals cannot be handled, or no thread can be started.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// The system's error.
        error: io::Error,
    },
}

/// Runs a director by the file at `path` until SIGTERM or SIGINT. Forwarding continues then.
///
/// # Errors
///
/// If it cannot start; later errors are logged, and the configuration in effect stays.
pub async fn run(
    path: &Path,
    instance: &Instance,
    mut started: impl FnMut(),
) -> Result<(), DaemonError> {
    let (text, loaded) = file::load(path).await?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let config = loaded.config;
    let system = |what: &str| {
        let what = what.to_owned();
        move |error| DaemonError::System { what, error }
    };
    let (checker, health) = Checker::new().map_err(system("the health checks"))?;
    let host = HostChanges::default();
    let (mut events, commands) = Events::new(path, health, host.clone())?;
    let heart = Heart::start(host.clone()).map_err(system("the heartbeat's thread"))?;
    let state = history::state_directory(instance);
    file::sweep(path, &state, instance);
    let overrides_at = state.join("state.json");
    let overrides = Overrides::load(&overrides_at).map_err(system(&format!(
        "{}: remove it to start without overrides",
        overrides_at.display()
    )))?;
    let netlink = Netlink::connect()?;
    host.watch(&netlink)?;
    let known_down = boot_state::read(instance, &config);
    let mut health_tracker = HealthTracker::new(checker, overrides, known_down);
    health_tracker.watch(&config, &Marks::new());
    let (effective, changes) = health_tracker.evaluate_all(&config);
    let (history, history_error) = History::open(&state, &instance.run_dir());
    if let Some(error) = history_error {
        warn!("{}: {error}: no earlier configuration can be rolled back to", state.display());
    }
    let is_detached = boot_state::is_detached(instance);
    let (director, logged) = if is_detached {
        info!("detached by `director detach`: `director attach` resumes forwarding");
        (None, Vec::new())
    } else {
        let waits = Waits::ForInterfaces;
        let started =
            Director::start(netlink.clone(), instance, &effective, host.clone(), waits).await;
        let (director, changed) = started?;
        report("started", &changed);
        heart.set(Some(Pulse::open(instance).map_err(DirectorError::from)?));
        let logged = director.warnings().into_iter().chain(changed.warnings).collect();
        (Some(director), logged)
    };
    let mut daemon = Daemon {
        instance: instance.clone(),
        director,
        host,
        heart,
        health_tracker,
        marks: Marks::new(),
        effective,
        history,
        alarms: Notifier::start(instance.name(), &config.alarms),
        path_probes: PathProbes::new(netlink.clone(), instance),
        netlink,
        path_probes_error: None,
        server: None,
        server_error: None,
        web: Web::default(),
        commands,
        config,
        answers: Published::default(),
        answered_at: None,
        published: latest::channel(Arc::new(Status::default())).0,
        status_changed: true,
        path: path.to_path_buf(),
        file_read: None,
        file_seen: None,
        refused: None,
        file_warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        logged,
        started_at: wall_clock::now(),
        is_ready: false,
    };
    daemon.record_revision(text, "file").await;
    daemon.notify(&changes);
    // The API starts after forwarding and health, which matter more.
    daemon.listen().await;
    // Attaching took a while: what changed meanwhile is looked at before it is ready.
    daemon.host_changed().await;
    daemon.heart.beat();
    daemon.publish();
    started();
    // The file may have been written between the first read and the watch, or is being written now.
    events.schedule_file_check();
    let ready_at_most = Instant::now() + FIRST_ROUND;
    loop {
        if !daemon.is_ready
            && (daemon.health_tracker.is_settled() || Instant::now() >= ready_at_most)
        {
            daemon.is_ready = true;
            // The results of the first round are in effect before it is ready.
            daemon.evaluate_all().await;
            notify::ready(&daemon.summary());
            info!("ready");
        }
        daemon.heart.progress();
        let step = daemon.director.as_ref().and_then(Director::due);
        match events.next(daemon.due(), step).await {
            Event::Tick => daemon.tick().await,
            Event::FileWritten => {
                if daemon.reload(When::AtOnce).await.is_ok() {
                    events.file_was_read();
                }
            }
            Event::FileSettled => drop(daemon.reload(When::Settled).await),
            Event::Reload => {
                notify::reloading();
                daemon.forget_next_hops();
                drop(daemon.reload(When::Requested).await);
                notify::ready(&daemon.summary());
            }
            Event::Host => daemon.host_changed().await,
            Event::Health(events) => daemon.on_health(events),
            Event::Due => daemon.evaluate_due(),
            Event::Step => daemon.step().await,
            Event::Command(request) => daemon.command(request).await,
            Event::Stop(signal) => break daemon.stop(signal).await,
        }
    }
    Ok(())
}

struct Daemon {
    netlink: Netlink,
    instance: Instance,
    /// `None` while it is detached.
    director: Option<Director>,
    host: HostChanges,
    heart: Heart,
    health_tracker: HealthTracker,
    marks: Marks,
    /// The file's configuration.
    config: Config,
    /// The configuration in effect.
    effective: Config,
    history: History,
    alarms: Notifier,
    path_probes: PathProbes,
    /// Why health checks through the data path cannot be made.
    path_probes_error: Option<String>,
    server: Option<Server>,
    /// Why there is no server.
    server_error: Option<String>,
    web: Web,
    /// For the next server.
    commands: tokio::sync::mpsc::Sender<Request>,
    /// For metrics and the page.
    published: latest::Sender<Arc<Status>>,
    /// For questions to the API while the loop is busy.
    answers: Published,
    /// When they were set.
    answered_at: Option<Instant>,
    /// Whether the status changed since it was published.
    status_changed: bool,
    path: PathBuf,
    /// The file when it was last read.
    file_read: Option<Stamp>,
    /// The file when it was last checked.
    file_seen: Option<Stamp>,
    /// Why the file as last read is not in effect.
    refused: Option<String>,
    /// Warnings about the file.
    file_warnings: Vec<String>,
    /// The director's warnings that are logged already.
    logged: Vec<String>,
    /// Seconds since 1970.
    started_at: u64,
    is_ready: bool,
}

impl Daemon {
    async fn tick(&mut self) {
        if let Some(director) = &mut self.director {
            director.end_drains();
        }
        self.scrub();
        if self.director.as_ref().is_some_and(Director::repair_is_due) {
            self.repair().await;
            self.check_file().await;
        }
        self.log_warnings();
        self.publish();
    }

    /// When [`Event::Due`] is due.
    fn due(&self) -> Option<Instant> {
        let ns = self.health_tracker.next_due()?.saturating_sub(clock_ns());
        Some(Instant::now() + Duration::from_nanos(ns))
    }

    fn forget_next_hops(&mut self) {
        if let Some(director) = &mut self.director {
            director.forget_next_hops();
        }
    }

    /// Looks at the host; what that makes doubtful is brought right by further steps.
    async fn host_changed(&mut self) {
        if let Some(director) = &mut self.director {
            director.host_changed();
            self.step().await;
            self.log_warnings();
        } else {
            self.host.take();
            self.host.looked();
        }
        // Paths of health checks may have changed, too.
        self.watch_health().await;
    }

    /// Takes the director one step closer to what is wanted.
    async fn step(&mut self) {
        let Some(director) = &mut self.director else { return };
        let Stepped { plan, error } = director.step().await;
        if !plan.is_empty() {
            info!("in effect now:\n{}", plan.brief(STEPS_LOGGED));
            self.status_changed = true;
        }
        if let Some(error) = error {
            self.notify_director("in effect", "stuck", &error.to_string());
        }
    }

    /// Logs the director's warnings that are new.
    fn log_warnings(&mut self) {
        let Some(director) = &self.director else { return };
        let warnings = director.warnings();
        if warnings == self.logged {
            return;
        }
        let logged: HashSet<&String> = self.logged.iter().collect();
        for warning in warnings.iter().filter(|warning| !logged.contains(warning)) {
            warn!("{warning}");
        }
        self.logged = warnings;
        self.status_changed = true;
    }

    /// Restores what other processes changed in the maps: a bounded step of it with each heartbeat.
    fn scrub(&mut self) {
        if let Some(director) = &mut self.director {
            let repaired = director.scrub();
            self.report_repaired(&repaired);
        }
    }

    fn report_repaired(&self, repaired: &Repaired) {
        if repaired.is_empty() {
            return;
        }
        let what = repaired.to_string();
        warn!("another process changed this director's maps or pins; repaired:\n{what}");
        self.notify_director("changed by somebody else", "repaired", &what);
    }

    /// Restores maps, pins and probe filters that other processes changed.
    async fn repair(&mut self) {
        self.listen().await;
        for name in self.restore_path_probes().await {
            let what = format!("the filters of checks via path on {name}");
            warn!("another process removed {what}; restored");
            self.notify_director("changed by somebody else", "repaired", &what);
        }
        if let Some(director) = &mut self.director {
            match director.repair() {
                Ok(repaired) => self.report_repaired(&repaired),
                Err(error) => error!("cannot compare the maps with what they should hold: {error}"),
            }
        }
    }

    /// Handles events of health checks and agents.
    fn on_health(&mut self, events: Vec<HealthEvent>) {
        self.status_changed = true;
        let services = self.health_tracker.record(events);
        self.want(&services);
    }

    /// Evaluates services that are due: slow starts take a step, and drains end.
    fn evaluate_due(&mut self) {
        let services = self.health_tracker.due(clock_ns());
        self.want(&services);
    }

    /// Evaluates some services; what differs is wanted from now on.
    fn want(&mut self, services: &[usize]) {
        let differing = self.evaluate(services);
        if let Some(director) = &mut self.director {
            director.want(&self.effective, &differing);
        }
    }

    /// Evaluates some services, and brings the result into effect at once.
    async fn evaluate_now(&mut self, services: &[usize]) -> Vec<String> {
        let differing = self.evaluate(services);
        let Some(director) = &mut self.director else { return Vec::new() };
        if differing.is_empty() {
            return Vec::new();
        }
        match director.change(&self.effective, Scope::Services(&differing)).await {
            Ok(changed) => {
                let steps = changed.plan.brief(STEPS_LOGGED);
                if !changed.plan.is_empty() {
                    info!("in effect now:\n{steps}");
                }
                steps.lines().map(ToOwned::to_owned).collect()
            }
            Err(error) => {
                // Wanted all the same: the steps try again.
                director.want(&self.effective, &differing);
                warn!("cannot bring the new service state into effect yet: {error}");
                Vec::new()
            }
        }
    }

    /// Evaluates some services; returns which of them differ in the configuration in effect.
    fn evaluate(&mut self, services: &[usize]) -> Vec<usize> {
        if services.is_empty() {
            return Vec::new();
        }
        let Evaluated { changes, differing } =
            self.health_tracker.evaluate_some(&self.config, services, &mut self.effective);
        self.notify(&changes);
        if !changes.is_empty() {
            boot_state::write(&self.instance, self.health_tracker.down(&self.config));
        }
        self.status_changed = true;
        differing
    }

    /// Reports state changes of services.
    fn notify(&self, changes: &[StateChange]) {
        for StateChange { name, frontend, change } in changes {
            let (name, frontend) = (name.clone(), frontend.to_string());
            let transition = match change {
                HealthChange::Backend { address, state, reason } => {
                    let subject = Subject::Backend { service: name, frontend, address: *address };
                    let from = match state {
                        HealthState::Up => HealthState::Down,
                        HealthState::Down => HealthState::Up,
                    };
                    Transition::now(subject, from.label(), state.label(), reason)
                }
                HealthChange::Quorum { quorum, weight, needed } => {
                    let from = match quorum {
                        QuorumState::Held => QuorumState::Lost,
                        QuorumState::Lost => QuorumState::Held,
                    };
                    let subject = Subject::Quorum { name, frontend };
                    let reason = format!("weight up: {weight}, needed: {needed}");
                    Transition::now(subject, from.label(), quorum.label(), &reason)
                }
                HealthChange::Panic { panics: true, down, of } => {
                    warn!(
                        "{down} of {of} backends of {name} ({frontend}) are down at once: the \
                         checks are more likely wrong, so all are kept"
                    );
                    continue;
                }
                HealthChange::Panic { panics: false, .. } => continue,
                HealthChange::Service { from, to } => {
                    let subject = Subject::Service { name, frontend };
                    Transition::now(subject, from.label(), to.label(), "")
                }
            };
            self.alarms.notify(transition);
        }
    }

    /// Reports a state change of the director itself.
    fn notify_director(&self, from: &str, to: &str, reason: &str) {
        self.alarms.notify(Transition::now(Subject::Director, from, to, reason));
    }

    async fn stop(&mut self, signal: &str) {
        notify::stopping();
        self.alarms.flush(SHUTDOWN_NOTICE).await;
        self.server = None;
        self.heart.set(None);
        if self.director.is_some() {
            info!("{signal}: stopping. Forwarding continues; `director detach` ends it");
        } else {
            info!("{signal}: stopping");
        }
    }

    /// The line that `systemctl status` shows.
    fn summary(&self) -> String {
        match &self.director {
            None => "detached".into(),
            Some(director) => {
                let names: Vec<_> = director.interfaces().iter().map(|i| i.name.as_str()).collect();
                format!("{} services on {}", self.config.services.len(), names.join(", "))
            }
        }
    }
}

fn report(what: &str, changed: &Changed) {
    for warning in &changed.warnings {
        warn!("{warning}");
    }
    if changed.plan.is_empty() {
        info!("{what}: nothing to change");
    } else {
        info!("{what}:\n{}", changed.plan.brief(STEPS_LOGGED));
    }
}
