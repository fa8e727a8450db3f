//! The reconciler: the only wing that changes a running director.
//!
//! Begin with [`director::Director`], which takes the steps from a configuration to forwarded packets
//! in order; [`daemon`] repeats them whenever something changes.

pub mod daemon;
pub mod director;
