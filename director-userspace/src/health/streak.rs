//! From results to up and down.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{
    Health, Target,
    events::{Place, lock},
    failure::Failure,
};
use crate::policy::config::model::HealthCheck;

/// What a probe came to: how long a good answer took, where one came, or why there is none.
pub(super) type Outcome = Result<Option<Duration>, Failure>;

/// A target and what is known of it.
pub(super) struct CheckCell {
    pub(super) target: Arc<Target>,
    pub(super) place: Place,
    health: Mutex<Health>,
    asked: AtomicBool,
}

impl CheckCell {
    pub(super) fn new(target: Arc<Target>, up: bool) -> Self {
        Self {
            target,
            place: Place::default(),
            health: Mutex::new(Health::unasked(up, SystemTime::now())),
            asked: AtomicBool::new(false),
        }
    }

    pub(super) fn health(&self) -> Health {
        lock(&self.health).clone()
    }

    /// Whether a probe has ended.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Counts a probe that ended. Whether somebody should know: `up` changed, or it is the first.
    pub(super) fn record(&self, outcome: Outcome) -> bool {
        let changed = lock(&self.health).record(&self.target.check, outcome, SystemTime::now());
        !self.asked.swap(true, Ordering::Relaxed) || changed
    }
}

impl Health {
    /// Nothing is known; it is taken for `up`.
    fn unasked(up: bool, now: SystemTime) -> Self {
        Self {
            up,
            reason: String::new(),
            since: now,
            latency: None,
            last_probe: None,
            good: None,
            streak: 0,
            probes: 0,
            failures: 0,
            not_made: 0,
            changes: 0,
        }
    }

    /// Whether `up` changed.
    fn record(&mut self, check: &HealthCheck, outcome: Outcome, now: SystemTime) -> bool {
        self.last_probe = Some(now);
        let (good, reason) = match outcome {
            Ok(latency) => {
                self.latency = latency;
                (true, String::new())
            }
            Err(Failure::Backend(reason)) => (false, reason),
            Err(Failure::Host(reason)) => {
                // Nothing was learned: neither streak is broken.
                self.not_made += 1;
                self.reason = reason;
                return false;
            }
        };
        self.streak = if self.good == Some(good) { self.streak.saturating_add(1) } else { 1 };
        self.good = Some(good);
        self.probes += 1;
        self.failures += u64::from(!good);
        self.reason = reason;
        let enough = u32::from(if good { check.rise } else { check.fall });
        if self.up == good || self.streak < enough {
            return false;
        }
        self.up = good;
        self.since = now;
        self.changes += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, num::NonZeroU16};

    use super::*;
    use crate::policy::config::model::{Percent, Probe, Start, Via};

    fn cell(rise: u16, fall: u16, up: bool) -> CheckCell {
        let check = HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise,
            fall,
            jitter: Percent(0),
            start: Start::Up,
            port: NonZeroU16::new(80),
            via: Via::Direct,
        };
        let address = Ipv4Addr::LOCALHOST.into();
        let target = Target { check: Arc::new(check), address, port: Some(80), mark: None };
        CheckCell::new(Arc::new(target), up)
    }

    /// Records each result (`+` good, `-` bad, `?` not made), and shows what is known after each:
    /// `U` or `D`, a capital where somebody should know.
    fn states(cell: &CheckCell, results: &str) -> String {
        let state = |result| {
            let news = cell.record(match result {
                '+' => Ok(Some(Duration::from_millis(1))),
                '-' => Err(Failure::backend("refused")),
                _ => Err(Failure::host("no descriptors")),
            });
            let state = if cell.health().up { 'u' } else { 'd' };
            if news { state.to_ascii_uppercase() } else { state }
        };
        results.chars().map(state).collect()
    }

    #[test]
    fn streaks_decide() {
        assert_eq!(states(&cell(2, 3, true), "+---+-++--+---"), "UuuDdddUuuuuuD");
        assert_eq!(states(&cell(2, 3, false), "-++"), "DdU");
        assert_eq!(states(&cell(1, 1, true), "-+-+"), "DUDU");
        assert_eq!(states(&cell(3, 1, true), "-++-+++"), "DdddddU");
    }

    #[test]
    fn what_the_host_lacks_breaks_no_streak_and_decides_nothing() {
        assert_eq!(states(&cell(1, 2, true), "????"), "Uuuu");
        let cell = cell(2, 3, true);
        assert_eq!(states(&cell, "--?-"), "UuuD");
        let health = cell.health();
        assert_eq!((health.streak, health.probes, health.failures, health.not_made), (3, 3, 3, 1));
        assert_eq!(health.reason, "refused");
        assert_eq!(states(&cell, "?"), "d");
        assert_eq!(cell.health().reason, "no descriptors");
        assert_eq!(cell.health().good, Some(false), "still the last that was made");
    }

    #[test]
    fn a_good_answer_leaves_no_reason() {
        let cell = cell(2, 2, true);
        assert!(!cell.is_asked());
        states(&cell, "-+");
        assert!(cell.is_asked());
        let health = cell.health();
        assert_eq!((health.reason.as_str(), health.streak), ("", 1));
        assert_eq!(health.latency, Some(Duration::from_millis(1)));
        assert!(health.last_probe.is_some());
    }
}
