//! Flap damping: a flapping subject is reported once, and then at intervals. Pure: time is a
//! parameter.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    message::Event,
    transition::{Subject, Transition},
};

/// When a subject is flapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Damping {
    /// More transitions than this within `window` count as flapping.
    pub(super) transitions: usize,
    /// See `transitions`.
    pub(super) window: Duration,
    /// A subject without a transition for this time is quiet.
    pub(super) quiet: Duration,
    /// How often a subject that is still flapping is reported.
    pub(super) remind: Duration,
    /// Most tracked subjects; transitions of further ones are always reported.
    pub(super) subjects: usize,
}

impl Default for Damping {
    fn default() -> Self {
        Self {
            transitions: 6,
            window: Duration::from_mins(2),
            quiet: Duration::from_mins(2),
            remind: Duration::from_mins(10),
            subjects: 65_536,
        }
    }
}

/// Decides which transitions are reported.
#[derive(Debug)]
pub(super) struct Damper {
    damping: Damping,
    subjects: HashMap<Subject, History>,
}

#[derive(Debug)]
struct History {
    /// The last transitions, as many as needed to detect flapping.
    recent: VecDeque<Instant>,
    last: Instant,
    flapping: Option<Flapping>,
}

#[derive(Debug)]
struct Flapping {
    last: Transition,
    suppressed: u64,
    reported: Instant,
}

impl Damper {
    /// A damper without history.
    pub(super) fn new(damping: Damping) -> Self {
        Self { damping, subjects: HashMap::new() }
    }

    /// The event to report for a transition that happens `now`, if any.
    pub(super) fn take(&mut self, transition: Transition, now: Instant) -> Option<Event> {
        let Damping { transitions, window, subjects, .. } = self.damping;
        if self.subjects.len() >= subjects && !self.subjects.contains_key(&transition.subject) {
            return Some(Event::Transition(transition));
        }
        let history = self.subjects.entry(transition.subject.clone()).or_insert_with(|| History {
            recent: VecDeque::new(),
            last: now,
            flapping: None,
        });
        history.last = now;
        if let Some(flapping) = &mut history.flapping {
            flapping.last = transition;
            flapping.suppressed += 1;
            return None;
        }
        history.recent.push_back(now);
        while history.recent.front().is_some_and(|&first| now.duration_since(first) > window) {
            history.recent.pop_front();
        }
        if history.recent.len() <= transitions {
            return Some(Event::Transition(transition));
        }
        let first = history.recent.front().copied().unwrap_or(now);
        let transitions = history.recent.len() as u64;
        history.recent = VecDeque::new();
        history.flapping =
            Some(Flapping { last: transition.clone(), suppressed: 0, reported: now });
        let within = seconds_up(now.duration_since(first));
        Some(Event::Flapping { last: transition, transitions, within })
    }

    /// The events to report because time has passed. Subjects without a transition for `window` are
    /// removed.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Event> {
        let Damping { window, quiet, remind, .. } = self.damping;
        let mut events = Vec::new();
        self.subjects.retain(|_, History { last, flapping, .. }| {
            let idle = now.duration_since(*last);
            let Some(flapping) = flapping else { return idle <= window };
            if idle >= quiet {
                let Flapping { last, suppressed, .. } = flapping;
                events.push(Event::Quiet { last: last.clone(), transitions: *suppressed });
                return false;
            }
            let since = now.duration_since(flapping.reported);
            if since >= remind && flapping.suppressed > 0 {
                events.push(Event::Flapping {
                    last: flapping.last.clone(),
                    transitions: std::mem::take(&mut flapping.suppressed),
                    within: seconds_up(since),
                });
                flapping.reported = now;
            }
            true
        });
        events
    }

    /// Whether no subject is tracked: then a tick has no effect.
    pub(super) fn is_idle(&self) -> bool {
        self.subjects.is_empty()
    }
}

/// Whole seconds, rounded up, at least one.
fn seconds_up(time: Duration) -> u64 {
    (time.as_millis().div_ceil(1000) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition(service: &str, to: &str) -> Transition {
        let (name, frontend) = (service.to_owned(), String::new());
        Transition::now(Subject::Service { name, frontend }, "", to, "")
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn flapping_is_reported_once_then_at_intervals_then_its_end() {
        let mut damper = Damper::new(Damping::default());
        let start = Instant::now();
        let mut reported = Vec::new();
        // Every 5 s for 25 minutes, which is 300 transitions.
        for n in 0..300 {
            let now = start + n * 5 * SECOND;
            let to = if n % 2 == 0 { "down" } else { "up" };
            reported.extend(damper.take(transition("web", to), now).map(|event| (n, event)));
            reported.extend(damper.tick(now + SECOND).into_iter().map(|event| (n, event)));
        }
        let end = start + 300 * 5 * SECOND;
        assert_eq!(damper.tick(end + 60 * SECOND), [], "not quiet yet");
        reported.extend(damper.tick(end + 120 * SECOND).into_iter().map(|event| (300, event)));
        let kinds: Vec<_> = reported
            .iter()
            .map(|(n, event)| match event {
                Event::Transition(_) => (*n, "transition", 1),
                Event::Flapping { transitions, .. } => (*n, "flapping", *transitions),
                Event::Quiet { transitions, .. } => (*n, "quiet", *transitions),
                Event::Summary(_) => unreachable!(),
            })
            .collect();
        assert_eq!(kinds[..6].iter().filter(|kind| kind.1 == "transition").count(), 6);
        assert_eq!(kinds[6], (6, "flapping", 7));
        assert_eq!(
            kinds[7..],
            [(126, "flapping", 120), (246, "flapping", 120), (300, "quiet", 53)],
            "each transition is reported once: {kinds:?}"
        );
        let Some((_, Event::Quiet { last, .. })) = reported.last() else { panic!("{reported:?}") };
        assert_eq!(last.to, "up");
        assert!(damper.is_idle());
        // The next one is reported again.
        let event = damper.take(transition("web", "down"), end + 200 * SECOND);
        assert!(matches!(event, Some(Event::Transition(_))), "{event:?}");
    }

    #[test]
    fn slow_changes_and_other_subjects_are_reported() {
        let mut damper = Damper::new(Damping::default());
        let start = Instant::now();
        for n in 0..50 {
            let now = start + n * 30 * SECOND;
            damper.tick(now);
            for service in ["web", "dns"] {
                let event = damper.take(transition(service, "down"), now);
                assert!(matches!(event, Some(Event::Transition(_))), "{event:?}");
            }
        }
        damper.tick(start + 50 * 30 * SECOND + 121 * SECOND);
        assert!(damper.is_idle(), "removed");
    }

    #[test]
    fn memory_is_bounded() {
        let mut damper = Damper::new(Damping { subjects: 100, ..Damping::default() });
        let now = Instant::now();
        for n in 0..1000 {
            assert!(damper.take(transition(&n.to_string(), "down"), now).is_some());
        }
        assert_eq!(damper.subjects.len(), 100);
        for _ in 0..20 {
            damper.take(transition("5", "down"), now);
            assert!(damper.take(transition("500", "down"), now).is_some(), "untracked: reported");
        }
        assert!(damper.take(transition("5", "down"), now).is_none(), "tracked");
    }
}
