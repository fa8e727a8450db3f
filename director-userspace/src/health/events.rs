//! The queue of events from the probes to their reader.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use super::{Event, agent::AgentCell, streak::CheckCell};

/// Locks a mutex whose holders leave no half changed state, so that poisoning can be ignored.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A check or agent whose state changed.
#[derive(Clone)]
pub(super) enum Source {
    Check(Arc<CheckCell>),
    Agent(Arc<AgentCell>),
}

/// Whether a source is in the queue, and whether it was removed.
#[derive(Default)]
pub(super) struct QueueEntry {
    queued: AtomicBool,
    removed: AtomicBool,
}

impl QueueEntry {
    /// Suppresses its further events.
    pub(super) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }
}

/// The queue: changed sources, each at most once, so that its length is bounded by their number and
/// no probe waits for the reader.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Source>>,
    wakeup: Notify,
    closed: AtomicBool,
}

impl Queue {
    /// Enqueues `source`, whose state changed.
    pub(super) fn push(&self, source: Source) {
        if source.queue_entry().queued.swap(true, Ordering::AcqRel) {
            return;
        }
        lock(&self.waiting).push_back(source);
        self.wakeup.notify_one();
    }

    /// Ends the queue: the reader gets no further events.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wakeup.notify_one();
    }

    fn pop(&self) -> Option<Event> {
        loop {
            let source = lock(&self.waiting).pop_front()?;
            // Cleared before the state is read: later changes queue it again.
            source.queue_entry().queued.store(false, Ordering::Release);
            if !source.queue_entry().removed.load(Ordering::Relaxed) {
                return Some(source.event());
            }
        }
    }
}

impl Source {
    fn queue_entry(&self) -> &QueueEntry {
        match self {
            Self::Check(cell) => &cell.queue_entry,
            Self::Agent(cell) => &cell.queue_entry,
        }
    }

    fn event(&self) -> Event {
        match self {
            Self::Check(cell) => {
                Event::Check { target: cell.target.clone(), health: cell.health() }
            }
            Self::Agent(cell) => {
                Event::Agent { target: cell.target.clone(), report: cell.report() }
            }
        }
    }
}

/// The receiver of a [`Checker`](super::Checker)'s events.
pub struct Events(pub(super) Arc<Queue>);

impl Events {
    /// The next event; none once the checker is dropped. Cancel-safe: no event is lost if the
    /// future is dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.try_recv() {
                return Some(event);
            }
            if self.0.closed.load(Ordering::Acquire) {
                return None;
            }
            self.0.wakeup.notified().await;
        }
    }

    /// The next event, if one is queued.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.0.pop()
    }
}
