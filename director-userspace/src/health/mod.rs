//! The health engine: asks backends how they are, on time, and tells what changed.
//!
//! ```text
//! targets -> one task each: wait, probe, count -> Health, and an Event when it matters
//! ```
//!
//! It knows addresses, checks and agents, and nothing of services or maps. All of it runs on one
//! thread of its own, so that neither a busy daemon makes answers look late, nor thousands of
//! checks the daemon. Every wait is on the monotonic clock: setting the wall clock changes nothing
//! but the times shown.

mod agent;
mod checker;
mod events;
mod failure;
mod hyper_tasks;
mod limits;
mod probe;
mod schedule;
mod socket;
mod streak;
mod target;

pub use self::{
    checker::Checker,
    events::Events,
    target::{AgentMode, AgentReport, AgentTarget, Event, Health, Target},
};
