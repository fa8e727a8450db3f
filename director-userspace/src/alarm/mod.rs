//! Alarms: transitions of backends, services, quorums and the director itself reach people.
//!
//! ```text
//! tell -> damper (flapping subjects) -> digest (few: one by one, many: together) -> channels
//! ```
//!
//! - [`transition`](Transition): what is told;
//! - `damper`: a subject that changes all the time is told once, and then now and then;
//! - `digest`: a bounded number of messages per minute, however many transitions there are;
//! - `dispatch`: the task that does this, and writes the journal;
//! - `queue`, `worker`: what waits for one channel, bounded, and who delivers it. Each channel has a
//!   task of its own, so that none delays another;
//! - `exec`, `webhook`, `mail`: the channels.
//!
//! Nothing here makes the daemon wait: [`Notifier::tell`] counts what there is no room for.

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
    worker::{Channel, Patience, Portions, work},
};
use crate::{
    kernel::{unprivileged::DEFAULT_USER, wall_clock},
    policy::config::model,
};

/// How channels behave.
#[derive(Debug, Clone, Copy)]
struct Behaviour {
    limits: Limits,
    /// Of webhooks and mail. A hook is run once.
    patience: Patience,
    exec_timeout: Duration,
    webhook_timeout: Duration,
    mail_timeout: Duration,
    mail: Portions,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            patience: Patience::default(),
            exec_timeout: exec::TIMEOUT,
            webhook_timeout: webhook::TIMEOUT,
            mail_timeout: mail::TIMEOUT,
            mail: mail::PORTIONS,
        }
    }
}

/// What makes a channel the same as before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Exec { command: Vec<String>, user: String },
    Webhook(String),
    Mail(model::Mail),
}

/// A channel's task and what waits for it; ends with the value.
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

/// Whom transitions are told to. Channels end with it; [`flush`](Self::flush) before.
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
    /// Starts telling: the journal always, and the channels of `config`. `instance` is the director's
    /// name. Wants a tokio runtime.
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
            slots: Arc::new(Semaphore::new(exec::AT_ONCE)),
            behaviour,
        };
        notifier.configure(config);
        notifier
    }

    /// From now on tells the channels of `config`. Those that were there before keep what waits for
    /// them; what waits for others is dropped. A channel that cannot be is said to be wrong in the
    /// log.
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
                Some(place) => self.running.push(before.swap_remove(place)),
                None => self.running.extend(self.channel(key)),
            }
        }
        let queues = self.running.iter().map(|running| running.queue.clone()).collect();
        *self.queues.lock().unwrap_or_else(PoisonError::into_inner) = queues;
    }

    fn channel(&self, key: Key) -> Option<Running> {
        let Behaviour { patience, exec_timeout, webhook_timeout, mail_timeout, mail, .. } =
            self.behaviour;
        let origin = self.origin.clone();
        Some(match key.clone() {
            Key::Exec { command, user } => {
                let slots = self.slots.clone();
                let hook = Exec { command, user, origin, slots, timeout: exec_timeout };
                self.run(key, hook, Portions::SINGLE, Patience { tries: 1, ..patience })
            }
            Key::Webhook(url) => match Webhook::new(&url, origin, webhook_timeout) {
                Ok(webhook) => self.run(key, webhook, Portions::SINGLE, patience),
                Err(why) => {
                    error!("alarms: a webhook gets nothing: {why}");
                    return None;
                }
            },
            Key::Mail(config) => {
                self.run(key, Mailer { config, origin, timeout: mail_timeout }, mail, patience)
            }
        })
    }

    fn run(
        &self,
        key: Key,
        channel: impl Channel,
        portions: Portions,
        patience: Patience,
    ) -> Running {
        let queue = Arc::new(Queue::new(self.behaviour.limits.queue));
        let task = tokio::spawn(work(channel, queue.clone(), portions, patience)).abort_handle();
        Running { key, queue, task }
    }

    /// Tells a transition. Never waits: if tens of thousands are waiting to be told, it is counted,
    /// and the next message has the number.
    pub fn notify(&self, transition: Transition) {
        if self.incoming.try_send(transition.cleaned()).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Delivers what has been told so far, as far as that is possible `within` some time: at the
    /// daemon's end. From now on nobody rests.
    pub async fn flush(&mut self, within: Duration) {
        let queues = self.running.iter().map(|running| running.queue.clone());
        let queues: Vec<_> = queues.collect();
        // What is not delivered in time is lost, and the log has it.
        let _ = timeout(within, async {
            let (done, is_done) = oneshot::channel();
            if self.flush.send(done).await.is_ok() {
                let _ = is_done.await;
            }
            for queue in &queues {
                queue.hurry();
            }
            for queue in &queues {
                queue.settled().await;
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests;
