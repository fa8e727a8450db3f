//! The daemon's status: the health of backends and services.
//!
//! The daemon fills these in; commands, metrics and the status page show them. The maps alone have
//! where packets go, not why. A `since` of 0 is unknown.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::policy::health_policy::ServiceState;

/// The status of a running daemon and of everything that it manages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The instance of this host.
    pub instance: String,
    /// The daemon's process ID.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// When it started: seconds since 1970.
    pub started: u64,
    /// The configuration file.
    pub config_path: String,
    /// Revision of the configuration in effect; grows with every one that is applied.
    pub revision: u64,
    /// When it was applied: seconds since 1970.
    pub applied: u64,
    /// Why the current file is not in effect; null if it is.
    pub refused: Option<String>,
    /// Warnings about the configuration on this host.
    pub warnings: Vec<String>,
    /// Its services, in the order of the file.
    pub services: Vec<ServiceStatus>,
}

impl Status {
    /// The status of the service with this `frontend`.
    pub fn service(&self, frontend: &str) -> Option<&ServiceStatus> {
        self.services.iter().find(|service| service.frontend == frontend)
    }
}

/// The status of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Protocol, address and port, as [`Frontend`](crate::policy::config::model::Frontend) displays
    /// them.
    pub frontend: String,
    /// Its state, by its backends' health.
    pub state: ServiceState,
    /// Since when: seconds since 1970.
    pub since: u64,
    /// The weight that must be up.
    pub quorum: Quorum,
    /// The backend that gets new flows while no other can, if one is configured.
    #[schema(value_type = Option<String>)]
    pub sorry: Option<IpAddr>,
    /// Its backends, in the order of the file; the sorry backend is not among them.
    pub backends: Vec<BackendStatus>,
}

impl ServiceStatus {
    /// The status of the backend with this address.
    pub fn backend(&self, address: IpAddr) -> Option<&BackendStatus> {
        self.backends.iter().find(|backend| backend.address == address)
    }
}

/// The weight of a service that must be up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quorum {
    /// Least sum of the configured weights of backends that are up.
    pub needed: u32,
    /// The current sum.
    pub up: u32,
    /// Whether that is enough, hysteresis considered.
    pub held: bool,
}

/// The status of one backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendStatus {
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The weight in the file.
    pub configured_weight: u16,
    /// The weight in effect: health, agent, slow start and overrides considered.
    pub weight: u16,
    /// Its health.
    pub state: BackendHealth,
    /// Since when: seconds since 1970.
    pub since: u64,
    /// The reason, for people; may be empty.
    pub reason: String,
    /// Its admin override.
    #[serde(rename = "override")]
    pub override_: Option<Override>,
    /// The last report of its agent, such as `75%`.
    pub agent: Option<String>,
    /// Its checks, in the order of the file.
    pub checks: Vec<CheckStatus>,
}

impl BackendStatus {
    /// Whether its checks pass, or it has none; also while it drains.
    pub fn passes_checks(&self) -> bool {
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

/// The health of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendHealth {
    /// Its checks pass.
    Up,
    /// A check fails.
    Down,
    /// It has not been checked often enough; `start` determines how it is treated.
    Starting,
    /// It has no checks.
    Unchecked,
    /// Drained by an administrator: no new flows, known ones stay.
    Draining,
    /// No longer in the file; its known flows are served until the drain timeout.
    Removed,
}

/// An admin override, in effect until it is cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Override {
    /// `director drain`.
    pub drain: Option<Drain>,
    /// `director weight`.
    pub weight: Option<WeightOverride>,
}

/// A drain by an administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// When it began: seconds since 1970.
    pub since: u64,
    /// When remaining flows are rescheduled: seconds since 1970; null: never.
    pub deadline: Option<u64>,
}

/// A weight set by an administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WeightOverride {
    /// The weight.
    pub weight: u16,
    /// When it was set: seconds since 1970.
    pub since: u64,
}

/// The status of one check of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckStatus {
    /// `tcp`, `http`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// `direct` or `path`.
    pub via: String,
    /// The state, after `rise` and `fall`; null while it is unknown.
    pub up: Option<bool>,
    /// The last result, for people; empty before the first.
    pub reason: String,
    /// Duration of the last success, milliseconds.
    pub latency_ms: Option<f64>,
    /// Since when `up` has its value: seconds since 1970.
    pub since: u64,
}

impl BackendHealth {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Up, Self::Down, Self::Starting, Self::Unchecked, Self::Draining, Self::Removed];

    /// As it is printed, and as it is in JSON.
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
    fn labels_are_the_words_of_json() {
        for state in ServiceState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.label());
        }
        for state in BackendHealth::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.label());
        }
    }

    #[test]
    fn json_keys_may_be_reserved_words_of_rust() {
        let backend = BackendStatus {
            address: "2001:db8::1".parse().unwrap(),
            configured_weight: 10,
            weight: 0,
            state: BackendHealth::Draining,
            since: 1_700_000_000,
            reason: "drained by an administrator".into(),
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
