//! The second half of the configuration's path: from the desired and the observed state to steps.
//!
//! `desired` is what the maps should hold, `observed` what they do hold; [`diff`] makes the
//! [`Plan`], which is data: `director plan` prints it, `datapath::apply` applies it. All of this is
//! pure. Every change of the balancer (a file, health, a drain) changes the desired state and goes
//! through here, so only one code path writes the maps.

mod desired;
mod diff;
mod growing;
mod observed;
mod op;

pub use desired::{BackendSpec, Desired, DesiredService, Path, PathKey, Paths, key_of};
pub use diff::{PlanError, diff};
pub use growing::diff_growing;
pub use observed::{
    Capacity, Damaged, Observed, ObservedBackend, ObservedRing, ObservedService, ObservedSome, View,
};
pub use op::{Member, Op, Plan, Presence, front, ring_fingerprint};
