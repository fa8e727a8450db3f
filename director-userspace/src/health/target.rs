//! What is asked, and what is known of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::policy::config::model::{Agent, HealthCheck};

/// What is probed. Equal targets are one probe, whoever wants them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// How.
    pub check: Arc<HealthCheck>,
    /// Where the probe's packets are sent to.
    pub address: IpAddr,
    /// The check's port, or the service's. Only `icmp` and `exec` do without.
    pub port: Option<u16>,
    /// The firewall mark (SO_MARK) of the probe's packets, by which a program on their way out knows
    /// which backend they are for; needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

impl fmt::Display for Target {
    /// `tcp 10.0.0.11:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.check.probe.as_str(), Place(self.address, self.port))
    }
}

/// An agent that is asked for a backend's load.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentTarget {
    /// How.
    pub agent: Arc<Agent>,
    /// Where it runs.
    pub address: IpAddr,
    /// The agent's port, or the service's. Only programs of this host do without.
    pub port: Option<u16>,
}

impl fmt::Display for AgentTarget {
    /// `agent 10.0.0.11:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {}", Place(self.address, self.port))
    }
}

/// An address, and maybe a port.
struct Place(IpAddr, Option<u16>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(port) => SocketAddr::new(self.0, port).fmt(f),
            None => self.0.fmt(f),
        }
    }
}

/// What is known of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it is up: by its checks' `rise` and `fall`, or what it was taken for at first.
    pub up: bool,
    /// Why the last probe was no success; empty if it was one, or there was none yet. One line.
    pub reason: String,
    /// When `up` last changed, or the target was set; the wall clock's time.
    pub since: SystemTime,
    /// How long the last good answer took. None if none came yet, or if silence is the good answer.
    pub latency: Option<Duration>,
    /// When the last probe ended; the wall clock's time.
    pub last_probe: Option<SystemTime>,
    /// The last result; none before the first.
    pub good: Option<bool>,
    /// How many results in a row were like it.
    pub streak: u32,
    /// Probes that had a result.
    pub probes: u64,
    /// Those that failed.
    pub failures: u64,
    /// Probes without a result, since this host could not carry them out: out of descriptors, a
    /// program that is not there. They count for nothing, and `reason` says why.
    pub not_made: u64,
    /// How often `up` changed.
    pub changes: u64,
}

/// What an agent says of a backend, beside its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentMode {
    /// Nothing, or `up` and `ready`.
    Up,
    /// `drain`: no new flows, until it says `ready`.
    Drain,
    /// `down`, until it says `up`.
    Down,
    /// `stopped`: down on purpose, until it says `up`.
    Stopped,
    /// `fail`: down by failure, until it says `up`.
    Fail,
    /// `maint`: as down, until it says `ready`.
    Maint,
}

impl AgentMode {
    /// The agent's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drain => "drain",
            Self::Down => "down",
            Self::Stopped => "stopped",
            Self::Fail => "fail",
            Self::Maint => "maint",
        }
    }
}

impl fmt::Display for AgentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is known of an agent. One that fell silent keeps what it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentReport {
    /// The share of its weight that the backend is to have, percent: smoothed, and not below `min`.
    /// None until it names one.
    pub share: Option<u8>,
    /// The share it last named itself, percent.
    pub said: Option<u8>,
    /// What else it says.
    pub mode: AgentMode,
    /// Its last words, one line.
    pub text: String,
    /// Why it could not be asked the last time, one line.
    pub failed: Option<String>,
    /// When it last answered; the wall clock's time.
    pub last_answer: Option<SystemTime>,
}

/// Something changed. What comes with it is the newest at the time it is read, so that a reader who
/// is late sees one event for several changes of a target, and never an old state.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A target went up or down, or had its first result.
    Check {
        /// The target.
        target: Arc<Target>,
        /// What is known of it.
        health: Health,
    },
    /// An agent's share, mode or failure changed, or it was asked for the first time.
    Agent {
        /// The agent.
        target: Arc<AgentTarget>,
        /// What is known of it.
        report: AgentReport,
    },
}
