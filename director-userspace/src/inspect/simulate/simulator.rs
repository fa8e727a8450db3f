//! Runs the program packet by packet.

use std::{collections::BTreeMap, net::IpAddr};

use director_common::{decision::Connection, verdict::Verdict};
use serde::Serialize;

use super::Packet;
use crate::{
    kernel::datapath::{DatapathError, Outcome, Simulation, observe},
    policy::{
        config::model::Config,
        plan::{Desired, Paths},
    },
};

/// The result for a packet, as printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PacketResult {
    /// The number in the capture, from 1.
    pub packet: u64,
    /// `tx`, `redirect`, `pass` or `drop`; `skipped` if the program could not be run over it.
    pub verdict: &'static str,
    /// Why, unless it was simply forwarded.
    pub reason: Option<&'static str>,
    /// The service it is for, if it was looked up.
    pub service: Option<String>,
    /// The selected backend.
    pub backend: Option<IpAddr>,
    /// `new`, `known` or `none`.
    pub connection: &'static str,
    /// Length of the sent or passed frame; 0 if dropped.
    pub bytes: u64,
}

/// A packet's result, and the frame if one is sent.
#[derive(Debug)]
pub struct Simulated {
    /// The result, as printed.
    pub result: PacketResult,
    /// The frame sent by an interface.
    pub leaves: Option<Vec<u8>>,
    /// A remark on this packet for the user.
    pub note: Option<String>,
}

/// The program with a configuration, and the capture's clock.
pub struct Simulator {
    simulation: Simulation,
    services: BTreeMap<u32, String>,
    backends: BTreeMap<u32, IpAddr>,
    packets: u64,
    now_ns: u64,
}

impl Simulator {
    /// Loads the program with maps of its own.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: the privilege to load BPF programs is needed.
    pub fn new(config: &Config, paths: &Paths) -> Result<Self, DatapathError> {
        let simulation = Simulation::new(config, &Desired::new(config, paths))?;
        let observed = observe(&simulation.tables);
        Ok(Self {
            simulation,
            services: observed.services.into_iter().map(|(slot, s)| (slot, s.name)).collect(),
            backends: observed.backends.into_iter().map(|(slot, b)| (slot, b.address)).collect(),
            packets: 0,
            now_ns: 0,
        })
    }

    /// Runs the program over the next packet. The clock is the packet's timestamp, and never goes
    /// back.
    ///
    /// # Errors
    ///
    /// If the kernel refuses for another reason than the frame's length.
    pub fn run(&mut self, packet: &Packet) -> Result<Simulated, DatapathError> {
        self.packets += 1;
        self.now_ns = self.now_ns.max(packet.timestamp_ns);
        match self.simulation.run(&packet.bytes, self.now_ns) {
            Ok(outcome) => Ok(self.simulated(packet, outcome)),
            Err(DatapathError::FrameTooLong { length, limit }) => {
                let note = format!(
                    "packet {} has {length} bytes, and the kernel tests programs with at most \
                     {limit}: skipped (captured with segmentation offload on?)",
                    self.packets
                );
                let result = PacketResult {
                    packet: self.packets,
                    verdict: "skipped",
                    reason: Some("too-long"),
                    service: None,
                    backend: None,
                    connection: Connection::None.label(),
                    bytes: 0,
                };
                Ok(Simulated { result, leaves: None, note: Some(note) })
            }
            Err(error) => Err(error),
        }
    }

    fn simulated(&self, packet: &Packet, outcome: Outcome) -> Simulated {
        let verdict = outcome.verdict;
        let is_dropped = matches!(verdict, Verdict::Drop(_));
        let leaves = matches!(verdict, Verdict::Tx | Verdict::Redirect | Verdict::Reply(_));
        let result = PacketResult {
            packet: self.packets,
            verdict: verdict.label(),
            reason: verdict.reason(),
            service: outcome.service.and_then(|slot| self.services.get(&slot).cloned()),
            backend: outcome.backend.and_then(|slot| self.backends.get(&slot).copied()),
            connection: outcome.connection.label(),
            bytes: if is_dropped { 0 } else { outcome.frame.len() as u64 },
        };
        let note = packet.is_cut().then(|| {
            format!(
                "packet {} was captured with {} of its {} bytes, and is processed as if it had no \
                 more (capture with a larger snaplen)",
                self.packets,
                packet.bytes.len(),
                packet.original_length
            )
        });
        Simulated { result, leaves: leaves.then_some(outcome.frame), note }
    }
}
