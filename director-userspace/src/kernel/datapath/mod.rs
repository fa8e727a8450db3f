//! The BPF side of a director: programs, maps, links. Nothing else opens its maps.
//!
//! - [`Instance`] has the paths of pins, [`Datapath`] opens or creates the maps;
//! - [`Tables`] are the maps; [`observe`] reads them into [`crate::policy::plan::Observed`],
//!   [`apply`] applies the steps of a [`crate::policy::plan::Plan`];
//! - `grow` makes them larger while packets pass; [`Scrub`] finds and repairs writes by other
//!   processes;
//! - [`Attachments`] has the interfaces' slots; `attach` attaches the program to them and detaches
//!   it;
//! - [`Explainer`] predicts the verdict of a packet, [`Trace`] reports the verdicts of live
//!   packets, [`Conns`] reads tracked flows;
//! - [`Simulation`] runs the same program over frames, [`Standalone`] loads it for benchmarks; both
//!   with maps of their own.

mod apply;
mod attach;
mod attachments;
mod batch;
mod census;
mod conns;
mod damage;
mod error;
mod explain;
mod filter;
mod grace;
mod grow;
mod instance;
mod keys;
mod link;
mod link_pins;
mod load;
mod lock;
mod mmap;
mod object;
mod observe;
mod open;
mod pins;
mod pulse;
mod rings;
mod scrub;
mod simulation;
mod standalone;
mod stats;
mod tables;
mod test_run;
mod trace;
#[cfg(feature = "verbose")]
pub mod verbose;

pub use apply::apply;
pub use attach::{AttachError, Loaded};
pub use attachments::{Attached, Attachments};
pub use census::{Census, census};
pub use conns::{Conn, Conns};
pub use error::DatapathError;
pub use explain::{Entry, Explainer};
pub use instance::{Instance, mount_bpffs};
pub use link_pins::{LinkPin, attached, detach};
pub use load::Sizes;
pub use lock::Lock;
pub use observe::{observe, observe_some};
pub use open::{Datapath, clock_ns};
pub use pins::Pins;
pub use pulse::Pulse;
pub use scrub::{SCRUB_BUDGET, Scrub};
pub use simulation::{Outcome, Simulation};
pub use standalone::Standalone;
pub use stats::{BackendCounters, Counters, ServiceCounters, counters};
pub use tables::Tables;
pub use trace::{Trace, TraceCounts};
