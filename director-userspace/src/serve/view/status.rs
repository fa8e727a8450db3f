//! What only the daemon knows: how the backends are, and what follows from it.
//!
//! The daemon fills these in; commands, metrics and the status page show them. The maps alone say
//! where packets go, not why. A `since` of 0 is not known.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::policy::health_policy::ServiceState;

/// The condition of a running daemon and of everything that it looks after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Which director of this host it is.
    pub instance: String,
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// When it started: seconds since 1970.
    pub started: u64,
    /// The configuration file.
    pub config_path: String,
    /// Number of the configuration that is in effect; grows with every one that is applied.
    pub revision: u64,
    /// When that was applied: seconds since 1970.
    pub applied: u64,
    /// Why the file as it is now is not what is in effect; null if it is.
    pub refused: Option<String>,
    /// What is odd about the configuration on this host.
    pub warnings: Vec<String>,
    /// Its services, in the order of the file.
    pub services: Vec<ServiceStatus>,
}

impl Status {
    /// The condition of the service that answers on `frontend`.
    pub fn service(&self, frontend: &str) -> Option<&ServiceStatus> {
        self.services.iter().find(|service| service.frontend == frontend)
    }
}

/// The condition of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Protocol, address and port, as [`Frontend`](crate::policy::config::model::Frontend) displays them.
    pub frontend: String,
    /// What its backends' health makes of it.
    pub state: ServiceState,
    /// Since when: seconds since 1970.
    pub since: u64,
    /// How much of it must be up.
    pub quorum: Quorum,
    /// Who gets new flows while no other backend can, if one is configured.
    #[schema(value_type = Option<String>)]
    pub sorry: Option<IpAddr>,
    /// Its backends, in the order of the file; the sorry backend is not among them.
    pub backends: Vec<BackendStatus>,
}

impl ServiceStatus {
    /// The condition of the backend with this address.
    pub fn backend(&self, address: IpAddr) -> Option<&BackendStatus> {
        self.backends.iter().find(|backend| backend.address == address)
    }
}

/// How much of a service must be up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quorum {
    /// Least sum of the configured weights of backends that are up.
    pub needed: u32,
    /// What that sum is.
    pub up: u32,
    /// Whether there is enough, hysteresis considered.
    pub held: bool,
}

/// The condition of one backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendStatus {
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The weight that the file gives it.
    pub configured_weight: u16,
    /// The weight in effect: health, agent, slow start and overrides considered.
    pub weight: u16,
    /// How it is.
    pub state: BackendHealth,
    /// Since when: seconds since 1970.
    pub since: u64,
    /// Why, for people; may be empty.
    pub reason: String,
    /// What was set by hand.
    #[serde(rename = "override")]
    pub override_: Option<Override>,
    /// What its agent said last, such as `75%`.
    pub agent: Option<String>,
    /// Its checks, in the order of the file.
    pub checks: Vec<CheckStatus>,
}

impl BackendStatus {
    /// Whether its checks say that it works, or nobody checks it; whoever drains it.
    pub fn works(&self) -> bool {
        match self.state {
            BackendHealth::Up | BackendHealth::Unchecked => true,
            BackendHealth::Down => false,
            BackendHealth::Starting => self.weight > 0,
            BackendHealth::Draining | BackendHealth::Removed => {
                self.checks.iter().all(|check| check.up != Some(false))
            }
        }
    }
}

/// How a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendHealth {
    /// Its checks say that it works.
    Up,
    /// A check says that it does not.
    Down,
    /// It has not been checked often enough to tell, and is taken for what `start` says.
    Starting,
    /// Nobody checks it.
    Unchecked,
    /// Drained by hand: no new flows, known ones stay.
    Draining,
    /// No longer in the file; its known flows are served until the drain timeout.
    Removed,
}

/// What was set by hand, and holds until it is taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Override {
    /// `director drain`.
    pub drain: Option<Drain>,
    /// `director weight`.
    pub weight: Option<WeightOverride>,
}

/// A drain that somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// When it began: seconds since 1970.
    pub since: u64,
    /// When the flows that are left then are rescheduled: seconds since 1970; null: never.
    pub deadline: Option<u64>,
}

/// A weight that somebody set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WeightOverride {
    /// The weight.
    pub weight: u16,
    /// When it was set: seconds since 1970.
    pub since: u64,
}

/// What one check of a backend says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckStatus {
    /// `tcp`, `http`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// `direct` or `path`.
    pub via: String,
    /// What `rise` and `fall` make of the answers; null before that is known.
    pub up: Option<bool>,
    /// The last answer, for people; empty before the first.
    pub reason: String,
    /// How long the last right answer took, milliseconds.
    pub latency_ms: Option<f64>,
    /// Since when `up` is what it is: seconds since 1970.
    pub since: u64,
}

impl BackendHealth {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Up, Self::Down, Self::Starting, Self::Unchecked, Self::Draining, Self::Removed];

    /// As it is printed, and as JSON has it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Starting => "starting",
            Self::Unchecked => "unchecked",
            Self::Draining => "draining",
            Self::Removed => "removed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_json_has() {
        for state in ServiceState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.label());
        }
        for state in BackendHealth::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.label());
        }
    }

    #[test]
    fn json_has_the_words_that_rust_reserves() {
        let backend = BackendStatus {
            address: "2001:db8::1".parse().unwrap(),
            configured_weight: 10,
            weight: 0,
            state: BackendHealth::Draining,
            since: 1_700_000_000,
            reason: "drained by hand".into(),
            override_: Some(Override {
                drain: Some(Drain { since: 1_700_000_000, deadline: None }),
                weight: None,
            }),
            agent: None,
            checks: vec![CheckStatus {
                kind: "tcp".into(),
                via: "direct".into(),
                up: Some(true),
                reason: "connected".into(),
                latency_ms: Some(0.4),
                since: 1_699_999_000,
            }],
        };
        let json = serde_json::to_value(&backend).unwrap();
        assert_eq!(json["override"]["drain"]["since"], 1_700_000_000);
        assert_eq!(json["checks"][0]["type"], "tcp");
        assert_eq!(json["address"], "2001:db8::1");
        assert_eq!(serde_json::from_value::<BackendStatus>(json).unwrap(), backend);
    }
}
