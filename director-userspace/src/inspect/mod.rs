//! Inspection of packets, flows and hosts. It never changes what a director forwards.
//!
//! Begin with [`doctor`], which derives findings from facts about a host.
//!
//! - [`doctor`]: what keeps packets from arriving, and how to fix it: `interface`, `kernel` and `path`
//!   check a director, `realserver` checks a real server;
//! - [`trace`]: sampled decisions, live or in a file, and explanations of one flow;
//! - [`simulate`]: the XDP program over a capture.

pub mod doctor;
pub mod simulate;
pub mod trace;
