//! The heartbeat and the watchdog, on a thread of their own: long work elsewhere delays neither.
//!
//! Programs trust next hops while the heartbeat is fresh, so it says how fresh the last look at the
//! host is. systemd's watchdog is for an event loop that hangs.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::notify;
use crate::{
    control::director::HostChanges,
    kernel::datapath::{Pulse, clock_ns},
};

/// How often it beats: twice as often as [`director_common::tunables::HEARTBEAT_INTERVAL_NS`].
const BEAT: Duration = Duration::from_millis(250);
/// An event that takes longer than this is not long work: the event loop hangs.
const LONGEST_EVENT_NS: u64 = 120 * 1_000_000_000;

/// The thread. It ends when this is dropped, and leaves no heartbeat then.
pub(super) struct Heart {
    shared: Arc<Shared>,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    host: HostChanges,
    /// `None` while it is detached.
    pulse: Mutex<Option<Pulse>>,
    /// When the event loop last took an event; CLOCK_MONOTONIC, nanoseconds.
    progress: AtomicU64,
}

impl Heart {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system's, if there can be no thread.
    pub(super) fn start(host: HostChanges) -> io::Result<Self> {
        let progress = AtomicU64::new(clock_ns());
        let shared = Arc::new(Shared { host, pulse: Mutex::new(None), progress });
        let (end, ended) = channel();
        let its = shared.clone();
        let thread = thread::Builder::new().name("heartbeat".into()).spawn(move || {
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                its.beat();
            }
        })?;
        Ok(Self { shared, end: Some(end), thread: Some(thread) })
    }

    /// From now on it beats for this instance, or for none.
    pub(super) fn set(&self, pulse: Option<Pulse>) {
        let before = std::mem::replace(&mut *self.shared.pulse(), pulse);
        if let Some(before) = before {
            before.stop();
        }
        self.shared.beat();
    }

    /// Beats at once, if the host is followed.
    pub(super) fn beat(&self) {
        self.shared.beat();
    }

    /// The event loop takes its next event.
    pub(super) fn progress(&self) {
        self.shared.progress.store(clock_ns(), Ordering::Relaxed);
    }
}

impl Shared {
    fn beat(&self) {
        if let Some(pulse) = &*self.pulse()
            && self.host.is_followed()
        {
            pulse.beat();
        }
        let taken = self.progress.load(Ordering::Relaxed);
        if clock_ns().saturating_sub(taken) < LONGEST_EVENT_NS {
            notify::alive();
        }
    }

    fn pulse(&self) -> MutexGuard<'_, Option<Pulse>> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It only waits and beats.
            let _ = thread.join();
        }
        if let Some(pulse) = &*self.shared.pulse() {
            pulse.stop();
        }
    }
}
