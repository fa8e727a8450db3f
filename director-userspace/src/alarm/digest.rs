//! Few events are reported one by one, many as a summary. Pure: time is a parameter.
//!
//! Events are gathered for a short time. If the budget allows, each is a message; otherwise all of
//! them are one summary, and the next summary is at least `summaries` later.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{
    message::{Event, Group, Summary},
    transition::{Severity, Subject, Transition},
};

/// Limits of the number of messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateLimit {
    /// How long events are gathered after the first.
    pub(super) gather: Duration,
    /// Most messages about single events at once, and, refilled evenly, per minute.
    pub(super) per_minute: u32,
    /// Least time between two summaries.
    pub(super) summaries: Duration,
    /// Most transitions in a summary's examples.
    pub(super) examples: usize,
    /// Most subjects that a summary counts separately.
    pub(super) subjects: usize,
}

impl RateLimit {
    /// For the channels: hooks, webhooks and mail.
    pub(super) const CHANNELS: Self = Self {
        gather: Duration::from_secs(1),
        per_minute: 20,
        summaries: Duration::from_secs(10),
        examples: 20,
        subjects: 65_536,
    };
    /// For the journal.
    pub(super) const JOURNAL: Self =
        Self { gather: Duration::ZERO, per_minute: 600, ..Self::CHANNELS };
}

/// Gathers events, and combines them if there are too many.
#[derive(Debug)]
pub(super) struct Digest {
    limit: RateLimit,
    /// Messages that may be sent now; refilled up to `per_minute`.
    budget: f64,
    refilled: Instant,
    /// When the next summary may be sent.
    summary_from: Instant,
    gathered: Option<Gathered>,
}

#[derive(Debug)]
struct Gathered {
    until: Instant,
    /// The events, as long as they are few enough to be reported one by one.
    single: Option<Vec<Event>>,
    by_subject: HashMap<Subject, Latest>,
    transitions: u64,
}

/// The combined transitions of one subject.
#[derive(Debug)]
struct Latest {
    /// From the state before the first transition to that after the last.
    transition: Transition,
    /// `flapping` or `quiet`, if that was the last event; otherwise the state.
    state: String,
    severity: Severity,
}

impl Digest {
    /// A digest with a full budget.
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        let budget = f64::from(limit.per_minute);
        Self { limit, budget, refilled: now, summary_from: now, gathered: None }
    }

    /// Adds an event.
    pub(super) fn add(&mut self, event: Event, now: Instant) {
        let limit = &self.limit;
        let gathered = self.gathered.get_or_insert_with(|| Gathered {
            until: now + limit.gather,
            single: Some(Vec::new()),
            by_subject: HashMap::new(),
            transitions: 0,
        });
        gathered.add(event, limit);
    }

    /// When [`take`](Self::take) returns events.
    pub(super) fn due(&self) -> Option<Instant> {
        let gathered = self.gathered.as_ref()?;
        let single =
            gathered.single.as_ref().is_some_and(|single| single.len() as f64 <= self.budget);
        Some(if single { gathered.until } else { gathered.until.max(self.summary_from) })
    }

    /// The events to report now.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Event> {
        self.refill(now);
        if self.due().is_none_or(|due| now < due) { Vec::new() } else { self.finish(now) }
    }

    /// The events added and not reported yet, due or not.
    pub(super) fn finish(&mut self, now: Instant) -> Vec<Event> {
        self.refill(now);
        let Some(gathered) = self.gathered.take() else { return Vec::new() };
        match gathered.single {
            Some(single) if single.len() as f64 <= self.budget => {
                self.budget -= single.len() as f64;
                single
            }
            _ => {
                self.summary_from = now + self.limit.summaries;
                vec![Event::Summary(gathered.summary(self.limit.examples))]
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let full = f64::from(self.limit.per_minute);
        let minutes = now.duration_since(self.refilled).as_secs_f64() / 60.0;
        self.budget = (self.budget + minutes * full).min(full);
        self.refilled = now;
    }
}

impl Gathered {
    fn add(&mut self, event: Event, limit: &RateLimit) {
        let (state, severity) = match &event {
            Event::Transition(t) => (t.to.clone(), t.severity()),
            Event::Flapping { .. } => ("flapping".to_owned(), Severity::Warning),
            Event::Quiet { last, .. } => ("quiet".to_owned(), last.severity()),
            // A digest gets no summaries.
            Event::Summary(_) => return,
        };
        let (transition, count) = match &event {
            Event::Transition(t) => (t.clone(), 1),
            Event::Flapping { last, transitions, .. } | Event::Quiet { last, transitions } => {
                (last.clone(), *transitions)
            }
            Event::Summary(_) => return,
        };
        self.transitions += count;
        if let Some(latest) = self.by_subject.get_mut(&transition.subject) {
            let from = std::mem::take(&mut latest.transition.from);
            *latest = Latest { transition: Transition { from, ..transition }, state, severity };
        } else if self.by_subject.len() < limit.subjects {
            let subject = transition.subject.clone();
            self.by_subject.insert(subject, Latest { transition, state, severity });
        }
        match &mut self.single {
            Some(single) if single.len() < limit.per_minute as usize => single.push(event),
            single => *single = None,
        }
    }

    fn summary(self, examples: usize) -> Summary {
        let mut latest: Vec<Latest> = self.by_subject.into_values().collect();
        // The most important first, then by name, so that the order is stable.
        let importance =
            |latest: &Latest| (Reverse(latest.severity), latest.transition.subject.rank());
        latest.sort_by_cached_key(|latest| {
            (importance(latest), latest.transition.subject.describe())
        });
        let mut groups: Vec<(Group, HashSet<&str>)> = Vec::new();
        let mut index: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for Latest { transition, state, .. } in &latest {
            let kind = transition.subject.kind();
            let at = *index.entry((kind, state)).or_insert_with(|| {
                let group = Group { kind, to: state.clone(), subjects: 0, services: 0 };
                groups.push((group, HashSet::new()));
                groups.len() - 1
            });
            let (group, services) = &mut groups[at];
            group.subjects += 1;
            services.insert(transition.subject.frontend());
        }
        let groups = groups
            .into_iter()
            .map(|(group, services)| Group { services: services.len() as u64, ..group });
        Summary {
            groups: groups.collect(),
            severity: latest.first().map_or(Severity::Info, |latest| latest.severity),
            transitions: self.transitions,
            examples: latest.into_iter().take(examples).map(|latest| latest.transition).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn backend(n: u32, services: u32, from: &str, to: &str) -> Event {
        let service = format!("s{}", n % services);
        let subject = Subject::Backend {
            frontend: format!("tcp 192.0.2.1:{}", n % services),
            service,
            address: IpAddr::from((0x0a00_0000 + n).to_be_bytes()),
        };
        Event::Transition(Transition::now(subject, from, to, "no answer"))
    }

    /// Takes events as the dispatcher does: whenever some are due.
    fn drain(digest: &mut Digest, until: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(due) = digest.due().filter(|&due| due <= until) {
            events.extend(digest.take(due));
        }
        events
    }

    #[test]
    fn few_are_reported_one_by_one_and_many_as_a_summary() {
        let start = Instant::now();
        let mut digest = Digest::new(RateLimit::CHANNELS, start);
        for n in 0..3 {
            digest.add(backend(n, 1, "up", "down"), start);
        }
        assert_eq!(drain(&mut digest, start), [], "gathered for a second");
        let events = drain(&mut digest, start + SECOND);
        assert_eq!(events.len(), 3, "{events:?}");
        for n in 0..812 {
            digest.add(backend(n, 40, "up", "down"), start + 2 * SECOND);
        }
        for n in 900..1000 {
            digest.add(backend(n, 40, "up", "down"), start + 2 * SECOND);
            digest.add(backend(n, 40, "down", "up"), start + 2 * SECOND);
        }
        let director = Transition::now(Subject::Director, "in effect", "refused", "line 3");
        digest.add(Event::Transition(director.clone()), start + 2 * SECOND);
        let events = drain(&mut digest, start + 4 * SECOND);
        let [Event::Summary(summary)] = events.as_slice() else { panic!("{events:?}") };
        let group = |kind, to: &str, subjects, services| Group {
            kind,
            to: to.to_owned(),
            subjects,
            services,
        };
        assert_eq!(
            summary.groups,
            [
                group("director", "refused", 1, 1),
                group("backend", "down", 812, 40),
                group("backend", "up", 100, 40)
            ]
        );
        assert_eq!(summary.transitions, 1013);
        assert_eq!(summary.severity, Severity::Warning);
        assert_eq!(summary.examples.len(), RateLimit::CHANNELS.examples);
        assert_eq!(summary.examples[0], director, "the most important first");
    }

    #[test]
    fn a_storm_is_a_bounded_number_of_messages_that_count_every_transition() {
        let start = Instant::now();
        let mut digest = Digest::new(RateLimit::CHANNELS, start);
        let (mut reported, mut messages_in_minute) = (0, Vec::new());
        for minute in 0..5 {
            let mut messages = 0;
            // 10,000 a minute.
            for tick in 0..6000 {
                let now = start + minute * 60 * SECOND + tick * Duration::from_millis(10);
                for n in 0..(if tick % 3 == 0 { 5 } else { 0 }) {
                    let to = if tick % 2 == 0 { "down" } else { "up" };
                    digest.add(backend(n * 6000 + tick, 300, "", to), now);
                }
                for event in digest.take(now) {
                    messages += 1;
                    reported +=
                        if let Event::Summary(summary) = event { summary.transitions } else { 1 };
                }
            }
            messages_in_minute.push(messages);
        }
        reported += digest
            .finish(start + 300 * SECOND)
            .into_iter()
            .map(|event| if let Event::Summary(summary) = event { summary.transitions } else { 1 })
            .sum::<u64>();
        assert_eq!(reported, 50_000);
        assert!(
            messages_in_minute.iter().all(|&n| (5..=46).contains(&n)),
            "{messages_in_minute:?}"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut digest = Digest::new(RateLimit { subjects: 100, ..RateLimit::CHANNELS }, now);
        for n in 0..10_000 {
            digest.add(backend(n, 7, "up", "down"), now);
        }
        let gathered = digest.gathered.as_ref().unwrap();
        assert!(gathered.single.is_none() && gathered.by_subject.len() == 100);
        let events = digest.finish(now);
        let [Event::Summary(summary)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((summary.transitions, summary.groups[0].subjects), (10_000, 100));
    }
}
