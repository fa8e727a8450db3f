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
use crate::config::model::HealthCheck;

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
