//! The real program over a capture: what `director simulate` is made of.
//!
//! - [`Capture`] reads pcap and pcapng, [`Writer`] writes pcap;
//! - [`offline`] says what the ways to backends are taken to be where there is no network to ask;
//! - [`Simulator`] judges packet by packet, with the capture's timestamps as the clock.

mod capture;
mod offline;
mod pcapng;
mod simulator;
mod writer;

pub use capture::{Capture, CaptureError, MAX_PACKET, Packet};
pub use offline::{Offline, PLACEHOLDER_MAC, PLACEHOLDER_V4, PLACEHOLDER_V6, offline};
pub use simulator::{Evaluation, Judged, Simulator};
pub use writer::Writer;

#[cfg(test)]
mod tests;
