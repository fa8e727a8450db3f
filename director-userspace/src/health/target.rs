//! Targets of probes, and their health.

use std::{
    fmt,
    hash::{Hash, Hasher},
    mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::policy::{
    config::model::{Agent, HealthCheck},
    health_policy::HealthState,
};

/// What is probed. Equal targets share one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub check: Arc<HealthCheck>,
    /// The destination of the probe's packets.
    pub address: IpAddr,
    /// The check's port, or the service's. Only `icmp` and `exec` need none.
    pub port: Option<u16>,
    /// The firewall mark (SO_MARK) of the probe's packets, by which the egress program identifies
    /// the backend; needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

impl Hash for Target {
    /// Without most of the check: targets of one address rarely differ in nothing else, and hundreds
    /// of thousands are looked up.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.address, self.port, self.mark, self.check.interval).hash(state);
        mem::discriminant(&self.check.probe).hash(state);
    }
}

impl Hash for AgentTarget {
    /// Likewise.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.address, self.port, self.agent.interval).hash(state);
    }
}

impl fmt::Display for Target {
    /// `tcp 10.0.0.11:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.check.probe.as_str(), Endpoint(self.address, self.port))
    }
}

/// An agent that reports a backend's load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentTarget {
    /// How.
    pub agent: Arc<Agent>,
    /// The host that it runs on.
    pub address: IpAddr,
    /// The agent's port, or the service's. Only programs of this host need none.
    pub port: Option<u16>,
}

impl fmt::Display for AgentTarget {
    /// `agent 10.0.0.11:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {}", Endpoint(self.address, self.port))
    }
}

/// An address, and maybe a port.
struct Endpoint(IpAddr, Option<u16>);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(port) => SocketAddr::new(self.0, port).fmt(f),
            None => self.0.fmt(f),
        }
    }
}

/// The health of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its state: by its check's `rise` and `fall`, or its initial state.
    pub state: HealthState,
    /// Why the last probe failed; empty if it succeeded, or there was none yet. One line.
    pub reason: String,
    /// When `state` last changed, or the target was set; wall clock.
    pub since: SystemTime,
    /// How long the last good answer took. None before the first, or if no answer is expected.
    pub latency: Option<Duration>,
    /// When the last probe ended; wall clock.
    pub last_probe: Option<SystemTime>,
    /// The last result; none before the first.
    pub good: Option<bool>,
    /// How many results in a row were equal to it.
    pub streak: u32,
    /// Probes that had a result.
    pub probes: u64,
    /// Probes that failed.
    pub failures: u64,
    /// Probes without a result because this host could not run them: out of descriptors, or a
    /// missing program. They do not count as results; `reason` has the cause.
    pub not_made: u64,
    /// How often `state` changed.
    pub changes: u64,
}

/// The mode of a backend that its agent reports, beside its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentMode {
    /// Nothing, or `up` and `ready`.
    Up,
    /// `drain`: no new flows, until it reports `ready`.
    Drain,
    /// `down`, until it reports `up`.
    Down,
    /// `stopped`: down on purpose, until it reports `up`.
    Stopped,
    /// `fail`: down by failure, until it reports `up`.
    Fail,
    /// `maint`: as down, until it reports `ready`.
    Maint,
}

impl AgentMode {
    /// The word in the agent's protocol.
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

/// The state of an agent. An agent that does not answer keeps its last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentReport {
    /// The share of its weight that the backend gets, percent: smoothed, and not below `min`. None
    /// until the agent reports one.
    pub share: Option<u8>,
    /// The last share that the agent reported, unsmoothed, percent.
    pub reported: Option<u8>,
    /// The reported mode.
    pub mode: AgentMode,
    /// Its last answer, one line.
    pub text: String,
    /// Why the last query failed, one line.
    pub failed: Option<String>,
    /// When it last answered; wall clock.
    pub last_answer: Option<SystemTime>,
}

/// A state change. Its state is read when the event is received, so that a slow reader gets one
/// event for several changes of a target, and never an old state.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A target changed between up and down, or had its first result.
    Check {
        /// The target.
        target: Arc<Target>,
        /// Its health.
        health: Health,
    },
    /// An agent's share, mode or failure changed, or its first query ended.
    Agent {
        /// The agent.
        target: Arc<AgentTarget>,
        /// Its state.
        report: AgentReport,
    },
}
