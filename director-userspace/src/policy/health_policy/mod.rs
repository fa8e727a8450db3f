//! What stands between the file and the maps: health, load, and admin overrides.
//!
//! [`evaluate`] takes a service of the file and the facts about its backends, and returns the
//! service in effect. It is pure: time is an argument, and the state that is kept from one
//! evaluation to the next is in a [`Memory`]. The result is a service again, so that it enters
//! `plan::diff` like any other change.

mod evaluate;
mod overrides;

use std::{collections::HashMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::{
    evaluate::evaluate,
    overrides::{Drain, Override},
};
use crate::policy::config::model::{Service, Start};

/// The state of a backend, of its checks or of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HealthState {
    /// It works.
    Up,
    /// It must not be used.
    Down,
}

impl HealthState {
    /// As it is printed.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl From<Start> for HealthState {
    /// The state before the first probe.
    fn from(start: Start) -> Self {
        match start {
            Start::Up => Self::Up,
            Start::Down => Self::Down,
        }
    }
}

/// The state of a service's quorum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum QuorumState {
    /// The backends that are up have enough weight.
    #[default]
    Held,
    /// Their weight is too small: none of them gets new flows.
    Lost,
}

impl QuorumState {
    /// As it is printed.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Lost => "lost",
        }
    }
}

/// The facts about one backend of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The outcome of its checks; `None` if it has none.
    pub checked: Option<Checked>,
    /// What its agent reports, if it has one that has reported.
    pub load: Option<Load>,
    /// What an administrator set.
    pub admin_override: Override,
}

/// The outcome of a backend's checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Up if all of them pass.
    pub state: HealthState,
    /// Why it is down.
    pub reason: String,
}

/// What an agent reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Percent of the weight.
    pub share: u8,
    /// Takes no new flows.
    pub drains: bool,
    /// Must not be used, and why.
    pub down: Option<String>,
}

/// What a service's evaluation depends on besides the current facts.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The state of the quorum.
    pub quorum: QuorumState,
    /// Whether too many were down at once.
    pub panics: bool,
    /// Backends by address.
    pub backends: HashMap<IpAddr, BackendMemory>,
}

/// The state that is kept of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendMemory {
    /// Its state; up if neither its checks nor its agent report anything.
    pub state: HealthState,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// When it came up after having been down, CLOCK_MONOTONIC nanoseconds; `None` if it was up
    /// from the start, or its slow start is over.
    pub rose_ns: Option<u64>,
}

/// Two clocks at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// CLOCK_MONOTONIC, nanoseconds: for decisions.
    pub ns: u64,
    /// Seconds since 1970: for display.
    pub unix: u64,
}

/// The result of an evaluation.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The service in effect: with the weights in effect, and which backends are down.
    pub service: Service,
    /// Its state, for reports.
    pub state: ServiceState,
    /// Its backends, in the order of the file; `sorry` is not among them.
    pub backends: Vec<BackendEvaluation>,
    /// What changed, for alarms.
    pub changes: Vec<Change>,
    /// When to evaluate it again even if nothing changes, CLOCK_MONOTONIC nanoseconds.
    pub again_ns: Option<u64>,
}

/// A service's state, by its backends' health.
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

    /// As it is printed, and as it is in JSON.
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

/// The evaluation of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendEvaluation {
    /// Its address.
    pub address: IpAddr,
    /// Its weight in the file.
    pub configured_weight: u16,
    /// That weight after the admin override and load, before health, on the file's scale.
    pub weight: f64,
    /// Its state by its checks and its agent; `None` if neither reports anything.
    pub state: Option<HealthState>,
    /// Why it is down.
    pub reason: String,
    /// Since when it has this state, seconds since 1970; 0 if unknown.
    pub since: u64,
    /// What an administrator set.
    pub admin_override: Override,
    /// Whether its drain's deadline has passed.
    pub is_over: bool,
}

impl BackendEvaluation {
    /// Whether its checks or its agent report it down.
    pub const fn is_down(&self) -> bool {
        match self.state {
            Some(HealthState::Down) => true,
            Some(HealthState::Up) | None => false,
        }
    }
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
        /// The state now.
        state: HealthState,
        /// Why it is down.
        reason: String,
    },
    /// The quorum was lost or regained.
    Quorum {
        /// The state now.
        quorum: QuorumState,
        /// The sum of the weights of those that are up.
        weight: u32,
        /// The configured quorum.
        needed: u32,
    },
    /// So many are down that all are kept, or no longer so many.
    Panic {
        /// Whether all are kept now.
        panics: bool,
        /// How many are down.
        down: usize,
        /// Of how many.
        of: usize,
    },
}
