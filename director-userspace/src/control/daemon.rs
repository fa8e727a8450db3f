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
//! and operators set them), and [`Director`] changes the maps to it.

mod boot_state;
mod commands;
mod events;
mod file;
#[doc(hidden)]
pub mod fuzz;
mod health_tracker;
mod history;
mod notify;
mod overrides;
mod paths;
mod probes;
mod status;
mod watch;
mod web;
mod whole_file;

use std::{
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
    history::History,
    overrides::Overrides,
    probes::Marks,
    web::Web,
};
use crate::{
    alarm::{Notifier, Subject, Transition},
    control::director::{Changed, Director, DirectorError, Scope},
    health::{Checker, Event as HealthEvent},
    kernel::{
        datapath::{Instance, clock_ns},
        net::{NetError, Netlink},
        path_probe::PathProbes,
        wall_clock,
    },
    policy::{
        config::{self, Config, ConfigErrors},
        health_policy::{Change as HealthChange, HealthState, QuorumState},
    },
    serve::{
        api::{Request, server::Server},
        view::Status,
    },
};

/// How long the delivery of alarms may take when the daemon ends.
const SHUTDOWN_NOTICE: Duration = Duration::from_secs(2);
/// Most steps of a change that are written into the log.
const STEPS_LOGGED: usize = 200;
/// Shortest time between two comparisons of the maps with the configuration in effect.
const REPAIR: Duration = Duration::from_secs(5);
/// Comparing takes at most 1/`REPAIR_SHARE` of the time.
const REPAIR_SHARE: u32 = 10;
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
    let (text, loaded) = config::load_with_text(path)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let config = loaded.config;
    let system = |what: &str| {
        let what = what.to_owned();
        move |error| DaemonError::System { what, error }
    };
    let (checker, health) = Checker::new().map_err(system("the health checks"))?;
    let (mut events, commands) = Events::new(path, health)?;
    let state = history::state_directory(instance);
    let overrides_at = state.join("state.json");
    let overrides = Overrides::load(&overrides_at).map_err(system(&format!(
        "{}: remove it to start without overrides",
        overrides_at.display()
    )))?;
    let netlink = Netlink::connect()?;
    events.watch_host(netlink.watch()?);
    let known_down = boot_state::read(instance, &config);
    let mut health_tracker = HealthTracker::new(checker, overrides, known_down);
    health_tracker.watch(&config, &Marks::new());
    let (effective, changes) = health_tracker.evaluate_all(&config);
    let (history, history_error) = History::open(&state);
    if let Some(error) = history_error {
        warn!("{}: {error}: no earlier configuration can be rolled back to", state.display());
    }
    let is_detached = boot_state::is_detached(instance);
    let (director, changed) = if is_detached {
        info!("detached by `director detach`: `director attach` resumes forwarding");
        (None, None)
    } else {
        let (director, changed) = Director::start(netlink.clone(), instance, &effective).await?;
        report("started", &changed);
        (Some(director), Some(changed))
    };
    let mut daemon = Daemon {
        instance: instance.clone(),
        director,
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
        published: latest::channel(Arc::new(Status::default())).0,
        status_changed: true,
        path: path.to_path_buf(),
        file_read: None,
        file_seen: None,
        refused: None,
        file_warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        host_warnings: changed.map(|changed| changed.warnings).unwrap_or_default(),
        host_error: None,
        host_events_ended: false,
        started_at: wall_clock::now(),
        repair_at: Instant::now() + REPAIR,
        repair_not_before: Instant::now(),
        is_ready: false,
    };
    daemon.record_revision(text, "file");
    daemon.notify(&changes);
    // The API starts after forwarding and health, which matter more.
    daemon.listen().await;
    daemon.watch_health().await;
    if let Some(director) = &daemon.director {
        director.datapath().heartbeat();
    }
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
        match events.next(daemon.due(), |neighbour| daemon.sends_to(neighbour.ip)).await {
            Event::Heartbeat => daemon.heartbeat().await,
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
            Event::Host => daemon.refresh().await,
            Event::HostEventsEnded => daemon.host_events_ended = true,
            Event::Health(events) => daemon.on_health(events).await,
            Event::Due => daemon.evaluate_due().await,
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
    /// Warnings about this host that are logged already.
    host_warnings: Vec<String>,
    /// Why changes of the host cannot be applied.
    host_error: Option<String>,
    /// Whether the kernel's notifications about the host have ended.
    host_events_ended: bool,
    /// Seconds since 1970.
    started_at: u64,
    repair_at: Instant,
    /// No repair before this time, because of its cost.
    repair_not_before: Instant,
    is_ready: bool,
}

impl Daemon {
    async fn heartbeat(&mut self) {
        notify::alive();
        let Some(director) = &self.director else { return self.publish() };
        // Without notifications, or while changes cannot be applied, the host is polled.
        if self.host_events_ended || self.host_error.is_some() || director.drain_is_over() {
            self.refresh().await;
        } else {
            director.datapath().heartbeat();
        }
        if Instant::now() >= self.repair_at {
            self.repair().await;
            self.check_file().await;
        }
        self.publish();
    }

    /// When [`Event::Due`] is due.
    fn due(&self) -> Option<Instant> {
        let ns = self.health_tracker.next_due()?.saturating_sub(clock_ns());
        Some(Instant::now() + Duration::from_nanos(ns))
    }

    fn sends_to(&self, neighbour: std::net::IpAddr) -> bool {
        self.director.as_ref().is_some_and(|director| director.sends_to(neighbour))
    }

    fn forget_next_hops(&mut self) {
        if let Some(director) = &mut self.director {
            director.forget_next_hops();
        }
    }

    async fn refresh(&mut self) {
        // Writes by other processes are distinguished from changes of the host.
        if Instant::now() >= self.repair_not_before {
            self.repair().await;
        }
        let Some(director) = &mut self.director else { return };
        match director.refresh(&self.effective).await {
            Ok(Changed { plan, warnings }) => {
                if self.host_error.take().is_some() {
                    info!("changes of the host are applied again");
                }
                for warning in
                    warnings.iter().filter(|warning| !self.host_warnings.contains(warning))
                {
                    warn!("{warning}");
                }
                self.host_warnings = warnings;
                if !plan.is_empty() {
                    info!("applied changes of the host:\n{}", plan.brief(STEPS_LOGGED));
                }
                self.watch_health().await;
            }
            Err(error) => {
                // The host's changes come in bursts: the same error is logged once.
                let error = error.to_string();
                if self.host_error.as_ref() != Some(&error) {
                    error!(
                        "cannot apply changes of the host, the configuration in effect stays: \
                         {error}"
                    );
                    self.notify_director("in effect", "stuck", &error);
                }
                self.host_error = Some(error);
                self.status_changed = true;
                // Next hops may be out of date: with a stale heartbeat, the program looks up each
                // packet's route.
                if let Some(director) = &self.director {
                    director.datapath().stop_heartbeat();
                }
                return;
            }
        }
        self.status_changed = true;
        if let Some(director) = &self.director {
            director.datapath().heartbeat();
        }
    }

    /// Restores maps, pins and probe filters that other processes changed.
    async fn repair(&mut self) {
        let start = Instant::now();
        self.listen().await;
        for name in self.restore_path_probes().await {
            let what = format!("the filters of checks via path on {name}");
            warn!("another process removed {what}; restored");
            self.notify_director("changed by somebody else", "repaired", &what);
        }
        if let Some(director) = &mut self.director {
            match director.repair(&self.effective).await {
                Ok(repaired) if repaired.is_empty() => {}
                Ok(repaired) => {
                    let what = repaired.to_string();
                    warn!(
                        "another process changed this director's maps or pins; \
                         repaired:\n{what}"
                    );
                    self.notify_director("changed by somebody else", "repaired", &what);
                }
                Err(error) => error!("cannot compare the maps with what they should hold: {error}"),
            }
        }
        self.repair_not_before = Instant::now() + start.elapsed() * REPAIR_SHARE;
        self.repair_at = Instant::now() + REPAIR.max(start.elapsed() * REPAIR_SHARE);
    }

    /// Handles events of health checks and agents.
    async fn on_health(&mut self, events: Vec<HealthEvent>) {
        self.status_changed = true;
        let services = self.health_tracker.record(events);
        drop(self.evaluate(&services).await);
    }

    /// Evaluates services that are due: slow starts take a step, and drains end.
    async fn evaluate_due(&mut self) {
        let services = self.health_tracker.due(clock_ns());
        drop(self.evaluate(&services).await);
    }

    /// Evaluates some services, and brings the result into effect.
    async fn evaluate(&mut self, services: &[usize]) -> Result<Vec<String>, String> {
        if services.is_empty() {
            return Ok(Vec::new());
        }
        let Evaluated { changes, differing } =
            self.health_tracker.evaluate_some(&self.config, services, &mut self.effective);
        self.notify(&changes);
        if !changes.is_empty() {
            boot_state::write(&self.instance, self.health_tracker.down(&self.config));
        }
        self.status_changed = true;
        let Some(director) = &mut self.director else { return Ok(Vec::new()) };
        if differing.is_empty() {
            return Ok(Vec::new());
        }
        let changed = director.change(&self.effective, Scope::Services(&differing)).await;
        director.datapath().heartbeat();
        match changed {
            Ok(changed) => {
                let steps = changed.plan.brief(STEPS_LOGGED);
                if !changed.plan.is_empty() {
                    info!("in effect now:\n{steps}");
                }
                Ok(steps.lines().map(ToOwned::to_owned).collect())
            }
            Err(error) => {
                // The next refresh tries again.
                let message = format!("cannot bring the new service state into effect: {error}");
                error!("{message}");
                Err(message)
            }
        }
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

    /// Keeps the text of the configuration in effect.
    fn record_revision(&mut self, text: String, by: &str) {
        if let Err(error) = self.history.add(text, &self.config, by, wall_clock::now()) {
            warn!("{}: {error}: this configuration cannot be rolled back to", self.path.display());
        }
        self.status_changed = true;
    }

    async fn stop(&mut self, signal: &str) {
        notify::stopping();
        self.alarms.flush(SHUTDOWN_NOTICE).await;
        self.server = None;
        if let Some(director) = &self.director {
            director.datapath().stop_heartbeat();
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
