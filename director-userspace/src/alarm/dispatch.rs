//! The task that damps and digests all transitions, and queues them for the channels.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use tracing::warn;

use super::{
    damper::{Damper, Damping},
    digest::{Digest, RateLimit},
    journal,
    message::{Event, Message},
    queue::Queue,
    transition::Transition,
};

/// How often flapping subjects are checked for being quiet again.
const TICK: Duration = Duration::from_secs(1);
/// Most transitions received at a time.
const MAX_BATCH: usize = 256;

/// Limits of queues and messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Transitions that may wait for the dispatcher.
    pub(super) incoming: usize,
    /// Messages that may wait for one channel.
    pub(super) queue: usize,
    /// When a subject is flapping.
    pub(super) damping: Damping,
    /// The rate limit of the journal.
    pub(super) journal: RateLimit,
    /// The rate limit of all channels.
    pub(super) channels: RateLimit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            incoming: 65_536,
            queue: 256,
            damping: Damping::default(),
            journal: RateLimit::JOURNAL,
            channels: RateLimit::CHANNELS,
        }
    }
}

/// The current channels' queues.
pub(super) type Queues = Arc<Mutex<Vec<Arc<Queue>>>>;

/// The state of the dispatcher.
pub(super) struct Dispatcher {
    incoming: mpsc::Receiver<Transition>,
    flush: mpsc::Receiver<oneshot::Sender<()>>,
    /// Transitions that did not fit into `incoming`.
    missed: Arc<AtomicU64>,
    queues: Queues,
    damper: Damper,
    journal: Digest,
    channels: Digest,
    /// Messages created so far.
    number: u64,
}

impl Dispatcher {
    /// A dispatcher that receives transitions from `incoming`, and sends all pending ones at once
    /// on a request from `flush`.
    pub(super) fn new(
        limits: &Limits,
        incoming: mpsc::Receiver<Transition>,
        flush: mpsc::Receiver<oneshot::Sender<()>>,
        missed: Arc<AtomicU64>,
        queues: Queues,
    ) -> Self {
        let now = Instant::now().into_std();
        Self {
            incoming,
            flush,
            missed,
            queues,
            damper: Damper::new(limits.damping),
            journal: Digest::new(limits.journal, now),
            channels: Digest::new(limits.channels, now),
            number: 0,
        }
    }

    /// Runs until all senders of transitions are dropped.
    pub(super) async fn run(mut self) {
        let mut buffer = Vec::with_capacity(MAX_BATCH);
        let mut tick = Instant::now() + TICK;
        loop {
            let idle = self.damper.is_idle();
            let due = [self.journal.due(), self.channels.due()];
            let due = due.into_iter().flatten().map(Instant::from_std);
            let due = due.chain((!idle).then_some(tick)).min();
            tokio::select! {
                n = self.incoming.recv_many(&mut buffer, MAX_BATCH) => {
                    if n == 0 {
                        return;
                    }
                    if idle {
                        tick = Instant::now() + TICK;
                    }
                    buffer.drain(..).for_each(|transition| self.take(transition));
                }
                Some(done) = self.flush.recv() => {
                    while let Ok(transition) = self.incoming.try_recv() {
                        self.take(transition);
                    }
                    let now = Instant::now().into_std();
                    let (journal, channels) = (self.journal.finish(now), self.channels.finish(now));
                    self.notify(journal, channels);
                    let _ = done.send(());
                    continue;
                }
                () = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
            let now = Instant::now();
            if now >= tick {
                tick = now + TICK;
                for event in self.damper.tick(now.into_std()) {
                    self.add(event);
                }
            }
            let now = now.into_std();
            let (journal, channels) = (self.journal.take(now), self.channels.take(now));
            self.notify(journal, channels);
        }
    }

    fn take(&mut self, transition: Transition) {
        if let Some(event) = self.damper.take(transition, Instant::now().into_std()) {
            self.add(event);
        }
    }

    fn add(&mut self, event: Event) {
        let now = Instant::now().into_std();
        self.journal.add(event.clone(), now);
        self.channels.add(event, now);
    }

    fn notify(&mut self, for_journal: Vec<Event>, for_channels: Vec<Event>) {
        for event in for_journal {
            journal::write(&self.message(event, 0));
        }
        if for_channels.is_empty() {
            return;
        }
        let mut missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            warn!("alarms: queue full, {missed} transitions were not reported");
        }
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for event in for_channels {
            let message = Arc::new(self.message(event, std::mem::take(&mut missed)));
            for queue in &queues {
                queue.push(message.clone());
            }
        }
    }

    fn message(&mut self, event: Event, missed: u64) -> Message {
        self.number += 1;
        Message { number: self.number, at: SystemTime::now(), event, missed }
    }
}
