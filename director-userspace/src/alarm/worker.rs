//! A channel at work: takes messages from its queue, delivers them, tries again.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{message::Message, queue::Queue};

/// How often delivering is tried, and when. Each wait is twice the former, and longer or shorter by
/// up to a quarter, so that many directors do not come back at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The wait after the first failure.
    pub(super) first: Duration,
    /// The longest wait.
    pub(super) longest: Duration,
    /// Tries in all; at least 1.
    pub(super) tries: u32,
}

impl Default for Patience {
    /// Eight tries, about two minutes of waiting in all.
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_mins(1), tries: 8 }
    }
}

impl Patience {
    fn wait(&self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << (failures - 1).min(20)).min(self.longest);
        doubled.mul_f64(0.75 + fastrand::f64() / 2.0)
    }
}

/// In what portions a channel takes messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portions {
    /// Most messages that are delivered at once.
    pub(super) most: usize,
    /// How long more are waited for after the first.
    pub(super) gather: Duration,
    /// How long nothing is delivered after a delivery.
    pub(super) rest: Duration,
}

impl Portions {
    /// One message at a time, at once.
    pub(super) const SINGLE: Self = Self { most: 1, gather: Duration::ZERO, rest: Duration::ZERO };
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may succeed later.
    Again {
        /// What happened.
        why: String,
        /// Before this time it will not.
        after: Option<Duration>,
    },
    /// Nothing would change by trying again.
    Never(String),
}

impl Failure {
    /// It may succeed later.
    pub(super) fn again(why: impl Into<String>) -> Self {
        Self::Again { why: why.into(), after: None }
    }
}

/// A way to reach somebody.
pub(super) trait Channel: Send + 'static {
    /// What it is called in the log; without secrets.
    fn name(&self) -> String;

    /// Tries once to deliver; takes a bounded time. `lost` messages were lost before these.
    fn deliver(
        &mut self,
        messages: &[Arc<Message>],
        lost: u64,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// While there is a hurry, the next try is no farther away than this.
const HURRIED: Duration = Duration::from_millis(250);

/// Delivers what comes into `queue`, for ever.
pub(super) async fn work(
    mut channel: impl Channel,
    queue: Arc<Queue>,
    portions: Portions,
    patience: Patience,
) {
    let name = channel.name();
    let mut in_trouble = false;
    loop {
        let mut messages = queue.next(1).await;
        if !portions.gather.is_zero() {
            queue.rest(portions.gather).await;
        }
        messages.extend(queue.take(portions.most - messages.len()));
        let mut tries = 0;
        loop {
            let lost = queue.lost();
            let failure = match channel.deliver(&messages, lost).await {
                Ok(()) => {
                    if std::mem::take(&mut in_trouble) {
                        info!("alarms: {name} works again");
                    }
                    queue.settle(messages.len(), lost, 0);
                    break;
                }
                Err(failure) => failure,
            };
            tries += 1;
            let (why, after) = match failure {
                Failure::Again { why, after } if tries < patience.tries => (why, after),
                Failure::Again { why, .. } | Failure::Never(why) => {
                    in_trouble = true;
                    let n = messages.len() as u64;
                    warn!("alarms: {name} failed, messages lost: {n} (after {tries} tries): {why}");
                    queue.settle(messages.len(), 0, n);
                    break;
                }
            };
            if !std::mem::replace(&mut in_trouble, true) {
                warn!("alarms: {name} failed, and is tried again: {why}");
            }
            let wait = patience.wait(tries).max(after.unwrap_or_default()).min(patience.longest);
            if queue.rest(wait).await {
                tokio::time::sleep(wait.min(HURRIED)).await;
            }
        }
        if !portions.rest.is_zero() {
            queue.rest(portions.rest).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let patience = Patience::default();
        let mut total = Duration::ZERO;
        for (failures, about) in [1, 2, 4, 8, 16, 32, 60].into_iter().enumerate() {
            let wait = patience.wait(failures as u32 + 1);
            let about = Duration::from_secs(about);
            assert!(wait >= about.mul_f64(0.75) && wait <= about.mul_f64(1.25), "{wait:?}");
            total += wait;
        }
        assert!(total < Duration::from_mins(4));
        assert!(patience.wait(4_000_000_000) <= Duration::from_secs(75));
    }
}
