//! What the API takes and gives.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// What putting a configuration into effect would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Planned {
    /// Whether there is anything to do.
    pub changes: bool,
    /// The steps in order, as people read them: `+` comes, `-` goes, `~` changes.
    pub steps: Vec<String>,
    /// What is odd about the configuration.
    pub warnings: Vec<String>,
    /// Number of the configuration that it was compared with.
    pub revision: u64,
}

/// How a configuration is to be applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ApplyOptions {
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Also if no service is left.
    #[serde(default)]
    pub force: bool,
    /// Only if this is still the number of the configuration in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<u64>,
}

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Number of the configuration that is in effect now.
    pub revision: u64,
    /// The steps taken, or to be taken.
    pub steps: Vec<String>,
    /// What is odd.
    pub warnings: Vec<String>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// Which former configuration is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Its number; the last one that differs from the one in effect, if missing.
    #[serde(default)]
    pub to: Option<u64>,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// Configurations that were applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The newest last.
    pub revisions: Vec<Revision>,
}

/// A configuration that was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// When: seconds since 1970.
    pub at: u64,
    /// `file`, or who applied it.
    pub by: String,
    /// Services in it.
    pub services: usize,
    /// Backends in it.
    pub backends: usize,
}

/// Which backends are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendRequest {
    /// The service's name; every service that has the backend, if missing.
    #[serde(default)]
    pub service: Option<String>,
    /// The backend's address.
    pub backend: String,
}

/// Which backends to drain, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// The service's name; every service that has the backend, if missing.
    #[serde(default)]
    pub service: Option<String>,
    /// The backend's address.
    pub backend: String,
    /// Seconds after which what is left is scheduled anew; never, if missing.
    #[serde(default)]
    pub deadline_s: Option<u64>,
}

/// Which backends get which weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// The service's name; every service that has the backend, if missing.
    #[serde(default)]
    pub service: Option<String>,
    /// The backend's address.
    pub backend: String,
    /// Its weight; what the file says, if missing.
    #[serde(default)]
    pub weight: Option<u16>,
}

/// What was done to backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acted {
    /// Which they were.
    pub backends: Vec<Backend>,
    /// The steps taken.
    pub steps: Vec<String>,
}

/// A backend of a service.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
pub struct Backend {
    /// The service's name.
    pub service: String,
    /// Protocol, address and port of the service.
    pub frontend: String,
    /// The backend's address.
    pub address: String,
}

/// Which interfaces are to be freed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// Their names; all, if none is named.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

/// Where Director is off now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detached {
    /// The interfaces that it was on.
    pub interfaces: Vec<String>,
}

/// Which backends' connections are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConnectionsOf {
    /// Only of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only of this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// Connections by backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// Every backend that was asked for.
    pub backends: Vec<BackendConnections>,
}

/// Connections of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendConnections {
    /// Which.
    #[serde(flatten)]
    pub backend: Backend,
    /// Established flows in the flow table; an estimate if there are many.
    pub established: u64,
}

/// Why something was not done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `invalid`, `unknown`, `conflict`, `denied`, `needs_force`, `failed` or `bad_request`.
    pub kind: String,
    /// For people; of a configuration all of its errors, a line or more each.
    pub error: String,
}
