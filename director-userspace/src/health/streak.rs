//! Counts results in a row and decides between up and down.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{
    Health, Target,
    events::{QueueEntry, lock},
    failure::Failure,
};
use crate::policy::{config::model::HealthCheck, health_policy::HealthState};

/// The outcome of a probe: how long a good answer took, if one is expected, or why the probe
/// failed.
pub(super) type Outcome = Result<Option<Duration>, Failure>;

/// A target and its health.
pub(super) struct CheckCell {
    pub(super) target: Arc<Target>,
    pub(super) queue_entry: QueueEntry,
    health: Mutex<Health>,
    probed: AtomicBool,
}

impl CheckCell {
    pub(super) fn new(target: Arc<Target>, initial: HealthState) -> Self {
        Self {
            target,
            queue_entry: QueueEntry::default(),
            health: Mutex::new(Health::unprobed(initial, SystemTime::now())),
            probed: AtomicBool::new(false),
        }
    }

    pub(super) fn health(&self) -> Health {
        lock(&self.health).clone()
    }

    /// Whether a probe has ended.
    pub(super) fn is_probed(&self) -> bool {
        self.probed.load(Ordering::Relaxed)
    }

    /// Counts a probe that ended. Returns whether to emit an event: the state changed, or it is the
    /// first.
    pub(super) fn record(&self, outcome: Outcome) -> bool {
        let changed = lock(&self.health).record(&self.target.check, outcome, SystemTime::now());
        !self.probed.swap(true, Ordering::Relaxed) || changed
    }
}

impl Health {
    /// No result yet.
    fn unprobed(initial: HealthState, now: SystemTime) -> Self {
        Self {
            state: initial,
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

    /// Counts a result. Returns whether the state changed.
    fn record(&mut self, check: &HealthCheck, outcome: Outcome, now: SystemTime) -> bool {
        self.last_probe = Some(now);
        let (good, reason) = match outcome {
            Ok(latency) => {
                self.latency = latency;
                (true, String::new())
            }
            Err(Failure::Backend(reason)) => (false, reason),
            Err(Failure::Host(reason)) => {
                // No result: neither streak is broken.
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
        let (state, enough) =
            if good { (HealthState::Up, check.rise) } else { (HealthState::Down, check.fall) };
        if self.state == state || self.streak < u32::from(enough) {
            return false;
        }
        self.state = state;
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

    fn cell(rise: u16, fall: u16, initial: HealthState) -> CheckCell {
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
        CheckCell::new(Arc::new(target), initial)
    }

    /// Records each result (`+` good, `-` bad, `?` not made), and shows the state after each: `u`
    /// or `d`, a capital if an event is emitted.
    fn states(cell: &CheckCell, results: &str) -> String {
        let state = |result| {
            let changed = cell.record(match result {
                '+' => Ok(Some(Duration::from_millis(1))),
                '-' => Err(Failure::backend("refused")),
                _ => Err(Failure::host("no descriptors")),
            });
            let state = match cell.health().state {
                HealthState::Up => 'u',
                HealthState::Down => 'd',
            };
            if changed { state.to_ascii_uppercase() } else { state }
        };
        results.chars().map(state).collect()
    }

    #[test]
    fn a_streak_of_rise_or_fall_results_changes_the_state() {
        assert_eq!(states(&cell(2, 3, HealthState::Up), "+---+-++--+---"), "UuuDdddUuuuuuD");
        assert_eq!(states(&cell(2, 3, HealthState::Down), "-++"), "DdU");
        assert_eq!(states(&cell(1, 1, HealthState::Up), "-+-+"), "DUDU");
        assert_eq!(states(&cell(3, 1, HealthState::Up), "-++-+++"), "DdddddU");
    }

    #[test]
    fn failures_of_the_host_neither_break_a_streak_nor_change_the_state() {
        assert_eq!(states(&cell(1, 2, HealthState::Up), "????"), "Uuuu");
        let cell = cell(2, 3, HealthState::Up);
        assert_eq!(states(&cell, "--?-"), "UuuD");
        let health = cell.health();
        assert_eq!((health.streak, health.probes, health.failures, health.not_made), (3, 3, 3, 1));
        assert_eq!(health.reason, "refused");
        assert_eq!(states(&cell, "?"), "d");
        assert_eq!(cell.health().reason, "no descriptors");
        assert_eq!(cell.health().good, Some(false), "still the last result");
    }

    #[test]
    fn a_good_answer_leaves_no_reason() {
        let cell = cell(2, 2, HealthState::Up);
        assert!(!cell.is_probed());
        states(&cell, "-+");
        assert!(cell.is_probed());
        let health = cell.health();
        assert_eq!((health.reason.as_str(), health.streak), ("", 1));
        assert_eq!(health.latency, Some(Duration::from_millis(1)));
        assert!(health.last_probe.is_some());
    }
}
