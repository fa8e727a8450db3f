//! What stands between the file and the maps: health, load, and what was said by hand.
//!
//! [`evaluate`] takes a service as the file has it and everything known about its backends, and says
//! how the service is to be in effect. It is pure: time comes in as a number, and what has to be
//! remembered from one evaluation to the next is in a [`Memory`]. The outcome is a service again, so
//! that it enters at `plan::diff` like any other change.

mod evaluate;
mod overrides;

use std::{collections::HashMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::{
    evaluate::evaluate,
    overrides::{Drain, Override, Overrides, write_whole},
};
use crate::policy::config::model::Service;

/// What is known about one backend of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The outcome of its checks; `None` if it has none.
    pub checked: Option<Checked>,
    /// What its agent says, if it has one that was heard.
    pub load: Option<Load>,
    /// What was said by hand.
    pub admin_override: Override,
}

/// The outcome of a backend's checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Whether all say that it is up.
    pub up: bool,
    /// Why not.
    pub reason: String,
}

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Percent of the weight.
    pub share: u8,
    /// Takes no new flows.
    pub drains: bool,
    /// Is not to be used, and why.
    pub down: Option<String>,
}

/// What a service's evaluation depends on beside the facts of the moment.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Whether the quorum was lost.
    pub lost_quorum: bool,
    /// Whether too many were down at once.
    pub panics: bool,
    /// Backends by address.
    pub backends: HashMap<IpAddr, BackendMemory>,
}

/// What is remembered of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendMemory {
    /// Whether it was up.
    pub up: bool,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// When it came up after having been down, CLOCK_MONOTONIC nanoseconds; `None` if it was up from
    /// the start, or its slow start is over.
    pub rose_ns: Option<u64>,
}

/// Two clocks, as of one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// CLOCK_MONOTONIC, nanoseconds: what decides.
    pub ns: u64,
    /// Seconds since 1970: what is shown.
    pub unix: u64,
}

/// How a service is to be.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// As the maps are to have it: weights in effect, and who is down.
    pub service: Service,
    /// What is to be told about it.
    pub state: ServiceState,
    /// Its backends, in the order of the file; `sorry` is not among them.
    pub backends: Vec<BackendEvaluation>,
    /// What is other than it was: for alarms.
    pub changes: Vec<Change>,
    /// When it is to be evaluated again though nothing happens, CLOCK_MONOTONIC nanoseconds.
    pub again_ns: Option<u64>,
}

/// What its backends' health makes of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Every backend is up.
    Up,
    /// Some backends are down, and the quorum is held.
    Degraded,
    /// The quorum is lost: `when_empty` decides about new flows.
    Down,
    /// So many backends are down at once that the checks are more likely wrong: all are kept.
    Panic,
    /// The quorum is lost, and the sorry backend gets the new flows.
    Sorry,
    /// No backend is checked.
    Unchecked,
}

impl ServiceState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Up, Self::Degraded, Self::Down, Self::Panic, Self::Sorry, Self::Unchecked];

    /// As it is printed, and as JSON has it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Panic => "panic",
            Self::Sorry => "sorry",
            Self::Unchecked => "unchecked",
        }
    }
}

/// How a backend stands.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendEvaluation {
    /// Its address.
    pub address: IpAddr,
    /// What the file gives it.
    pub configured_weight: u16,
    /// What that became by hand and by load, before health: in the file's measure.
    pub weight: f64,
    /// Whether its checks and its agent say that it is up; `None` if nobody says anything.
    pub up: Option<bool>,
    /// Why it is not.
    pub reason: String,
    /// Since when it is as it is, seconds since 1970; 0 if that is not known.
    pub since: u64,
    /// What was said by hand.
    pub admin_override: Override,
    /// Whether its drain's deadline has passed.
    pub is_over: bool,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The service as a whole is in another state.
    Service {
        /// The state before.
        from: ServiceState,
        /// The state now.
        to: ServiceState,
    },
    /// A backend came up or went down.
    Backend {
        /// Which.
        address: IpAddr,
        /// Whether it is up now.
        up: bool,
        /// Why not.
        reason: String,
    },
    /// The quorum was lost or regained.
    Quorum {
        /// Whether it is there now.
        is_there: bool,
        /// The sum of the weights of those that are up.
        weight: u32,
    },
    /// So many are down that all are kept, or no longer.
    Panic {
        /// Whether it is so now.
        panics: bool,
        /// How many are down.
        down: usize,
        /// Of how many.
        of: usize,
    },
}
