//! The state of a running director, as commands, metrics and the status page show it.
//!
//! - [`status`]: the daemon's status;
//! - [`Reader`]: reads the maps into a [`Snapshot`], to which the daemon's status is added;
//! - [`Sampler`]: snapshots for watchers, taken only while there are any;
//! - [`serve()`]: HTTP for read-only clients;
//! - [`text`]: tables and numbers for people; [`fixture`]: synthetic snapshots, for tests.

pub mod fixture;
mod former_names;
mod sampler;
mod serve;
mod service;
mod snapshot;
pub mod status;
pub mod text;

pub use sampler::{Sample, Sampler, SamplerError, Watcher};
pub use serve::serve;
pub use service::{BackendView, Rate, Rating, ServiceHealth, ServiceView, Traffic};
pub use snapshot::{InterfaceView, Reader, Snapshot, VerdictView};
pub use status::Status;
