//! The second half of the config's path: what is, what should be, and the steps between.
//!
//! `desired` says what the maps should hold, `observed` what they do hold, [`diff`] makes the
//! [`Plan`], which is data: `director plan` prints it, `datapath::apply` carries it out. All of this
//! is pure. Whatever changes the balancer (a file, health, a drain) changes the desired state and
//! comes through here, so there is one way to write a map.

mod desired;
mod diff;
mod observed;
mod op;

pub use desired::{BackendSpec, Desired, DesiredService, Path, Paths, key_of};
pub use diff::{PlanError, diff, diff_growing};
pub use observed::{Capacity, Observed, ObservedBackend, ObservedService, ring_of};
pub use op::{Member, Op, Plan, Presence, front, ring_fingerprint};
