//! The BPF side of a director: programs, maps, links. Nothing else opens its maps.
//!
//! - [`Instance`] says where things are pinned, [`Datapath`] opens or creates them;
//! - [`Tables`] are the maps; [`observe`] reads them into [`crate::plan::Observed`], [`apply`]
//!   carries out a [`crate::plan::Plan`];
//! - [`Attachments`] puts the program on interfaces and takes it off;
//! - [`Simulation`] runs the same program over frames, with maps of its own.

mod apply;
mod attach;
mod error;
mod grace;
mod instance;
mod link;
mod load;
mod mmap;
mod object;
mod observe;
mod open;
mod simulation;
mod stats;
mod tables;

pub use apply::apply;
pub use attach::{Attached, Attachments, LinkPin, attached, detach};
pub use error::DatapathError;
pub use instance::{Instance, Lock, mount_bpffs};
pub use load::Sizes;
pub use observe::observe;
pub use open::{Datapath, clock_ns};
pub use simulation::{Outcome, Simulation};
pub use stats::{BackendCounters, Counters, ServiceCounters, counters};
pub use tables::Tables;
