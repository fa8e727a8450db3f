//! The health engine: probes backends on schedule and reports state changes. It decides nothing about
//! services: the health policy does.
//!
//! Begin with [`Checker`], which is given targets, and [`Event`], which it reports.
//!
//! ```text
//! targets -> one task each: wait, probe, count -> Health, and an Event when the state changes
//! ```
//!
//! A new protocol begins in `policy/config/model/health.rs` (`Probe`), and is probed by a file in
//! `probe/`, reached through `probe/mod.rs`. `agent/` queries agent checks, which report a backend's load.
//!
//! It handles addresses, checks and agents, not services or maps. It runs on threads of its own, so
//! that a busy daemon does not add to measured latencies and thousands of checks do not delay the
//! daemon. Every wait is on the monotonic clock: setting the wall clock changes nothing but the
//! times shown.

mod agent;
mod checker;
mod events;
mod failure;
#[doc(hidden)]
pub mod fuzz;
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
