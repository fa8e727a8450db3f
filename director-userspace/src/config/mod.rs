//! The configuration file: YAML text in, [`model::Config`] out, or every error at once.

pub mod model;
pub mod units;
