//! The desired state, as data: nothing here reads a clock, makes a system call or writes a log.
//!
//! Begin with [`config::model`], a configuration that cannot be invalid, then [`plan::Plan`].
//!
//! - [`config`]: YAML to the model, or all errors at once; reading the file is its only I/O. Options of
//!   health checks are in `config/model/health.rs`, their parsing in `config/lower/probe.rs`;
//! - [`health_policy`]: health, load and admin overrides, to the services in effect;
//! - [`plan`]: the steps from the observed to the desired state;
//! - [`scheduler`]: how a new flow gets its backend, one file a scheduler;
//! - [`by_address`]: `ByAddress`, a hash map keyed by IP address, which all of these use.

pub mod by_address;
pub mod config;
pub mod health_policy;
pub mod plan;
pub mod scheduler;
