//! What is shown of a running director, whoever shows it: commands, metrics, the status page.
//!
//! - [`condition`]: what the daemon knows;
//! - [`Reader`]: the maps at one time, a [`Snapshot`], with the daemon's conditions added to it;
//! - [`Sampler`]: snapshots for those who watch, taken only while somebody does;
//! - [`serve()`]: HTTP for those who only look;
//! - [`text`]: tables and numbers for people; [`fixture`]: made-up snapshots, for tests.

pub mod fixture;
mod sampler;
mod serve;
mod service;
mod snapshot;
pub mod status;
pub mod text;

pub use sampler::{Sample, Sampler, SamplerError, Watching};
pub use serve::serve;
pub use service::{BackendView, Mood, Rate, ServiceHealth, ServiceView, Traffic};
pub use snapshot::{InterfaceView, Reader, Snapshot, VerdictView};
pub use status::Status;
