//! The task of a channel: takes messages from its queue, delivers them, and retries.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{message::Message, queue::Queue};

/// Retries of a delivery: exponential backoff with a jitter of up to a quarter, so that many
/// directors do not retry at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryPolicy {
    /// The wait after the first failure.
    pub(super) first: Duration,
    /// The longest wait.
    pub(super) longest: Duration,
    /// Tries in all; at least 1.
    pub(super) tries: u32,
}

impl Default for RetryPolicy {
    /// Eight tries, about two minutes of waiting in all.
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_mins(1), tries: 8 }
    }
}

impl RetryPolicy {
    fn wait(&self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << (failures - 1).min(20)).min(self.longest);
        doubled.mul_f64(0.75 + fastrand::f64() / 2.0)
    }
}

/// How a channel combines messages into one delivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batching {
    /// Most messages in one delivery.
    pub(super) most: usize,
    /// How long to wait for more messages after the first.
    pub(super) gather: Duration,
    /// The pause after a delivery.
    pub(super) pause: Duration,
}

impl Batching {
    /// One message at a time, without delay.
    pub(super) const SINGLE: Self = Self { most: 1, gather: Duration::ZERO, pause: Duration::ZERO };
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may succeed later.
    Again {
        /// What happened.
        why: String,
        /// The earliest time of the next try.
        after: Option<Duration>,
    },
    /// A retry cannot succeed.
    Never(String),
}

impl Failure {
    /// It may succeed later.
    pub(super) fn again(why: impl Into<String>) -> Self {
        Self::Again { why: why.into(), after: None }
    }
}

/// A destination of alarms.
pub(super) trait Channel: Send + 'static {
    /// The name in the log; without secrets.
    fn name(&self) -> String;

    /// Tries once to deliver, in bounded time. `lost` messages were lost before these.
    fn deliver(
        &mut self,
        messages: &[Arc<Message>],
        lost: u64,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The longest wait before a retry during a flush.
const FLUSH_RETRY: Duration = Duration::from_millis(250);

/// Delivers the messages of `queue`, for ever.
pub(super) async fn work(
    mut channel: impl Channel,
    queue: Arc<Queue>,
    batching: Batching,
    retries: RetryPolicy,
) {
    let name = channel.name();
    let mut failing = false;
    loop {
        let mut messages = queue.next(1).await;
        if !batching.gather.is_zero() {
            queue.pause(batching.gather).await;
        }
        messages.extend(queue.take(batching.most - messages.len()));
        let mut tries = 0;
        loop {
            let lost = queue.lost();
            let failure = match channel.deliver(&messages, lost).await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        info!("alarms: {name} works again");
                    }
                    queue.complete(messages.len(), lost, 0);
                    break;
                }
                Err(failure) => failure,
            };
            tries += 1;
            let (why, after) = match failure {
                Failure::Again { why, after } if tries < retries.tries => (why, after),
                Failure::Again { why, .. } | Failure::Never(why) => {
                    failing = true;
                    let n = messages.len() as u64;
                    warn!("alarms: {name} failed, messages lost: {n} (after {tries} tries): {why}");
                    queue.complete(messages.len(), 0, n);
                    break;
                }
            };
            if !std::mem::replace(&mut failing, true) {
                warn!("alarms: {name} failed, retrying: {why}");
            }
            let wait = retries.wait(tries).max(after.unwrap_or_default()).min(retries.longest);
            if queue.pause(wait).await {
                tokio::time::sleep(wait.min(FLUSH_RETRY)).await;
            }
        }
        if !batching.pause.is_zero() {
            queue.pause(batching.pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let retries = RetryPolicy::default();
        let mut total = Duration::ZERO;
        for (failures, about) in [1, 2, 4, 8, 16, 32, 60].into_iter().enumerate() {
            let wait = retries.wait(failures as u32 + 1);
            let about = Duration::from_secs(about);
            assert!(wait >= about.mul_f64(0.75) && wait <= about.mul_f64(1.25), "{wait:?}");
            total += wait;
        }
        assert!(total < Duration::from_mins(4));
        assert!(retries.wait(4_000_000_000) <= Duration::from_secs(75));
    }
}
