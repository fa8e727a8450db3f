//! All events of the daemon, as one stream.

use std::{path::Path, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

use super::{
    DaemonError,
    watch::{FileEvent, Watch},
};
use crate::{control::director::HostChanges, health, serve::api::Request};

/// Some programs write a file in several steps: a refused file is read again this long after the
/// last of them, and errors are reported only then.
const FILE_SETTLE: Duration = Duration::from_millis(100);
/// If the directory changes all the time, the file is read this long after the first change.
const FILE_SETTLE_AT_MOST: Duration = Duration::from_millis(500);
/// A file that was written to, and is kept open, is read this long after the write.
const LONGEST_WRITE: Duration = Duration::from_secs(60);
/// How often the status is published and drains are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Most further health events that are handled together with the first.
const HEALTH_BATCH: usize = 4096;
/// Capacity of the command queue.
const COMMAND_QUEUE: usize = 64;

/// An event.
#[derive(Debug)]
pub(super) enum Event {
    /// Half a second passed.
    Tick,
    /// The file was just written: it may not be complete yet.
    FileWritten,
    /// The file may have changed, and has not changed again for a while.
    FileSettled,
    /// The host's interfaces, routes or neighbours changed.
    Host,
    /// SIGHUP: read the file again, changed or not.
    Reload,
    /// Health checks or agents have results.
    Health(Vec<health::Event>),
    /// A request to the API.
    Command(Request),
    /// An evaluation is due.
    Due,
    /// A step of the director is due.
    Step,
    /// SIGTERM or SIGINT.
    Stop(&'static str),
}

/// Which event came last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Step,
    Host,
    Other,
}

/// The sources of events.
pub(super) struct Events {
    tick: Interval,
    /// The last event: many of these kinds in a row let other events through.
    last: Last,
    file: Watch,
    file_due: Option<(Instant, Instant)>,
    /// Whether the file is being written: it is read when it is closed.
    file_open: bool,
    /// Whether the file was read right after its first write, and could not be applied.
    file_tried: bool,
    host: HostChanges,
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
        host: HostChanges,
    ) -> Result<(Self, mpsc::Sender<Request>), DaemonError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let catch = |kind| {
            signal(kind).map_err(|error| DaemonError::System { what: "signals".into(), error })
        };
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let events = Self {
            tick,
            last: Last::Other,
            file: Watch::new(path).map_err(|error| DaemonError::System {
                what: format!("cannot watch {}", path.display()),
                error,
            })?,
            file_due: None,
            file_open: false,
            file_tried: false,
            host,
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

    /// The next event; [`Event::Due`] at `due`, [`Event::Step`] at `step`.
    pub(super) async fn next(&mut self, due: Option<Instant>, step: Option<Instant>) -> Event {
        let event = self.next_of_all(due, step).await;
        self.last = match event {
            Event::Step => Last::Step,
            Event::Host => Last::Host,
            _ => Last::Other,
        };
        event
    }

    async fn next_of_all(&mut self, due: Option<Instant>, step: Option<Instant>) -> Event {
        // Steps and other events take turns.
        let last = self.last;
        let (step_first, step_last) = if last == Last::Step { (None, step) } else { (step, None) };
        loop {
            let file_due = self.file_due.map(|(soon, latest)| soon.min(latest));
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return Event::Stop("SIGTERM"),
                _ = self.interrupt.recv() => return Event::Stop("SIGINT"),
                _ = self.tick.tick() => return Event::Tick,
                _ = self.hangup.recv() => return Event::Reload,
                () = until(file_due) => { self.file_was_read(); return Event::FileSettled }
                () = self.host.settled(), if last != Last::Host => return Event::Host,
                () = until(step_first) => return Event::Step,
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
                () = until(step_last) => return Event::Step,
                () = self.host.settled(), if last == Last::Host => return Event::Host,
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
