//! The read-only views and the API. Nothing here changes a director: requests that do are passed to
//! the daemon as [`api::Command`]s. Maps are read only while a client watches.
//!
//! Begin with [`view::Snapshot`], which commands, metrics and the status page all show.
//!
//! - [`view`]: a snapshot of the maps, with the daemon's status added;
//! - [`api`]: the daemon's API over a Unix socket, server and client;
//! - [`metrics`]: the view in Prometheus's text format, printing only: numbers come from
//!   [`view::ServiceView`], whose counters `kernel/datapath/stats.rs` reads and whose established flows
//!   `kernel/datapath/census.rs` counts;
//! - [`page`]: the view as a web page;
//! - `limiter`: which connections the listeners keep; `host`: which names they answer to.

pub mod api;
#[doc(hidden)]
pub mod fuzz;
mod host;
mod limiter;
pub mod metrics;
pub mod page;
pub mod view;

pub use host::Names;
