//! Looking at packets and flows: what `director explain`, `trace` and `capture` are made of.
//!
//! - [`FlowSpec`] is a flow as somebody writes it down, and the frame that a packet of it would be;
//! - [`explain`] says where it would go and why;
//! - [`Filter`] says which packets are wanted, [`Event`] what was told of one;
//! - [`Pcapng`] writes frames with what became of them.

mod event;
mod explain;
mod filter;
mod flow;
mod frame;
mod names;
mod pcapng;

pub use event::Event;
pub(crate) use explain::state_label;
pub use explain::{Explanation, Known, NextHopView, Ring, Size, Tunnel, explain};
pub use filter::{Filter, FilterError};
pub use flow::{FlowError, FlowSpec, Packet};
pub use names::Names;
pub use pcapng::{Direction, Pcapng};
