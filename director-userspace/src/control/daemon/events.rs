//! Everything that can happen to a daemon, as one stream.

use std::{ffi::OsString, path::Path, time::Duration};

use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tracing::error;

use super::{
    DaemonError,
    watch::{Touched, Watch, touched, watch_file},
};
use crate::{
    health,
    kernel::net::{Change, Neighbour},
    serve::api::Request,
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
/// A file that somebody wrote to, and keeps open, is read this long after.
const LONGEST_WRITE: Duration = Duration::from_secs(60);
/// ProbeSchedule of the heart: see `director_common::tunables::HEARTBEAT_INTERVAL_NS`.
const HEARTBEAT_INTERVAL: Duration =
    Duration::from_nanos(director_common::tunables::HEARTBEAT_INTERVAL_NS);
/// Most news of backends' health that are taken at once.
const NEWS: usize = 4096;
/// Commands that wait.
const COMMANDS: usize = 64;

/// One of them.
#[derive(Debug)]
pub(super) enum Event {
    /// Time for a heartbeat.
    Heartbeat,
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
    /// Backends or their agents have news.
    Health(Vec<health::Event>),
    /// Somebody wants something.
    Command(Request),
    /// Something was to be looked at by now.
    Due,
    /// SIGTERM or SIGINT.
    Stop(&'static str),
}

/// Where they come from.
pub(super) struct Events {
    beat: Interval,
    inotify: AsyncFd<Watch>,
    file_name: OsString,
    file_due: Option<(Instant, Instant)>,
    /// Whether somebody is writing the file, which is read when it is closed.
    file_open: bool,
    /// Whether the file was read at once, and could not be applied, since it was touched first.
    file_tried: bool,
    host: Option<mpsc::Receiver<Change>>,
    host_due: Option<(Instant, Instant)>,
    health: health::Events,
    commands: mpsc::Receiver<Request>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Events {
    /// Also where commands can be sent to.
    pub(super) fn new(
        path: &Path,
        health: health::Events,
    ) -> Result<(Self, mpsc::Sender<Request>), DaemonError> {
        let mut beat = interval(HEARTBEAT_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let catch = |kind| {
            signal(kind).map_err(|error| DaemonError::System { what: "signals".into(), error })
        };
        let (sender, commands) = mpsc::channel(COMMANDS);
        let events = Self {
            beat,
            inotify: watch_file(path).map_err(|error| DaemonError::System {
                what: format!("cannot watch {}", path.display()),
                error,
            })?,
            file_name: path.file_name().unwrap_or_default().to_owned(),
            file_due: None,
            file_open: false,
            file_tried: false,
            host: None,
            host_due: None,
            health,
            commands,
            hangup: catch(SignalKind::hangup())?,
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        };
        Ok((events, sender))
    }

    /// The file as it is has been read, and needs no other look.
    pub(super) fn file_is_done(&mut self) {
        self.file_due = None;
        self.file_open = false;
        self.file_tried = false;
    }

    /// The file is to be looked at when nothing has happened to it for a while.
    pub(super) fn file_may_be_another(&mut self) {
        let now = Instant::now();
        self.file_due = Some((now + FILE_SETTLE, now + FILE_SETTLE_AT_MOST));
    }

    pub(super) fn watch_host(&mut self, changes: mpsc::Receiver<Change>) {
        self.host = Some(changes);
    }

    /// The next one; [`Event::Due`] at `due`. `sends_to` says whether a neighbour matters.
    pub(super) async fn next(
        &mut self,
        due: Option<Instant>,
        sends_to: impl Fn(&Neighbour) -> bool,
    ) -> Event {
        loop {
            let file_due = self.file_due.map(|(soon, latest)| soon.min(latest));
            let host_due = self.host_due.map(|(soon, latest)| soon.min(latest));
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return Event::Stop("SIGTERM"),
                _ = self.interrupt.recv() => return Event::Stop("SIGINT"),
                _ = self.beat.tick() => return Event::Heartbeat,
                _ = self.hangup.recv() => return Event::Reload,
                () = until(file_due) => { self.file_is_done(); return Event::File }
                () = until(host_due) => { self.host_due = None; return Event::Host }
                () = until(due) => return Event::Due,
                Some(event) = self.health.recv() => {
                    let more = std::iter::from_fn(|| self.health.try_recv()).take(NEWS);
                    return Event::Health(std::iter::once(event).chain(more).collect());
                }
                Some(request) = self.commands.recv() => return Event::Command(request),
                touched = touched(&self.inotify, &self.file_name) => match touched {
                    Touched::Other => {}
                    // Half a file may be a valid one.
                    Touched::Maybe if self.file_open => {}
                    Touched::Writing => {
                        let latest = Instant::now() + LONGEST_WRITE;
                        self.file_due = Some((latest, latest));
                        self.file_open = true;
                    }
                    Touched::Maybe | Touched::File => {
                        let now = Instant::now();
                        if self.file_open {
                            self.file_open = false;
                            self.file_due = None;
                        }
                        let latest = self.file_due.map_or(now + FILE_SETTLE_AT_MOST, |(_, at)| at);
                        self.file_due = Some((now + FILE_SETTLE, latest));
                        // Somebody may write it again and again: trying once is enough.
                        if touched == Touched::File && !self.file_tried {
                            self.file_tried = true;
                            return Event::Touched;
                        }
                    }
                },
                change = next_change(&mut self.host) => {
                    let Some(change) = change else { return Event::Blind };
                    let matters = match &change {
                        // Neighbours of others come and go all the time.
                        Change::Neighbour { neighbour, .. } => sends_to(neighbour),
                        Change::Link { .. } | Change::Address { .. } => true,
                        Change::Route | Change::Resync => true,
                    };
                    if matters {
                        let now = Instant::now();
                        let latest = self.host_due.map_or(now + SETTLE_AT_MOST, |(_, at)| at);
                        self.host_due = Some((now + SETTLE, latest));
                    }
                }
            }
        }
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
