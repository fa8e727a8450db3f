//! Alarms: report transitions of backends, services, quorums and the director itself. They change
//! nothing, and no channel delays the daemon.
//!
//! Begin with [`Notifier`], which takes a [`Transition`].
//!
//! ```text
//! notify -> damper (flap suppression) -> digest (few: one by one, many: a summary) -> channels
//! ```
//!
//! - [`transition`](Transition): a state change;
//! - `damper`: a backend, service or quorum that flaps is reported once, and then at intervals;
//! - `digest`: limits the messages per minute, however many transitions there are;
//! - `dispatch`: the task that runs both, and writes the journal;
//! - `queue`, `worker`: the bounded queue of one channel, and the task that delivers it. Each
//!   channel has its own task, so that none delays another;
//! - `exec`, `webhook`, `mail`: the channels. Each decides which of its failures is retried.
//!
//! The daemon never waits for alarms: [`Notifier::notify`] counts transitions that do not fit the
//! queue.

mod damper;
mod digest;
mod dispatch;
mod exec;
mod journal;
mod mail;
mod message;
mod queue;
mod transition;
mod webhook;
mod worker;

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};
use tracing::error;

pub use self::transition::{Severity, Subject, Transition};
use self::{
    dispatch::{Dispatcher, Limits, Queues},
    exec::Exec,
    mail::Mailer,
    message::Origin,
    queue::Queue,
    webhook::Webhook,
    worker::{Batching, Channel, RetryPolicy, work},
};
use crate::{
    kernel::{unprivileged::DEFAULT_USER, wall_clock},
    policy::config::model,
};

/// How channels behave.
#[derive(Debug, Clone, Copy)]
struct Behaviour {
    limits: Limits,
    /// For webhooks and mail. A hook runs once.
    retries: RetryPolicy,
    exec_timeout: Duration,
    webhook_timeout: Duration,
    mail_timeout: Duration,
    mail: Batching,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            retries: RetryPolicy::default(),
            exec_timeout: exec::TIMEOUT,
            webhook_timeout: webhook::TIMEOUT,
            mail_timeout: mail::TIMEOUT,
            mail: mail::BATCHING,
        }
    }
}

/// Identifies a channel across configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Exec { command: Vec<String>, user: String },
    Webhook(String),
    Mail(model::Mail),
}

/// A channel's task and its queue; the task ends when this is dropped.
#[derive(Debug)]
struct Running {
    key: Key,
    queue: Arc<Queue>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reports transitions to the journal and the channels. Channels end when it is dropped; call
/// [`flush`](Self::flush) before.
#[derive(Debug)]
pub struct Notifier {
    incoming: mpsc::Sender<Transition>,
    flush: mpsc::Sender<oneshot::Sender<()>>,
    missed: Arc<AtomicU64>,
    queues: Queues,
    running: Vec<Running>,
    origin: Arc<Origin>,
    slots: Arc<Semaphore>,
    behaviour: Behaviour,
}

impl Notifier {
    /// Starts reporting to the journal and to the channels of `config`. `instance` is the
    /// director's name. Needs a tokio runtime.
    pub fn start(instance: &str, config: &model::Alarms) -> Self {
        Self::with(instance, config, Behaviour::default())
    }

    fn with(instance: &str, config: &model::Alarms, behaviour: Behaviour) -> Self {
        let limits = &behaviour.limits;
        let (incoming, receiver) = mpsc::channel(limits.incoming);
        let (flush, flushes) = mpsc::channel(1);
        let missed = Arc::new(AtomicU64::new(0));
        let queues = Queues::default();
        let dispatcher = Dispatcher::new(limits, receiver, flushes, missed.clone(), queues.clone());
        tokio::spawn(dispatcher.run());
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let started = wall_clock::now();
        let run = format!("{started:x}-{:x}", std::process::id());
        let mut notifier = Self {
            incoming,
            flush,
            missed,
            queues,
            running: Vec::new(),
            origin: Arc::new(Origin { instance: instance.to_owned(), host, run }),
            slots: Arc::new(Semaphore::new(exec::MAX_CONCURRENT)),
            behaviour,
        };
        notifier.configure(config);
        notifier
    }

    /// Replaces the channels by those of `config`. Channels in both keep their queue; the queues of
    /// removed ones are dropped. An invalid channel is logged and skipped.
    pub fn configure(&mut self, config: &model::Alarms) {
        let user = config.user.as_deref().unwrap_or(DEFAULT_USER);
        let exec = config
            .exec
            .iter()
            .filter(|command| !command.is_empty())
            .map(|command| Key::Exec { command: command.clone(), user: user.to_owned() });
        let webhooks = config.webhooks.iter().cloned().map(Key::Webhook);
        let mut before = std::mem::take(&mut self.running);
        for key in exec.chain(webhooks).chain(config.mail.iter().cloned().map(Key::Mail)) {
            if self.running.iter().any(|running| running.key == key) {
                continue;
            }
            match before.iter().position(|running| running.key == key) {
                Some(index) => self.running.push(before.swap_remove(index)),
                None => self.running.extend(self.channel(key)),
            }
        }
        let queues = self.running.iter().map(|running| running.queue.clone()).collect();
        *self.queues.lock().unwrap_or_else(PoisonError::into_inner) = queues;
    }

    fn channel(&self, key: Key) -> Option<Running> {
        let Behaviour { retries, exec_timeout, webhook_timeout, mail_timeout, mail, .. } =
            self.behaviour;
        let origin = self.origin.clone();
        Some(match key.clone() {
            Key::Exec { command, user } => {
                let slots = self.slots.clone();
                let hook = Exec { command, user, origin, slots, timeout: exec_timeout };
                self.run(key, hook, Batching::SINGLE, RetryPolicy { tries: 1, ..retries })
            }
            Key::Webhook(url) => match Webhook::new(&url, origin, webhook_timeout) {
                Ok(webhook) => self.run(key, webhook, Batching::SINGLE, retries),
                Err(why) => {
                    error!("alarms: invalid webhook, not used: {why}");
                    return None;
                }
            },
            Key::Mail(config) => {
                self.run(key, Mailer { config, origin, timeout: mail_timeout }, mail, retries)
            }
        })
    }

    fn run(
        &self,
        key: Key,
        channel: impl Channel,
        batching: Batching,
        retries: RetryPolicy,
    ) -> Running {
        let queue = Arc::new(Queue::new(self.behaviour.limits.queue));
        let task = tokio::spawn(work(channel, queue.clone(), batching, retries)).abort_handle();
        Running { key, queue, task }
    }

    /// Reports a transition. Never waits: if the queue is full (65,536), the transition is counted
    /// as missed, and the next message has the count.
    pub fn notify(&self, transition: Transition) {
        if self.incoming.try_send(transition.cleaned()).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Delivers all pending transitions, as far as possible `within` a time, when the daemon ends.
    /// Channels no longer pause between deliveries.
    pub async fn flush(&mut self, within: Duration) {
        let queues = self.running.iter().map(|running| running.queue.clone());
        let queues: Vec<_> = queues.collect();
        // Messages not delivered in time are lost; the journal has them.
        let _ = timeout(within, async {
            let (done, is_done) = oneshot::channel();
            if self.flush.send(done).await.is_ok() {
                let _ = is_done.await;
            }
            for queue in &queues {
                queue.start_flush();
            }
            for queue in &queues {
                queue.drained().await;
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests;
