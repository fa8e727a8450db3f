//! A message that a channel delivers: one transition, or a summary of many.

use std::{net::IpAddr, time::SystemTime};

use serde::Serialize;

use super::transition::{Severity, Transition};
use crate::kernel::wall_clock;

/// Version of [`Payload`]: incremented when a key is removed or changes its meaning.
const PAYLOAD_VERSION: u32 = 1;

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A subject's state has changed.
    Transition(Transition),
    /// A subject changes its state so often that single transitions are not reported.
    Flapping {
        /// Its last transition.
        last: Transition,
        /// How many there were since the last report.
        transitions: u64,
        /// In how many seconds.
        within: u64,
    },
    /// A subject that was flapping has kept its state for a while.
    Quiet {
        /// Its last transition.
        last: Transition,
        /// How many there were since the last report.
        transitions: u64,
    },
    /// So many transitions that they are reported together.
    Summary(Summary),
}

/// Many transitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// Counts by kind and state, the most important first.
    pub(super) groups: Vec<Group>,
    /// Some of them, the most important first.
    pub(super) examples: Vec<Transition>,
    /// How urgent the most urgent of them is.
    pub(super) severity: Severity,
    /// How many there were.
    pub(super) transitions: u64,
}

impl Event {
    /// How urgent it is.
    pub(super) fn severity(&self) -> Severity {
        match self {
            Self::Transition(last) | Self::Quiet { last, .. } => last.severity(),
            Self::Flapping { .. } => Severity::Warning,
            Self::Summary(summary) => summary.severity,
        }
    }
}

/// Subjects of one kind that changed to one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Group {
    /// `director`, `service`, `quorum` or `backend`.
    pub(super) kind: &'static str,
    /// The state.
    pub(super) to: String,
    /// How many subjects.
    pub(super) subjects: u64,
    /// Of how many services.
    pub(super) services: u64,
}

impl Group {
    fn describe(&self) -> String {
        let Self { kind, to, subjects, services } = self;
        let plural = |n: u64, one: &str, many: &str| {
            if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
        };
        match *kind {
            "director" => format!("director {to}"),
            "backend" => format!(
                "{} of {} {to}",
                plural(*subjects, "backend", "backends"),
                plural(*services, "service", "services")
            ),
            "quorum" => format!("{} {to}", plural(*subjects, "quorum", "quorums")),
            _ => format!("{} {to}", plural(*subjects, "service", "services")),
        }
    }
}

/// A message: the same for every channel, but for what that channel lost before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Sequence number of the message.
    pub(super) number: u64,
    /// When it was created.
    pub(super) at: SystemTime,
    /// Its content.
    pub(super) event: Event,
    /// How many earlier transitions were dropped because the queue was full.
    pub(super) missed: u64,
}

impl Message {
    /// `transition`, `flapping`, `quiet` or `summary`.
    pub(super) const fn kind(&self) -> &'static str {
        match self.event {
            Event::Transition(_) => "transition",
            Event::Flapping { .. } => "flapping",
            Event::Quiet { .. } => "quiet",
            Event::Summary(_) => "summary",
        }
    }

    /// The transition it is about, or the last of them; none in a summary.
    pub(super) const fn transition(&self) -> Option<&Transition> {
        match &self.event {
            Event::Transition(transition)
            | Event::Flapping { last: transition, .. }
            | Event::Quiet { last: transition, .. } => Some(transition),
            Event::Summary(_) => None,
        }
    }

    /// How many transitions it reports.
    pub(super) const fn transitions(&self) -> u64 {
        match &self.event {
            Event::Transition(_) => 1,
            Event::Flapping { transitions, .. } | Event::Quiet { transitions, .. } => *transitions,
            Event::Summary(summary) => summary.transitions,
        }
    }

    /// The message in one sentence.
    pub(super) fn text(&self) -> String {
        let mut text = match &self.event {
            Event::Transition(transition) => transition.describe(),
            Event::Flapping { last, transitions, within } => format!(
                "{} is flapping: {transitions} transitions within {within} s, {} now; single \
                 transitions are not reported until it is quiet",
                last.subject.describe(),
                last.to
            ),
            Event::Quiet { last, transitions } => format!(
                "{} is quiet again: {} after {transitions} more transitions",
                last.subject.describe(),
                last.to
            ),
            Event::Summary(summary) => {
                let groups: Vec<_> = summary.groups.iter().map(Group::describe).collect();
                format!("{} ({} transitions)", groups.join(", "), summary.transitions)
            }
        };
        if self.missed > 0 {
            text += &format!("; {} earlier transitions were dropped (queue full)", self.missed);
        }
        text
    }
}

/// The sender of messages.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// The director's instance.
    pub(super) instance: String,
    /// This host's name.
    pub(super) host: String,
    /// Identifies this process: its start time and PID.
    pub(super) run: String,
}

/// A message as JSON. docs/operations.md has the schema.
#[derive(Debug, Serialize)]
pub(super) struct Payload<'a> {
    version: u32,
    id: String,
    instance: &'a str,
    host: &'a str,
    event: &'static str,
    severity: Severity,
    at: u64,
    text: String,
    transitions: u64,
    lost: u64,
    #[serde(skip_serializing_if = "is_zero")]
    missed: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    one: Option<One<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [Group]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    examples: Option<Vec<One<'a>>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's interface")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// One transition as JSON.
#[derive(Debug, Serialize)]
struct One<'a> {
    kind: &'static str,
    service: &'a str,
    frontend: &'a str,
    backend: Option<IpAddr>,
    from: &'a str,
    to: &'a str,
    reason: &'a str,
}

impl<'a> One<'a> {
    fn new(Transition { subject, from, to, reason, .. }: &'a Transition) -> Self {
        Self {
            kind: subject.kind(),
            service: subject.service(),
            frontend: subject.frontend(),
            backend: subject.backend(),
            from,
            to,
            reason,
        }
    }
}

impl<'a> Payload<'a> {
    /// The payload of a message; `lost` is the number of messages that its channel lost before it.
    pub(super) fn new(origin: &'a Origin, message: &'a Message, lost: u64) -> Self {
        let summary = match &message.event {
            Event::Summary(summary) => Some(summary),
            _ => None,
        };
        Self {
            version: PAYLOAD_VERSION,
            id: format!("{}-{}", origin.run, message.number),
            instance: &origin.instance,
            host: &origin.host,
            event: message.kind(),
            severity: message.event.severity(),
            at: wall_clock::seconds(message.at),
            text: message.text(),
            transitions: message.transitions(),
            lost,
            missed: message.missed,
            one: message.transition().map(One::new),
            groups: summary.map(|summary| summary.groups.as_slice()),
            examples: summary.map(|summary| summary.examples.iter().map(One::new).collect()),
        }
    }

    /// The payload as text.
    pub(super) fn json(&self) -> String {
        // Cannot fail: strings, numbers and lists only.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A message as a hook's environment; variables that do not apply are empty.
pub(super) fn environment<'a>(
    origin: &'a Origin,
    message: &Message,
    text: &'a str,
) -> Vec<(&'static str, String)> {
    let transition = message.transition();
    let of = |part: fn(&Transition) -> String| transition.map(part).unwrap_or_default();
    let backend = |t: &Transition| t.subject.backend().map(|b| b.to_string()).unwrap_or_default();
    vec![
        ("DIRECTOR_INSTANCE", origin.instance.clone()),
        ("DIRECTOR_EVENT", message.kind().to_owned()),
        ("DIRECTOR_SEVERITY", message.event.severity().label().to_owned()),
        ("DIRECTOR_KIND", of(|t| t.subject.kind().to_owned())),
        ("DIRECTOR_SERVICE", of(|t| t.subject.service().to_owned())),
        ("DIRECTOR_FRONTEND", of(|t| t.subject.frontend().to_owned())),
        ("DIRECTOR_BACKEND", of(backend)),
        ("DIRECTOR_FROM", of(|t| t.from.clone())),
        ("DIRECTOR_TO", of(|t| t.to.clone())),
        ("DIRECTOR_REASON", of(|t| t.reason.clone())),
        ("DIRECTOR_TEXT", text.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::alarm::Subject;

    /// The JSON blocks of the documentation's section.
    fn documented() -> Vec<Value> {
        let text = include_str!("../../../docs/operations.md");
        let section = text.split("### What a webhook gets").nth(1).expect("a section");
        let section = section.split("\n### ").next().expect("its text");
        let blocks = section.split("```json").skip(1).map(|rest| rest.split("```").next().unwrap());
        blocks.map(|block| serde_json::from_str(block).expect("JSON")).collect()
    }

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    #[test]
    fn payloads_are_as_documented() {
        let documented = documented();
        let [one, summary] = documented.as_slice() else { panic!("{documented:?}") };
        let origin =
            Origin { instance: "default".into(), host: "lb1".into(), run: "69208d3a-4f1".into() };
        let subject = Subject::Backend {
            service: "web".into(),
            frontend: "tcp 192.0.2.10:443".into(),
            address: "10.0.0.11".parse().unwrap(),
        };
        let transition = Transition::now(subject, "up", "down", "connection refused");
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_772_323_200);
        let event = Event::Transition(transition.clone());
        let message = Message { number: 17, at, event, missed: 0 };
        let json = serde_json::to_value(Payload::new(&origin, &message, 0)).unwrap();
        assert_eq!(json, *one);
        let group = Group { kind: "backend", to: "down".into(), subjects: 812, services: 40 };
        let event = Event::Summary(Summary {
            groups: vec![group],
            examples: vec![transition],
            severity: Severity::Warning,
            transitions: 812,
        });
        let message = Message { event, missed: 3, ..message };
        assert_eq!(message.transitions(), 812);
        assert!(message.text().starts_with("812 backends of 40 services down (812 transitions)"));
        let json = serde_json::to_value(Payload::new(&origin, &message, 5)).unwrap();
        assert_eq!((&json["lost"], &json["missed"]), (&5.into(), &3.into()));
        for key in keys(summary) {
            assert_eq!(json[key], summary[key], "{key}");
        }
        let own = ["groups", "examples", "missed"];
        let common: Vec<_> = keys(&json).into_iter().filter(|key| !own.contains(key)).collect();
        assert!(common.iter().all(|key| keys(one).contains(key)), "{common:?}");
        assert_eq!(common.len(), 10);
    }
}
