//! What others read and ask. Nothing here changes a director: requests that would are passed to the
//! daemon as [`api::Command`]s. Maps are read only while somebody watches.
//!
//! Begin with [`view::Snapshot`], which commands, metrics and the status page all show.
//!
//! - [`view`]: the maps at one time, with the daemon's status added;
//! - [`api`]: the daemon's API over a Unix socket, server and client;
//! - [`metrics`]: the view as Prometheus's text;
//! - [`page`]: the view as a web page.

pub mod api;
pub mod metrics;
pub mod page;
pub mod view;
