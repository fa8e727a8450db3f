//! Where a packet would go, and why: the program's verdict on the live maps, and the reasons from
//! the maps.

use std::net::IpAddr;

use director_common::{
    backend::{Backend, ForwardMode},
    decision::Connection,
    flow::Family,
    flow_table::FlowState,
    service::WhenEmpty,
    tunables::{HEARTBEAT_STALE_NS, TICK_SHIFT},
    verdict::{DropReason, PassReason, ReplyReason, Verdict},
    wire::ethernet::{Mac, mac_from_u64},
};
use serde::Serialize;

use super::flow::{FlowSpec, Packet};
use crate::{
    kernel::datapath::{DatapathError, Explainer, clock_ns},
    policy::plan::front,
};

/// The explanation of one packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The parsed flow.
    pub flow: String,
    /// `tx`, `redirect`, `pass` or `drop`.
    pub verdict: &'static str,
    /// The reason's label, where there is one.
    pub reason: Option<&'static str>,
    /// The verdict in words.
    pub meaning: String,
    /// Name of the service.
    pub service: Option<String>,
    /// Protocol, address and port of the service.
    pub frontend: Option<String>,
    /// Address of the backend.
    pub backend: Option<IpAddr>,
    /// `new`, `known` or `none`.
    pub connection: &'static str,
    /// The flow's entry in the flow table, even if it is not used for this packet.
    pub known: Option<FlowEntry>,
    /// The flow's slot on the service's ring, which selects the backend of a new flow.
    pub ring: Option<RingSlot>,
    /// The next hop to the backend.
    pub next_hop: Option<NextHopView>,
    /// The outer header that encapsulates the packet.
    pub tunnel: Option<Tunnel>,
    /// The packet's size and its limits.
    pub size: Option<Size>,
    /// Further remarks.
    pub notes: Vec<String>,
}

/// A flow table entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlowEntry {
    /// `new`, `established` or `closing`.
    pub state: &'static str,
    /// Seconds since it was last seen, to about a second.
    pub idle_s: f64,
    /// Seconds of its idle timeout.
    pub timeout_s: f64,
    /// The backend that it refers to; null if that was removed.
    pub backend: Option<IpAddr>,
}

/// A slot on a ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RingSlot {
    /// The slot, from 0.
    pub slot: u32,
    /// Number of slots.
    pub slots: u32,
}

/// The next hop to a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NextHopView {
    /// Destination MAC address of the frame.
    pub mac: String,
    /// Source MAC address of the frame.
    pub source_mac: String,
    /// Kernel's index of the egress interface, if known here.
    pub ifindex: Option<u32>,
    /// Its VLAN.
    pub vlan: Option<u16>,
    /// `configured` (`mac:`), `daemon` (which keeps it fresh) or `kernel` (no daemon runs, so the
    /// program looks up the FIB; without a result it uses the daemon's last next hop).
    pub known_from: &'static str,
}

/// An outer header.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tunnel {
    /// Its source: the director.
    pub source: IpAddr,
    /// Its destination: the backend.
    pub destination: IpAddr,
    /// Bytes that it adds.
    pub overhead: u16,
}

/// The size of the packet, and its limits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Size {
    /// Bytes of this IP packet.
    pub length: u16,
    /// The path's MTU: bytes of IP packet.
    pub mtu: u16,
    /// Bytes of a client's IP packet that fit with the encapsulation.
    pub fits: u16,
}

/// Where `packet` of `flow` would go if it arrived now, and why. Nothing is written: no counter, no
/// flow.
///
/// # Errors
///
/// If the kernel refuses an operation.
pub fn explain(
    explainer: &mut Explainer,
    flow: &FlowSpec,
    packet: Packet,
) -> Result<Explanation, DatapathError> {
    let mac = mac_from_u64(explainer.interface(explainer.interface_slot()).mac());
    let frame = flow.frame(packet, mac);
    let outcome = explainer.explain(&frame)?;
    let key = flow.key();
    let hash = explainer.hash(&key);
    let tunables = explainer.tunables();
    let mut notes = Vec::new();

    let known = explainer.entry(hash).map(|entry| {
        let ticks = tunables.timeout(flow.protocol as u8, entry.state).0;
        let backend = explainer.resolve(entry.backend);
        let timeout_s = seconds((u64::from(ticks) << TICK_SHIFT) / 1_000_000);
        let known = FlowEntry {
            state: state_label(entry.state),
            idle_s: seconds(entry.idle_ms),
            timeout_s,
            backend: backend.as_ref().map(address_of),
        };
        if outcome.connection != Connection::Known {
            notes.push(why_unused(&known));
        }
        known
    });
    let service = outcome.service.map(|slot| explainer.service(slot));
    let ring = service.as_ref().and_then(|(service, _)| {
        let slots = service.word.slots();
        (slots > 0).then(|| RingSlot { slot: hash.ring_slot(slots), slots })
    });
    let backend = outcome.backend.map(|slot| explainer.backend(slot));
    let forwarded = matches!(outcome.verdict, Verdict::Tx | Verdict::Redirect);
    let next_hop = backend
        .filter(|_| forwarded)
        .map(|backend| next_hop(explainer, &backend, &outcome.frame, outcome.verdict));
    let tunnel = backend.filter(|b| b.word.forward().is_some_and(ForwardMode::encapsulates)).map(
        |backend| Tunnel {
            source: backend.sources[backend.word.source()].to_ip(family(&backend)),
            destination: address_of(&backend),
            overhead: backend.word.forward().map_or(0, |mode| mode.overhead(backend.word.is_v6())),
        },
    );
    let size = backend.filter(|backend| backend.word.mtu() != 0).map(|backend| {
        let mtu = backend.word.mtu();
        let overhead = tunnel.as_ref().map_or(0, |tunnel| tunnel.overhead);
        Size { length: (frame.len() - 14) as u16, mtu, fits: mtu.saturating_sub(overhead) }
    });
    if outcome.verdict == Verdict::Redirect {
        notes.push("it leaves by another interface than the one it arrives on".into());
    }
    Ok(Explanation {
        flow: flow.to_string(),
        verdict: outcome.verdict.label(),
        reason: outcome.verdict.reason(),
        meaning: meaning(outcome.verdict, service.as_ref().map(|(s, _)| s.word.when_empty())),
        service: service.as_ref().map(|(_, name)| name.clone()),
        frontend: service.as_ref().map(|(service, _)| front(service.key)),
        backend: backend.as_ref().map(address_of),
        connection: outcome.connection.label(),
        known,
        ring,
        next_hop,
        tunnel,
        size,
        notes,
    })
}

fn why_unused(known: &FlowEntry) -> String {
    let why = if known.backend.is_none() {
        "its backend was removed"
    } else if known.idle_s > known.timeout_s {
        "its idle timeout has expired"
    } else if known.state == state_label(FlowState::Closing) {
        "it was closing, and this packet opens a new connection"
    } else {
        "this packet does not match it"
    };
    format!("the flow table has an entry of this flow that is not used: {why}")
}

fn next_hop(
    explainer: &Explainer,
    backend: &Backend,
    frame: &[u8],
    verdict: Verdict,
) -> NextHopView {
    let kept = backend.next_hop;
    let fixed = backend.word.has_fixed_next_hop();
    let heartbeat = explainer.tunables().heartbeat_ns;
    let fresh = clock_ns() < heartbeat.wrapping_add(HEARTBEAT_STALE_NS);
    let mac = |at: usize| {
        frame.get(at..at + 6).and_then(|mac| Mac::try_from(mac).ok()).unwrap_or_default()
    };
    // The MAC address that the program wrote is authoritative; the maps only show its origin.
    let is_kept = kept.is_resolved() && kept.mac() == mac(0);
    let known_from = match (fixed, fresh, is_kept) {
        (true, _, true) => "configured",
        (false, true, true) => "daemon",
        // Without a daemon the program looks up the FIB first, which may have the same address.
        _ => "kernel",
    };
    let own = explainer.interface(explainer.interface_slot()).ifindex;
    let ifindex = if verdict == Verdict::Tx {
        Some(own)
    } else {
        is_kept.then(|| explainer.interface(kept.interface()).ifindex)
    };
    let tag = (frame.get(12..14) == Some(&[0x81, 0]))
        .then(|| frame.get(14..16).map(|tag| u16::from_be_bytes([tag[0], tag[1]]) & 0xfff))
        .flatten();
    NextHopView {
        mac: mac_text(mac(0)),
        source_mac: mac_text(mac(6)),
        ifindex,
        vlan: tag,
        known_from,
    }
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn family(backend: &Backend) -> Family {
    if backend.word.is_v6() { Family::V6 } else { Family::V4 }
}

fn address_of(backend: &Backend) -> IpAddr {
    backend.address.to_ip(family(backend))
}

fn seconds(milliseconds: u64) -> f64 {
    (milliseconds / 100) as f64 / 10.0
}

/// The label of a flow's state.
pub(crate) const fn state_label(state: FlowState) -> &'static str {
    match state {
        FlowState::New => "new",
        FlowState::Established => "established",
        FlowState::Closing => "closing",
    }
}

/// The meaning of a verdict, in words.
fn meaning(verdict: Verdict, when_empty: Option<WhenEmpty>) -> String {
    let text = match verdict {
        Verdict::Tx => "forwarded, by the interface that it arrives on",
        Verdict::Redirect => "forwarded, by another interface",
        Verdict::Reply(ReplyReason::NoBackend) => {
            "no usable backend: the client gets an ICMP error (when_empty: reject)"
        }
        Verdict::Reply(ReplyReason::TooBig) => {
            "too big for the path to the backend: the client gets its MTU by ICMP"
        }
        Verdict::Drop(DropReason::NoBackend) if when_empty == Some(WhenEmpty::Drop) => {
            "no usable backend, and the service has when_empty: drop"
        }
        Verdict::Drop(reason) => reason.explanation(),
        Verdict::Pass(PassReason::NoService) => {
            "left to this host: no service has this address, protocol and port"
        }
        Verdict::Pass(PassReason::NoBackend) => {
            "left to this host: no usable backend, and the service has when_empty: pass"
        }
        Verdict::Pass(PassReason::NotOurMac) => {
            "left to this host: the frame is to another MAC address than the interface's"
        }
        Verdict::Pass(_) => "left to this host's network stack",
    };
    text.into()
}
