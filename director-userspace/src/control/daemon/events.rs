//! All events of the daemon, as one stream.

use std::{path::Path, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tracing::error;

use super::{
    DaemonError,
    watch::{FileEvent, Watch},
};
use crate::{
    health,
    kernel::net::{Change, Neighbour},
    serve::api::Request,
};

/// Changes of the host come in bursts; they are handled this long after the last one.
const SETTLE: Duration = Duration::from_millis(20);
/// A burst that does not end is handled this long after its first change.
const SETTLE_AT_MOST: Duration = Duration::from_millis(250);
/// Some programs write a file in several steps: a refused file is read again this long after the
/// last of them, and errors are reported only then.
const FILE_SETTLE: Duration = Duration::from_millis(100);
/// If the directory changes all the time, the file is read this long after the first change.
const FILE_SETTLE_AT_MOST: Duration = Duration::from_millis(500);
/// A file that was written to, and is kept open, is read this long after the write.
const LONGEST_WRITE: Duration = Duration::from_secs(60);
/// Interval of the heartbeat: see `director_common::tunables::HEARTBEAT_INTERVAL_NS`.
const HEARTBEAT_INTERVAL: Duration =
    Duration::from_nanos(director_common::tunables::HEARTBEAT_INTERVAL_NS);
/// Most further health events that are handled together with the first.
const HEALTH_BATCH: usize = 4096;
/// Capacity of the command queue.
const COMMAND_QUEUE: usize = 64;

/// An event.
#[derive(Debug)]
pub(super) enum Event {
    /// Time for a heartbeat.
    Heartbeat,
    /// The file was just written: it may not be complete yet.
    FileWritten,
    /// The file may have changed, and has not changed again for a while.
    FileSettled,
    /// The host's interfaces, routes or neighbours changed.
    Host,
    /// The kernel's notifications about the host have ended.
    HostEventsEnded,
    /// SIGHUP: read the file again, changed or not.
    Reload,
    /// Health checks or agents have results.
    Health(Vec<health::Event>),
    /// A request to the API.
    Command(Request),
    /// An evaluation is due.
    Due,
    /// SIGTERM or SIGINT.
    Stop(&'static str),
}

/// The sources of events.
pub(super) struct Events {
    heartbeat: Interval,
    file: Watch,
    file_due: Option<(Instant, Instant)>,
    /// Whether the file is being written: it is read when it is closed.
    file_open: bool,
    /// Whether the file was read right after its first write, and could not be applied.
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
    /// Also returns the sender of commands.
    pub(super) fn new(
        path: &Path,
        health: health::Events,
    ) -> Result<(Self, mpsc::Sender<Request>), DaemonError> {
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let catch = |kind| {
            signal(kind).map_err(|error| DaemonError::System { what: "signals".into(), error })
        };
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let events = Self {
            heartbeat,
            file: Watch::new(path).map_err(|error| DaemonError::System {
                what: format!("cannot watch {}", path.display()),
                error,
            })?,
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

    /// The current file was read: no check of it is due.
    pub(super) fn file_was_read(&mut self) {
        self.file_due = None;
        self.file_open = false;
        self.file_tried = false;
    }

    /// Schedules a check of the file for when it has not changed for a while.
    pub(super) fn schedule_file_check(&mut self) {
        let now = Instant::now();
        self.file_due = Some((now + FILE_SETTLE, now + FILE_SETTLE_AT_MOST));
    }

    pub(super) fn watch_host(&mut self, changes: mpsc::Receiver<Change>) {
        self.host = Some(changes);
    }

    /// The next event; [`Event::Due`] at `due`. `sends_to` returns whether a neighbour matters.
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
                _ = self.heartbeat.tick() => return Event::Heartbeat,
                _ = self.hangup.recv() => return Event::Reload,
                () = until(file_due) => { self.file_was_read(); return Event::FileSettled }
                () = until(host_due) => { self.host_due = None; return Event::Host }
                () = until(due) => return Event::Due,
                Some(event) = self.health.recv() => {
                    let more = std::iter::from_fn(|| self.health.try_recv()).take(HEALTH_BATCH);
                    return Event::Health(std::iter::once(event).chain(more).collect());
                }
                Some(request) = self.commands.recv() => return Event::Command(request),
                event = self.file.next() => match event {
                    FileEvent::Other => {}
                    // Half a file may be valid.
                    FileEvent::MaybeReplaced if self.file_open => {}
                    FileEvent::Writing => {
                        let latest = Instant::now() + LONGEST_WRITE;
                        self.file_due = Some((latest, latest));
                        self.file_open = true;
                    }
                    FileEvent::MaybeReplaced | FileEvent::Complete => {
                        let now = Instant::now();
                        if self.file_open {
                            self.file_open = false;
                            self.file_due = None;
                        }
                        let latest = self.file_due.map_or(now + FILE_SETTLE_AT_MOST, |(_, at)| at);
                        self.file_due = Some((now + FILE_SETTLE, latest));
                        // The file may be written repeatedly: it is read at once only once.
                        if event == FileEvent::Complete && !self.file_tried {
                            self.file_tried = true;
                            return Event::FileWritten;
                        }
                    }
                },
                change = next_change(&mut self.host) => {
                    let Some(change) = change else { return Event::HostEventsEnded };
                    let matters = match &change {
                        // Unrelated neighbours change all the time.
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
            "the kernel's notifications of interfaces, routes and neighbours have ended: the host \
             is polled every half second instead; restart `director run`"
        );
        *changes = None;
    }
    change
}
