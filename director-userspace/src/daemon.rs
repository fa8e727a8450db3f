//! `director run`: one loop over everything that can happen.

mod watch;

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use self::watch::{Touched, Watch, touched, watch_file};
use crate::{
    config::{
        self, Config, ConfigErrors, Loaded,
        model::{Frontend, Service},
    },
    datapath::Instance,
    director::{Changed, Director, DirectorError},
    net::{Change, NetError, Netlink},
};

/// Changes of the host come in bursts; this long after the last one they are looked at.
const SETTLE: Duration = Duration::from_millis(20);
/// A burst that does not end is looked at this long after its first change.
const SETTLE_AT_MOST: Duration = Duration::from_millis(250);
/// Some write a file in several steps: one that is refused is read again this long after the last of
/// them, and only then complained about.
const FILE_SETTLE: Duration = Duration::from_millis(100);
/// A directory in which something changes all the time is looked at this long after the first.
const FILE_SETTLE_AT_MOST: Duration = Duration::from_millis(500);
/// Most steps of a change that are written into the log.
const STEPS_LOGGED: usize = 200;
/// Beats of the heart: see `director_common::runtime::HEARTBEAT_INTERVAL_NS`.
const BEAT: Duration = Duration::from_nanos(director_common::runtime::HEARTBEAT_INTERVAL_NS);

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
    /// The file cannot be watched, or signals not be taken.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
}

/// Everything that can happen to a daemon.
enum Event {
    /// Time for a heartbeat.
    Beat,
    /// The file may have changed, just now: it may not be complete yet.
    Touched,
    /// The same, and nothing has happened to it for a while.
    File,
    /// The host's interfaces, routes or neighbours changed.
    Host,
    /// There will be no more news of the host.
    Blind,
    /// SIGHUP: read the file again, changed or not.
    Reload,
    /// SIGTERM or SIGINT.
    Stop(&'static str),
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
    let Loaded { config, warnings } = config::load(path)?;
    for warning in warnings {
        warn!("{warning}");
    }
    let mut events = Events::new(path)?;
    let netlink = Netlink::connect()?;
    events.watch_host(netlink.watch()?);
    let (director, changed) = Director::start(netlink, instance, &config).await?;
    report("started", &changed);
    let mut daemon = Daemon {
        director,
        config,
        path: path.to_path_buf(),
        refused: false,
        warned: changed.warnings,
        lost: None,
        blind: false,
    };
    daemon.director.datapath().beat();
    started();
    // Whatever was written between the first reading and the watch.
    daemon.reload(When::Settled).await;
    loop {
        match events.next(&mut daemon).await {
            Event::Beat => daemon.beat().await,
            Event::Touched => {
                if daemon.reload(When::AtOnce).await {
                    events.file_is_done();
                }
            }
            Event::File => drop(daemon.reload(When::Settled).await),
            Event::Reload => {
                daemon.director.forget_ways();
                daemon.reload(When::Asked).await;
            }
            Event::Host => daemon.refresh().await,
            Event::Blind => daemon.blind = true,
            Event::Stop(signal) => break daemon.stop(signal),
        }
    }
    Ok(())
}

/// When the file is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// As soon as it was touched. What is wrong with it may be right in a moment, and is left unsaid.
    AtOnce,
    /// When nothing has happened to it for a while.
    Settled,
    /// By the operator's wish: also what has not changed is done again.
    Asked,
}

struct Daemon {
    director: Director,
    config: Config,
    path: PathBuf,
    /// Whether the file as it was last read is not what is in effect.
    refused: bool,
    /// What was said to be odd on this host.
    warned: Vec<String>,
    /// Why the host cannot be followed.
    lost: Option<String>,
    /// Whether the kernel's news of the host have ended.
    blind: bool,
}

impl Daemon {
    async fn beat(&mut self) {
        // Without the kernel's news, or as long as they cannot be followed, one looks for oneself.
        if self.blind || self.lost.is_some() || self.director.drain_is_over() {
            self.refresh().await;
        } else {
            self.director.datapath().beat();
        }
    }

    async fn refresh(&mut self) {
        match self.director.refresh(&self.config).await {
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
            }
            Err(error) => {
                // The host's changes come in numbers; once said is enough.
                let error = error.to_string();
                if self.lost.as_ref() != Some(&error) {
                    error!("cannot follow the host, what was in effect stays: {error}");
                }
                self.lost = Some(error);
                // Next hops may be out of date: the program asks the kernel about each packet.
                self.director.datapath().stop_beating();
                return;
            }
        }
        self.director.datapath().beat();
    }

    /// Brings the file into effect; whether it was right.
    async fn reload(&mut self, when: When) -> bool {
        let at_once = when == When::AtOnce;
        let Loaded { config, warnings } = match config::load(&self.path) {
            Ok(loaded) => loaded,
            Err(_) if at_once => return false,
            Err(errors) => {
                self.refused = true;
                error!("{} refused, what was in effect stays:\n{errors}", self.path.display());
                return false;
            }
        };
        if config == self.config && when != When::Asked {
            if !at_once && std::mem::take(&mut self.refused) {
                info!("{} is again what is in effect", self.path.display());
            }
            return !self.refused;
        }
        if config.services.is_empty() && !self.config.services.is_empty() {
            if !at_once {
                self.refused = true;
                error!(
                    "{} has no services any more: refused, what was in effect stays (`director \
                     detach` ends forwarding)",
                    self.path.display()
                );
            }
            return false;
        }
        // The beginning of a file may be a valid one, and what is taken away loses connections.
        let is_risky = config.interfaces != self.config.interfaces;
        if at_once && (is_risky || takes_away(&self.config, &config)) {
            return false;
        }
        let changed = self.director.change(&config).await;
        self.director.datapath().beat();
        match changed {
            Ok(changed) => {
                self.refused = false;
                for warning in warnings {
                    warn!("{warning}");
                }
                self.config = config;
                report("configuration applied", &changed);
                self.warned = changed.warnings;
                self.lost = None;
                true
            }
            Err(_) if at_once => false,
            Err(error) => {
                self.refused = true;
                error!("{} refused, what was in effect stays:\n{error}", self.path.display());
                false
            }
        }
    }

    fn stop(&self, signal: &str) {
        self.director.datapath().stop_beating();
        info!("{signal}: stopping. Forwarding goes on as it is; `director detach` ends it");
    }
}

/// Whether some service or backend of `before` is not in `after`.
fn takes_away(before: &Config, after: &Config) -> bool {
    let services: HashMap<Frontend, &Service> =
        after.services.iter().map(|service| (service.frontend, service)).collect();
    before.services.iter().any(|old| {
        let Some(new) = services.get(&old.frontend) else { return true };
        if old.backends.iter().map(|b| b.address).eq(new.backends.iter().map(|b| b.address)) {
            return false;
        }
        let there: HashSet<IpAddr> = new.backends.iter().map(|b| b.address).collect();
        old.backends.iter().any(|backend| !there.contains(&backend.address))
    })
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

struct Events {
    beat: tokio::time::Interval,
    inotify: AsyncFd<Watch>,
    file_name: OsString,
    file_due: Option<(Instant, Instant)>,
    /// Whether the file was read at once, and could not be applied, since it was touched first.
    file_tried: bool,
    host: Option<mpsc::Receiver<Change>>,
    host_due: Option<(Instant, Instant)>,
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Events {
    fn new(path: &Path) -> Result<Self, DaemonError> {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let catch = |kind| {
            signal(kind).map_err(|error| DaemonError::System { what: "signals".into(), error })
        };
        Ok(Self {
            beat,
            inotify: watch_file(path).map_err(|error| DaemonError::System {
                what: format!("cannot watch {}", path.display()),
                error,
            })?,
            file_name: path.file_name().unwrap_or_default().to_owned(),
            file_due: None,
            file_tried: false,
            host: None,
            host_due: None,
            hangup: catch(SignalKind::hangup())?,
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    /// The file as it is has been read, and needs no other look.
    fn file_is_done(&mut self) {
        self.file_due = None;
        self.file_tried = false;
    }

    fn watch_host(&mut self, changes: mpsc::Receiver<Change>) {
        self.host = Some(changes);
    }

    async fn next(&mut self, daemon: &mut Daemon) -> Event {
        loop {
            let file_due = self.file_due.map(|(soon, latest)| soon.min(latest));
            let host_due = self.host_due.map(|(soon, latest)| soon.min(latest));
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return Event::Stop("SIGTERM"),
                _ = self.interrupt.recv() => return Event::Stop("SIGINT"),
                _ = self.beat.tick() => return Event::Beat,
                _ = self.hangup.recv() => return Event::Reload,
                () = until(file_due) => { self.file_is_done(); return Event::File }
                () = until(host_due) => { self.host_due = None; return Event::Host }
                touched = touched(&self.inotify, &self.file_name) => {
                    if touched != Touched::Other {
                        let now = Instant::now();
                        let latest = self.file_due.map_or(now + FILE_SETTLE_AT_MOST, |(_, at)| at);
                        self.file_due = Some((now + FILE_SETTLE, latest));
                        // Somebody may write it again and again: trying once is enough.
                        if touched == Touched::File && !self.file_tried {
                            self.file_tried = true;
                            return Event::Touched;
                        }
                    }
                }
                change = next_change(&mut self.host) => {
                    let Some(change) = change else { return Event::Blind };
                    if matters(&change, daemon) {
                        let now = Instant::now();
                        let latest = self.host_due.map_or(now + SETTLE_AT_MOST, |(_, at)| at);
                        self.host_due = Some((now + SETTLE, latest));
                    }
                }
            }
        }
    }
}

/// Whether a change of the host can change where packets go. Neighbours of others come and go all
/// the time.
fn matters(change: &Change, daemon: &Daemon) -> bool {
    match change {
        Change::Neighbour { neighbour, .. } => daemon.director.sends_to(neighbour.ip),
        Change::Link { .. } | Change::Address { .. } | Change::Route | Change::Resync => true,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The next change; `None`, once, when there will be no more.
async fn next_change(changes: &mut Option<mpsc::Receiver<Change>>) -> Option<Change> {
    let Some(receiver) = changes else { return std::future::pending().await };
    let change = receiver.recv().await;
    if change.is_none() {
        error!(
            "the kernel's news of interfaces, routes and neighbours have ended: they are looked at \
             every half second instead; restart `director run`"
        );
        *changes = None;
    }
    change
}
