//! Import and export of configurations of LVS and keepalived. Works on text and on the model alone,
//! without the kernel or a daemon.
//!
//! Begin with [`import::Imported`], a configuration with notes on how each option was converted.
//!
//! - [`import`]: rules of ipvsadm and keepalived's configuration to YAML. `ipvsadm/` and `keepalived/`
//!   parse options and their values, `carry.rs` decides whether a service can be converted and which
//!   scheduler replaces its own, `write.rs` writes the YAML;
//! - [`export`]: services as ipvsadm's rules and listing.

pub mod export;
pub mod import;
