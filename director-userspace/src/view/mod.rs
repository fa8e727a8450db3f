//! What is shown of a running director, whoever shows it: commands, metrics, the status page.
//!
//! - [`condition`]: what the daemon knows.

pub mod condition;
