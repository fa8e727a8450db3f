//! From probes to whoever acts on them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use super::{Event, agent::AgentCell, streak::CheckCell};

/// Locks what no holder leaves half changed, so that a panic elsewhere means nothing to it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever has news.
#[derive(Clone)]
pub(super) enum Source {
    Check(Arc<CheckCell>),
    Agent(Arc<AgentCell>),
}

/// Whether a source waits in the queue, and whether it is still wanted.
#[derive(Default)]
pub(super) struct Place {
    queued: AtomicBool,
    gone: AtomicBool,
}

impl Place {
    /// Nobody wants its news any more.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// The queue: sources with news, each at most once, so that its length is bounded by their number
/// and no probe ever waits for the reader.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Source>>,
    news: Notify,
    closed: AtomicBool,
}

impl Queue {
    /// `source` has news.
    pub(super) fn push(&self, source: Source) {
        if source.place().queued.swap(true, Ordering::AcqRel) {
            return;
        }
        lock(&self.waiting).push_back(source);
        self.news.notify_one();
    }

    /// No more news.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.news.notify_one();
    }

    fn pop(&self) -> Option<Event> {
        loop {
            let source = lock(&self.waiting).pop_front()?;
            // Before the state is read: what changes from here on queues it again.
            source.place().queued.store(false, Ordering::Release);
            if !source.place().gone.load(Ordering::Relaxed) {
                return Some(source.event());
            }
        }
    }
}

impl Source {
    fn place(&self) -> &Place {
        match self {
            Self::Check(cell) => &cell.place,
            Self::Agent(cell) => &cell.place,
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

/// The reading end of a [`Checker`](super::Checker)'s news.
pub struct Events(pub(super) Arc<Queue>);

impl Events {
    /// The next event; none once the checker is gone. Nothing is lost if the future is dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.try_recv() {
                return Some(event);
            }
            if self.0.closed.load(Ordering::Acquire) {
                return None;
            }
            self.0.news.notified().await;
        }
    }

    /// The next event, if there is one now.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.0.pop()
    }
}
