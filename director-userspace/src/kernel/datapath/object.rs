//! The BPF object that this binary carries.

use aya::include_bytes_aligned;

/// The director's programs and maps, built by `build.rs` from director-ebpf.
pub(super) static DIRECTOR: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/director.o"));

/// The program that forwards.
pub(super) const PROGRAM: &str = "director";
/// The program that it calls for the slow path.
pub(super) const SLOW_PATH: &str = "slow_path";
/// The program that replaces it for traced packets.
pub(super) const TRACED: &str = "traced";
/// The program for interfaces that only send.
pub(super) const EGRESS_PROGRAM: &str = "egress";
