//! Admin overrides of backends: drains and weights.

use serde::{Deserialize, Serialize};

/// The admin override of one backend of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// It takes no new flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Its weight, whatever the file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// When it was set, seconds since 1970.
    #[serde(default)]
    pub since: u64,
}

impl Override {
    /// Whether nothing is overridden.
    pub fn is_empty(&self) -> bool {
        self.drain.is_none() && self.weight.is_none()
    }
}

/// A drain by an administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When it began, seconds since 1970.
    pub since: u64,
    /// When the remaining flows are rescheduled: CLOCK_MONOTONIC, nanoseconds, of the boot in which
    /// it was set. After another boot no flows remain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ns: Option<u64>,
}
