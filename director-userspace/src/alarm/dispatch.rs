//! The one task that all transitions come through: damped, digested, and handed to the channels.

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
    digest::{Digest, Pace},
    journal,
    message::{Event, Message},
    queue::Queue,
    transition::Transition,
};

/// How often it is looked whether somebody is quiet again.
const TICK: Duration = Duration::from_secs(1);
/// Transitions that are taken in at a time.
const AT_ONCE: usize = 256;

/// How much is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Transitions that may wait for the dispatcher.
    pub(super) incoming: usize,
    /// Messages that may wait for one channel.
    pub(super) queue: usize,
    /// When a subject is flapping.
    pub(super) damping: Damping,
    /// How much the journal gets.
    pub(super) journal: Pace,
    /// How much all other channels get.
    pub(super) people: Pace,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            incoming: 65_536,
            queue: 256,
            damping: Damping::default(),
            journal: Pace::JOURNAL,
            people: Pace::PEOPLE,
        }
    }
}

/// The channels' queues as they are now.
pub(super) type Queues = Arc<Mutex<Vec<Arc<Queue>>>>;

/// Everything that the dispatcher works with.
pub(super) struct Dispatcher {
    incoming: mpsc::Receiver<Transition>,
    flush: mpsc::Receiver<oneshot::Sender<()>>,
    /// Transitions that did not fit into `incoming`.
    missed: Arc<AtomicU64>,
    queues: Queues,
    damper: Damper,
    journal: Digest,
    people: Digest,
    /// Messages made so far.
    number: u64,
}

impl Dispatcher {
    /// One that takes transitions from `incoming`, and tells at once all that it knows by `flush`.
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
            people: Digest::new(limits.people, now),
            number: 0,
        }
    }

    /// Works until nobody can tell it anything any more.
    pub(super) async fn run(mut self) {
        let mut buffer = Vec::with_capacity(AT_ONCE);
        let mut tick = Instant::now() + TICK;
        loop {
            let idle = self.damper.is_idle();
            let due = [self.journal.due(), self.people.due()];
            let due = due.into_iter().flatten().map(Instant::from_std);
            let due = due.chain((!idle).then_some(tick)).min();
            tokio::select! {
                n = self.incoming.recv_many(&mut buffer, AT_ONCE) => {
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
                    let (journal, people) = (self.journal.finish(now), self.people.finish(now));
                    self.notify(journal, people);
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
            let (journal, people) = (self.journal.take(now), self.people.take(now));
            self.notify(journal, people);
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
        self.people.add(event, now);
    }

    fn notify(&mut self, for_journal: Vec<Event>, for_people: Vec<Event>) {
        for event in for_journal {
            journal::write(&self.message(event, 0));
        }
        if for_people.is_empty() {
            return;
        }
        let mut missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            warn!("alarms: {missed} transitions were too many to take in, nobody was told of them");
        }
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for event in for_people {
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
