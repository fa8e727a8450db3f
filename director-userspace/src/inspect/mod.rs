//! What happens to packets, and why not. Nothing here changes what a director forwards.
//!
//! Begin with [`doctor`], which goes from facts about a host to findings.
//!
//! - [`doctor`]: what keeps packets from arriving, and how to mend it;
//! - [`trace`]: sampled decisions, live or in a file, and explanations of one flow;
//! - [`simulate`]: the XDP program over a capture.

pub mod doctor;
pub mod simulate;
pub mod trace;
