//! A state change of a backend, service, quorum or the director.

use std::{net::IpAddr, time::SystemTime};

use serde::Serialize;

/// States of severity `info`: those that work or that an operator requested. All others are
/// warnings.
const INFO_STATES: [&str; 13] = [
    "up",
    "unchecked",
    "starting",
    "draining",
    "removed",
    "held",
    "quiet",
    "running",
    "stopped",
    "in effect",
    "applied",
    "repaired",
    "ready",
];
/// Longest state and reason, characters: a reason may quote a backend's answer.
const MAX_TEXT: usize = 300;

/// What changed its state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The director itself: its configuration, its host, its maps.
    Director,
    /// A service: `up`, `degraded`, `down`, `panic`, `sorry`.
    Service {
        /// Its name.
        name: String,
        /// Protocol, address and port.
        frontend: String,
    },
    /// A service's quorum: `held`, `lost`.
    Quorum {
        /// The service's name.
        name: String,
        /// The service's protocol, address and port.
        frontend: String,
    },
    /// A backend of one service.
    Backend {
        /// The service's name.
        service: String,
        /// The service's protocol, address and port.
        frontend: String,
        /// The backend.
        address: IpAddr,
    },
}

impl Subject {
    /// `director`, `service`, `quorum` or `backend`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Director => "director",
            Self::Service { .. } => "service",
            Self::Quorum { .. } => "quorum",
            Self::Backend { .. } => "backend",
        }
    }

    /// The name of the service, or of the subject's service; empty for the director.
    pub fn service(&self) -> &str {
        match self {
            Self::Director => "",
            Self::Service { name, .. } | Self::Quorum { name, .. } => name,
            Self::Backend { service, .. } => service,
        }
    }

    /// That service's protocol, address and port; empty for the director.
    pub fn frontend(&self) -> &str {
        match self {
            Self::Director => "",
            Self::Service { frontend, .. }
            | Self::Quorum { frontend, .. }
            | Self::Backend { frontend, .. } => frontend,
        }
    }

    /// The backend's address.
    pub const fn backend(&self) -> Option<IpAddr> {
        match self {
            Self::Backend { address, .. } => Some(*address),
            _ => None,
        }
    }

    /// The start of a sentence: `backend 10.0.0.11 of web`.
    pub fn describe(&self) -> String {
        match self {
            Self::Director => "director".to_owned(),
            Self::Service { name, .. } => format!("service {name}"),
            Self::Quorum { name, frontend } => format!("service {name} ({frontend}): quorum"),
            Self::Backend { service, address, .. } => format!("backend {address} of {service}"),
        }
    }

    /// The order of importance in a summary: lower is first.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Director => 0,
            Self::Quorum { .. } => 1,
            Self::Service { .. } => 2,
            Self::Backend { .. } => 3,
        }
    }
}

/// A state change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// When it happened, by the wall clock: for display only.
    pub at: SystemTime,
    /// What changed its state.
    pub subject: Subject,
    /// The former state.
    pub from: String,
    /// The new state.
    pub to: String,
    /// Why, for display; may be empty.
    pub reason: String,
}

impl Transition {
    /// A transition that happens now. Texts are cut to a bounded length, and control characters
    /// become spaces: they may quote a server's answer.
    pub fn now(subject: Subject, from: &str, to: &str, reason: &str) -> Self {
        let (from, to, reason) = (plain(from), plain(to), plain(reason));
        Self { at: SystemTime::now(), subject, from, to, reason }
    }

    /// The transition with bounded texts without control characters.
    pub(super) fn cleaned(mut self) -> Self {
        for text in [&mut self.from, &mut self.to, &mut self.reason] {
            if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                *text = plain(text);
            }
        }
        self
    }

    /// How urgent the new state is.
    pub fn severity(&self) -> Severity {
        if INFO_STATES.contains(&self.to.as_str()) { Severity::Info } else { Severity::Warning }
    }

    /// One sentence: `backend 10.0.0.11 of web: up -> down (connection refused)`, or
    /// `service dns (udp 192.0.2.1:53): quorum lost (weight up: 0, needed: 1)`.
    pub fn describe(&self) -> String {
        let change = self.describe_change();
        match self.reason.as_str() {
            "" => change,
            reason => format!("{change} ({reason})"),
        }
    }

    /// The sentence without the reason.
    pub(super) fn describe_change(&self) -> String {
        let Self { subject, from, to, .. } = self;
        let described = subject.describe();
        match subject {
            Subject::Quorum { .. } => format!("{described} {to}"),
            _ => format!("{described}: {from} -> {to}"),
        }
    }
}

/// How urgent something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, or an operator requested it.
    Info,
    /// An operator should investigate.
    Warning,
}

impl Severity {
    /// `info` or `warning`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
        }
    }
}

fn plain(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_TEXT).map(clean).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::view::status::{BackendHealth, ServiceState};

    fn backend() -> Subject {
        Subject::Backend {
            service: "web".into(),
            frontend: "tcp 192.0.2.10:80".into(),
            address: IpAddr::from([10, 0, 0, 11]),
        }
    }

    #[test]
    fn a_transition_is_one_plain_sentence() {
        let transition =
            Transition::now(backend(), "up", "down", "said \"\u{1b}[31mno\r\nBcc: x\0\"");
        assert_eq!(
            transition.describe(),
            "backend 10.0.0.11 of web: up -> down (said \" [31mno  Bcc: x \")"
        );
        let long = Transition { reason: "x\n".repeat(5000), ..transition.clone() }.cleaned();
        assert!(long.reason.len() <= MAX_TEXT && !long.reason.contains('\n'), "{}", long.reason);
        assert_eq!(transition.clone().cleaned(), transition);
        let quorum = Subject::Quorum { name: "dns".into(), frontend: "udp 192.0.2.1:53".into() };
        let transition = Transition::now(quorum, "held", "lost", "weight up: 0, needed: 1");
        assert_eq!(
            transition.describe(),
            "service dns (udp 192.0.2.1:53): quorum lost (weight up: 0, needed: 1)"
        );
    }

    #[test]
    fn failures_are_warnings_and_requested_states_are_not() {
        let to = |to: &str| Transition::now(backend(), "up", to, "").severity();
        for state in BackendHealth::ALL {
            let is_bad = state == BackendHealth::Down;
            assert_eq!(to(state.label()) == Severity::Warning, is_bad, "{state:?}");
        }
        for state in ServiceState::ALL {
            let is_good = matches!(state, ServiceState::Up | ServiceState::Unchecked);
            assert_eq!(to(state.label()) == Severity::Info, is_good, "{state:?}");
        }
        assert_eq!(to("something new"), Severity::Warning);
    }
}
