//! When to probe.
//!
//! The first probes run soon, so that backends have a state soon after a start, but not all at
//! once: thousands would be a burst. The second runs at a random time within the interval, so that
//! from then on the probes of one check spread over all of it.

use std::time::Duration;

use tokio::time::Instant;

use crate::policy::config::model::Percent;

/// Most first probes that start in a second.
const STARTS_PER_SECOND: u32 = 2000;

/// The time within which the first probes of `count` new targets start.
pub(super) fn start_window(count: usize) -> Duration {
    // A single one starts at once.
    let count = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
    Duration::from_secs(1) * count / STARTS_PER_SECOND
}

/// The times of one target's probes.
pub(super) struct ProbeSchedule {
    interval: Duration,
    jitter: Percent,
    next: Instant,
    spread: bool,
}

impl ProbeSchedule {
    /// The first is at a random time within `window`, or the interval if that is shorter.
    pub(super) fn new(interval: Duration, jitter: Percent, window: Duration) -> Self {
        let next = Instant::now() + window.min(interval).mul_f64(fastrand::f64());
        Self { interval, jitter, next, spread: false }
    }

    /// Waits for the next.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep_until(self.next).await;
        self.begin(Instant::now(), fastrand::f64());
    }

    /// A probe begins at `now`; `random` is from 0 to 1.
    fn begin(&mut self, now: Instant, random: f64) {
        let after = if self.spread { self.jittered(random) } else { self.interval.mul_f64(random) };
        self.spread = true;
        // The delay of a timer is made up for; missed probes are not.
        let base = if now - self.next < self.interval { self.next } else { now };
        self.next = base + after;
    }

    /// The interval shortened by the jitter, never a longer one: a failed backend is down within
    /// `fall` intervals and a timeout. `random` is from 0 to 1.
    fn jittered(&self, random: f64) -> Duration {
        self.interval.mul_f64(1.0 - f64::from(self.jitter.0.min(100)) / 100.0 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(jitter: u8) -> ProbeSchedule {
        ProbeSchedule::new(Duration::from_secs(10), Percent(jitter), Duration::ZERO)
    }

    #[test]
    fn an_interval_is_shorter_by_the_jitter() {
        let seconds = |jitter, random| schedule(jitter).jittered(random).as_secs_f64();
        assert_eq!([seconds(0, 0.0), seconds(0, 1.0)], [10.0, 10.0]);
        assert_eq!([seconds(20, 0.0), seconds(20, 0.5), seconds(20, 1.0)], [10.0, 9.0, 8.0]);
        assert_eq!([seconds(100, 0.0), seconds(100, 1.0)], [10.0, 0.0]);
    }

    #[test]
    fn first_probes_of_many_targets_are_spread() {
        assert_eq!(start_window(0), Duration::ZERO);
        assert_eq!(start_window(1), Duration::ZERO);
        assert_eq!(start_window(2001), Duration::from_secs(1));
    }

    #[test]
    fn probes_keep_their_interval_and_missed_ones_are_not_made_up_for() {
        let mut schedule = schedule(0);
        let at = |schedule: &ProbeSchedule, start: Instant| (schedule.next - start).as_secs_f64();
        let start = schedule.next;
        schedule.begin(start, 0.25);
        assert_eq!(at(&schedule, start), 2.5, "the second is anywhere within the interval");
        schedule.begin(start + Duration::from_millis(2501), 0.25);
        assert_eq!(at(&schedule, start), 12.5, "from then on it is kept, a late timer or not");
        schedule.begin(start + Duration::from_secs(45), 0.25);
        assert_eq!(at(&schedule, start), 55.0, "after a stall, one at once, and none to make up");
    }
}
