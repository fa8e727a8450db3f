//! `director run`: one loop over everything that can happen.
//!
//! - `events`: what can happen;
//! - `file`: the configuration file and its changes;
//! - `health_tracker`: backends' health, and what follows from it;
//! - `commands`: what the API is asked for;
//! - `history`: configurations that were in effect;
//! - `conditions`: what there is to notify.
//!
//! Whatever happens ends in a configuration *in effect* (the file's, with weights and backends as
//! health and operators have them), and [`Director`] brings the maps there.

mod boot_state;
mod commands;
mod events;
mod file;
mod health_tracker;
mod history;
mod notify;
mod paths;
mod status;
mod watch;
mod web;

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
    health_tracker::{HealthTracker, Marks, StateChange},
    history::History,
    web::Web,
};
use crate::{
    alarm::{Notifier, Subject, Transition},
    control::director::{Changed, Director, DirectorError},
    health::{Checker, Event as HealthEvent},
    kernel::{
        datapath::{Instance, clock_ns},
        net::{NetError, Netlink},
        path_probe::PathProbes,
        wall_clock,
    },
    policy::{
        config::{self, Config, ConfigErrors},
        health_policy::{Change as HealthChange, Overrides},
    },
    serve::{
        api::{Request, server::Server},
        view::Status,
    },
};

/// How long what is to be told may take when the daemon ends.
const SHUTDOWN_NOTICE: Duration = Duration::from_secs(2);
/// Most steps of a change that are written into the log.
const STEPS_LOGGED: usize = 200;
/// How often the maps are compared with what they should hold, at the most.
const REPAIR: Duration = Duration::from_secs(5);
/// Comparing takes at most one part in so many of the time.
const REPAIR_SHARE: u32 = 10;
/// How long the first round of probes is waited for before the daemon calls itself ready.
const FIRST_ROUND: Duration = Duration::from_secs(10);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration it was started with is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// It could not start.
    #[error(transparent)]
    Director(#[from] DirectorError),
    /// The network configuration cannot be followed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The file cannot be watched, signals not be taken, or no thread be started.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
}

/// Runs a director by the file at `path` until it is told to stop. Forwarding goes on then.
///
/// # Errors
///
/// If it cannot start; afterwards, errors are logged, and what was in effect stays.
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
    let overrides = Overrides::load(&overrides_at)
        .map_err(system(&format!("{}: remove it to start without", overrides_at.display())))?;
    let netlink = Netlink::connect()?;
    events.watch_host(netlink.watch()?);
    let remembered = boot_state::read(instance, &config);
    let mut health_tracker = HealthTracker::new(checker, overrides, remembered);
    health_tracker.watch(&config, &Marks::new());
    let (effective, news) = health_tracker.evaluate_all(&config);
    let (history, unread) = History::open(&state);
    if let Some(error) = unread {
        warn!("{}: {error}: there is nothing to roll back to", state.display());
    }
    let is_off = boot_state::is_detached(instance);
    let (director, changed) = if is_off {
        info!("detached by `director detach`: `director attach` begins forwarding again");
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
        unheard: None,
        web: Web::default(),
        commands,
        config,
        published: latest::channel(Arc::new(Status::default())).0,
        is_stale: true,
        path: path.to_path_buf(),
        read: None,
        seen: None,
        refused: None,
        warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        warned: changed.map(|changed| changed.warnings).unwrap_or_default(),
        lost: None,
        blind: false,
        began: wall_clock::now(),
        repair_at: Instant::now() + REPAIR,
        repair_from: Instant::now(),
        is_ready: false,
    };
    daemon.note(text, "file");
    daemon.notify(&news);
    // Forwarding and health are worth more than being asked about them.
    daemon.listen().await;
    daemon.watch_health().await;
    if let Some(director) = &daemon.director {
        director.datapath().heartbeat();
    }
    started();
    // Whatever was written between the first reading and the watch; maybe it is being written now.
    events.file_may_be_another();
    let ready_at_most = Instant::now() + FIRST_ROUND;
    loop {
        if !daemon.is_ready
            && (daemon.health_tracker.is_settled() || Instant::now() >= ready_at_most)
        {
            daemon.is_ready = true;
            // What the first round found is in effect by then.
            daemon.evaluate_all().await;
            notify::ready(&daemon.summary());
            info!("ready");
        }
        match events.next(daemon.due(), |neighbour| daemon.sends_to(neighbour.ip)).await {
            Event::Heartbeat => daemon.heartbeat().await,
            Event::Touched => {
                if daemon.reload(When::AtOnce).await.is_ok() {
                    events.file_is_done();
                }
            }
            Event::File => drop(daemon.reload(When::Settled).await),
            Event::Reload => {
                notify::reloading();
                daemon.forget_next_hops();
                drop(daemon.reload(When::Asked).await);
                notify::ready(&daemon.summary());
            }
            Event::Host => daemon.refresh().await,
            Event::Blind => daemon.blind = true,
            Event::Health(news) => daemon.on_health(&news).await,
            Event::Due => daemon.look_again().await,
            Event::Command(request) => daemon.command(request).await,
            Event::Stop(signal) => break daemon.stop(signal).await,
        }
    }
    Ok(())
}

struct Daemon {
    netlink: Netlink,
    instance: Instance,
    /// None while it is detached.
    director: Option<Director>,
    health_tracker: HealthTracker,
    marks: Marks,
    /// As the file says.
    config: Config,
    /// As the maps have it.
    effective: Config,
    history: History,
    alarms: Notifier,
    path_probes: PathProbes,
    /// Why probes cannot go the way that traffic goes.
    path_probes_error: Option<String>,
    server: Option<Server>,
    /// Why there is none.
    unheard: Option<String>,
    web: Web,
    /// For another server.
    commands: tokio::sync::mpsc::Sender<Request>,
    /// For whoever shows them.
    published: latest::Sender<Arc<Status>>,
    /// Whether there is more to notify than was published.
    is_stale: bool,
    path: PathBuf,
    /// The file as it was read last.
    read: Option<Stamp>,
    /// As it was looked at last.
    seen: Option<Stamp>,
    /// Why the file as it was last read is not what is in effect.
    refused: Option<String>,
    /// What is odd about the file.
    warnings: Vec<String>,
    /// What was said to be odd on this host.
    warned: Vec<String>,
    /// Why the host cannot be followed.
    lost: Option<String>,
    /// Whether the kernel's news of the host have ended.
    blind: bool,
    /// Seconds since 1970.
    began: u64,
    repair_at: Instant,
    /// Not sooner, for what it costs.
    repair_from: Instant,
    is_ready: bool,
}

impl Daemon {
    async fn heartbeat(&mut self) {
        notify::alive();
        let Some(director) = &self.director else { return self.publish() };
        // Without the kernel's news, or as long as they cannot be followed, one looks for oneself.
        if self.blind || self.lost.is_some() || director.drain_is_over() {
            self.refresh().await;
        } else {
            director.datapath().heartbeat();
        }
        if Instant::now() >= self.repair_at {
            self.repair().await;
            self.look_at_file().await;
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
        // What somebody else wrote is told apart from what the host changed.
        if Instant::now() >= self.repair_from {
            self.repair().await;
        }
        let Some(director) = &mut self.director else { return };
        match director.refresh(&self.effective).await {
            Ok(Changed { plan, warnings }) => {
                if self.lost.take().is_some() {
                    info!("the host carries the configuration again");
                }
                for warning in warnings.iter().filter(|warning| !self.warned.contains(warning)) {
                    warn!("{warning}");
                }
                self.warned = warnings;
                if !plan.is_empty() {
                    info!("followed the host:\n{}", plan.brief(STEPS_LOGGED));
                }
                self.watch_health().await;
            }
            Err(error) => {
                // The host's changes come in numbers; once said is enough.
                let error = error.to_string();
                if self.lost.as_ref() != Some(&error) {
                    error!("cannot follow the host, what was in effect stays: {error}");
                    self.notify_director("in effect", "stuck", &error);
                }
                self.lost = Some(error);
                self.is_stale = true;
                // Next hops may be out of date: the program asks the kernel about each packet.
                if let Some(director) = &self.director {
                    director.datapath().stop_heartbeat();
                }
                return;
            }
        }
        self.is_stale = true;
        if let Some(director) = &self.director {
            director.datapath().heartbeat();
        }
    }

    /// Has the maps hold what they should, whoever wrote into them, and probes go their ways.
    async fn repair(&mut self) {
        let began = Instant::now();
        self.listen().await;
        for name in self.restore_path_probes().await {
            let what = format!("the filters of checks via path on {name}");
            warn!("somebody else took off {what}; they are back");
            self.notify_director("changed by somebody else", "repaired", &what);
        }
        if let Some(director) = &mut self.director {
            match director.repair(&self.effective).await {
                Ok(repaired) if repaired.is_empty() => {}
                Ok(repaired) => {
                    let what = repaired.to_string();
                    warn!("somebody else changed this director's maps or pins; repaired:\n{what}");
                    self.notify_director("changed by somebody else", "repaired", &what);
                }
                Err(error) => error!("cannot compare the maps with what they should hold: {error}"),
            }
        }
        self.repair_from = Instant::now() + began.elapsed() * REPAIR_SHARE;
        self.repair_at = Instant::now() + REPAIR.max(began.elapsed() * REPAIR_SHARE);
    }

    /// Backends or agents have news.
    async fn on_health(&mut self, events: &[HealthEvent]) {
        self.is_stale = true;
        let services = self.health_tracker.concerned(events);
        drop(self.evaluate(&services).await);
    }

    /// Slow starts go a step further, and drains end.
    async fn look_again(&mut self) {
        let services = self.health_tracker.due(clock_ns());
        drop(self.evaluate(&services).await);
    }

    /// Judges some services anew, and brings what follows into effect.
    async fn evaluate(&mut self, services: &[usize]) -> Result<Vec<String>, String> {
        if services.is_empty() {
            return Ok(Vec::new());
        }
        let (news, is_other) =
            self.health_tracker.evaluate_some(&self.config, services, &mut self.effective);
        self.notify(&news);
        if !news.is_empty() {
            boot_state::write(&self.instance, self.health_tracker.down(&self.config));
        }
        self.is_stale = true;
        let Some(director) = &mut self.director else { return Ok(Vec::new()) };
        if !is_other {
            return Ok(Vec::new());
        }
        let changed = director.change(&self.effective).await;
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
                // The next look at the host tries again.
                let message = format!("what follows from backends' health cannot be done: {error}");
                error!("{message}");
                Err(message)
            }
        }
    }

    /// Says what is new about services.
    fn notify(&self, news: &[StateChange]) {
        for StateChange { name, frontend, change } in news {
            let (name, frontend) = (name.clone(), frontend.to_string());
            let transition = match change {
                HealthChange::Backend { address, up, reason } => {
                    let subject = Subject::Backend { service: name, frontend, address: *address };
                    let (from, to) = if *up { ("down", "up") } else { ("up", "down") };
                    Transition::now(subject, from, to, reason)
                }
                HealthChange::Quorum { is_there, weight } => {
                    let (from, to) = if *is_there { ("lost", "held") } else { ("held", "lost") };
                    let reason = format!("backends of weight {weight} are up");
                    Transition::now(Subject::Quorum { name, frontend }, from, to, &reason)
                }
                HealthChange::Panic { panics: true, down, of } => {
                    warn!(
                        "{down} of {of} backends of {name} ({frontend}) are down at once: rather \
                         the checks are wrong, so all are kept"
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

    /// Says what is new about the director itself.
    fn notify_director(&self, from: &str, to: &str, reason: &str) {
        self.alarms.notify(Transition::now(Subject::Director, from, to, reason));
    }

    /// A configuration is in effect: its text is kept.
    fn note(&mut self, text: String, by: &str) {
        if let Err(error) = self.history.add(text, &self.config, by, wall_clock::now()) {
            warn!("{}: {error}: this configuration cannot be rolled back to", self.path.display());
        }
        self.is_stale = true;
    }

    async fn stop(&mut self, signal: &str) {
        notify::stopping();
        self.alarms.flush(SHUTDOWN_NOTICE).await;
        self.server = None;
        if let Some(director) = &self.director {
            director.datapath().stop_heartbeat();
            info!("{signal}: stopping. Forwarding goes on as it is; `director detach` ends it");
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
