//! What is told: somebody's state has changed.

use std::{net::IpAddr, time::SystemTime};

use serde::Serialize;

/// States that call nobody: what works, and what an operator asked for. All others are warnings.
const CALM: [&str; 13] = [
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
/// Longest state and reason, characters: a reason may quote what a backend answered.
const LONGEST: usize = 300;

/// Whose state it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The director itself: its file, its host, its maps.
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

    /// The name of the service that it is or belongs to; empty for the director.
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

    /// As sentences begin: `backend 10.0.0.11 of web`.
    pub fn describe(&self) -> String {
        match self {
            Self::Director => "director".to_owned(),
            Self::Service { name, .. } => format!("service {name}"),
            Self::Quorum { name, .. } => format!("quorum of {name}"),
            Self::Backend { service, address, .. } => format!("backend {address} of {service}"),
        }
    }

    /// Which of two is told first where there is no room for both: lower is first.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Director => 0,
            Self::Quorum { .. } => 1,
            Self::Service { .. } => 2,
            Self::Backend { .. } => 3,
        }
    }
}

/// A change of somebody's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// When it happened, by the wall clock: for people only.
    pub at: SystemTime,
    /// Whose state it is.
    pub subject: Subject,
    /// What the state was.
    pub from: String,
    /// What it is now.
    pub to: String,
    /// Why, for people; may be empty.
    pub reason: String,
}

impl Transition {
    /// One that happens now. Texts are cut to a bounded length, and control characters become
    /// spaces: they may quote what some server sent.
    pub fn now(subject: Subject, from: &str, to: &str, reason: &str) -> Self {
        let (from, to, reason) = (plain(from), plain(to), plain(reason));
        Self { at: SystemTime::now(), subject, from, to, reason }
    }

    /// The same with bounded texts without control characters.
    pub(super) fn cleaned(mut self) -> Self {
        for text in [&mut self.from, &mut self.to, &mut self.reason] {
            if text.len() > LONGEST || text.chars().any(char::is_control) {
                *text = plain(text);
            }
        }
        self
    }

    /// How urgent the new state is.
    pub fn severity(&self) -> Severity {
        if CALM.contains(&self.to.as_str()) { Severity::Info } else { Severity::Warning }
    }

    /// The whole of it in one sentence: `backend 10.0.0.11 of web: up -> down (connection refused)`.
    pub fn describe(&self) -> String {
        let Self { subject, from, to, reason, .. } = self;
        let subject = subject.describe();
        match reason.as_str() {
            "" => format!("{subject}: {from} -> {to}"),
            reason => format!("{subject}: {from} -> {to} ({reason})"),
        }
    }
}

/// How urgent something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, or somebody wanted it so.
    Info,
    /// Somebody should look.
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
    text.chars().take(LONGEST).map(clean).collect::<String>().trim().to_owned()
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
        let told = Transition::now(backend(), "up", "down", "said \"\u{1b}[31mno\r\nBcc: x\0\"");
        assert_eq!(
            told.describe(),
            "backend 10.0.0.11 of web: up -> down (said \" [31mno  Bcc: x \")"
        );
        let long = Transition { reason: "x\n".repeat(5000), ..told.clone() }.cleaned();
        assert!(long.reason.len() <= LONGEST && !long.reason.contains('\n'), "{}", long.reason);
        assert_eq!(told.clone().cleaned(), told);
    }

    #[test]
    fn what_nobody_wanted_is_a_warning() {
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
