//! Tracing of packets and flows, for `director explain`, `trace` and `capture`.
//!
//! - [`FlowSpec`] is a flow in text form, and builds the frame of one of its packets;
//! - [`explain`] reports where it would go and why;
//! - [`Filter`] selects packets, [`Event`] is the trace of one;
//! - [`Pcapng`] writes frames with their verdicts.

mod event;
mod explain;
mod filter;
mod flow;
mod frame;
mod names;
mod pcapng;

pub use event::Event;
pub(crate) use explain::state_label;
pub use explain::{Explanation, FlowEntry, NextHopView, RingSlot, Size, Tunnel, explain};
pub use filter::{Filter, FilterError};
pub use flow::{FlowError, FlowSpec, Packet};
pub use names::Names;
pub use pcapng::{Direction, Pcapng};
