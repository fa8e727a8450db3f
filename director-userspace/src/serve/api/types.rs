//! Requests and responses of the API.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// What applying a configuration would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Planned {
    /// Whether it differs from what is in effect.
    pub changes: bool,
    /// The steps in order, for people: `+` adds, `-` removes, `~` changes.
    pub steps: Vec<String>,
    /// Warnings about the configuration.
    pub warnings: Vec<String>,
    /// Revision of the configuration that it was compared with.
    pub revision: u64,
}

/// How to apply a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ApplyOptions {
    /// Only report what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Apply it even if no service is left.
    #[serde(default)]
    pub force: bool,
    /// Only if this is still the revision in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<u64>,
}

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Revision of the configuration that is in effect now.
    pub revision: u64,
    /// The steps taken, or with `dry_run` those that would be taken.
    pub steps: Vec<String>,
    /// Warnings about the configuration.
    pub warnings: Vec<String>,
    /// Whether nothing was changed.
    pub dry_run: bool,
}

/// Which former configuration to restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Its revision; the last one that differs from the one in effect, if missing. That is refused if
    /// a later one was lost.
    #[serde(default)]
    pub to: Option<u64>,
    /// Only report what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// Configurations that were applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// By revision, the newest last.
    pub revisions: Vec<Revision>,
}

/// A configuration that was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its revision.
    pub revision: u64,
    /// When it was applied: seconds since 1970.
    pub at: u64,
    /// `file`, or the peer that applied it.
    pub by: String,
    /// Number of services.
    pub services: usize,
    /// Number of backends.
    pub backends: usize,
    /// Whether its text could not be kept, so that it cannot be rolled back to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// Which backends to select.
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
    /// Seconds after which remaining flows are rescheduled; never, if missing.
    #[serde(default)]
    pub deadline_s: Option<u64>,
}

/// Which backends to give which weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// The service's name; every service that has the backend, if missing.
    #[serde(default)]
    pub service: Option<String>,
    /// The backend's address.
    pub backend: String,
    /// Its weight; the file's, if missing.
    #[serde(default)]
    pub weight: Option<u16>,
}

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acted {
    /// The backends.
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

/// Which interfaces to detach from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// Their names; all, if none is named.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

/// Where the program was detached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detached {
    /// The interfaces that it was attached to.
    pub interfaces: Vec<String>,
}

/// Which backends' connections to count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConnectionsOf {
    /// Only backends of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only backends with this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// Connections by backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// Every selected backend.
    pub backends: Vec<BackendConnections>,
}

/// Connections of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendConnections {
    /// The backend.
    #[serde(flatten)]
    pub backend: Backend,
    /// Established flows in the flow table; an estimate if there are many.
    pub established: u64,
}

/// Why a request was refused or failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `invalid`, `unknown`, `conflict`, `denied`, `needs_force`, `failed` or `bad_request`.
    pub kind: String,
    /// Text for people; for a configuration all of its errors, a line or more each.
    pub error: String,
}
