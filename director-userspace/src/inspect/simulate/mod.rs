//! Runs the real program over a capture, for `director simulate`.
//!
//! - [`Capture`] reads pcap and pcapng, [`Writer`] writes pcap;
//! - [`offline`] assumes next hops of backends, because no network is used;
//! - [`Simulator`] processes packet by packet, with the capture's timestamps as the clock.

mod capture;
mod offline;
mod pcapng;
mod simulator;
mod writer;

pub use capture::{Capture, CaptureError, MAX_PACKET, Packet};
pub use offline::{Offline, PLACEHOLDER_MAC, PLACEHOLDER_V4, PLACEHOLDER_V6, offline};
pub use simulator::{PacketResult, Simulated, Simulator};
pub use writer::Writer;

#[cfg(test)]
mod tests;
