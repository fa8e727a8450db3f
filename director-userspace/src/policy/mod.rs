//! What should be, as data: nothing here has a clock, makes a system call or writes a log.
//!
//! Begin with [`config::model`], the configuration as valid by construction, then [`plan::Plan`].
//!
//! - [`config`]: YAML to the model, or all errors of the file at once; reading the file is its only I/O;
//! - [`health_policy`]: health, load and admin overrides, to the services that are to be in effect;
//! - [`plan`]: what should be against what is, as a list of steps;
//! - [`by_address`]: the tables by IP address that all of these use.

pub mod by_address;
pub mod config;
pub mod health_policy;
pub mod plan;
