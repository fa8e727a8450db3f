//! Configurations of LVS and keepalived, in and out. Works on text and on the model alone: it asks
//! neither the kernel nor a daemon.
//!
//! Begin with [`import::Imported`], a configuration with notes on what was carried over and how.
//!
//! - [`import`]: rules of ipvsadm and keepalived's configuration to YAML;
//! - [`export`]: services as ipvsadm's rules and listing.

pub mod export;
pub mod import;
