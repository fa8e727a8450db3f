//! The implementation of `cargo xtask`: one module per verb, and what they share.
//!
//! The tests crate uses [`vm`] too, so nothing here may depend on the crates under test.

pub mod bench;
mod bpf_toolchain;
pub mod build;
pub mod ci;
pub mod demo;
pub mod dist;
pub mod fuzz;
mod progress;
pub mod setup;
mod sh;
pub mod test;
pub mod vm;
pub mod workspace;
