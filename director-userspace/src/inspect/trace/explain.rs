//! Where a packet would go, and why: what the program says over the live maps, and what the maps say
//! about the reasons.

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

/// What would become of one packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The flow, as it was understood.
    pub flow: String,
    /// `tx`, `redirect`, `pass` or `drop`.
    pub verdict: &'static str,
    /// The reason's label, where there is one.
    pub reason: Option<&'static str>,
    /// What that means, in words.
    pub meaning: String,
    /// Name of the service.
    pub service: Option<String>,
    /// Protocol, address and port of the service.
    pub frontend: Option<String>,
    /// Address of the backend.
    pub backend: Option<IpAddr>,
    /// `new`, `known` or `none`.
    pub connection: &'static str,
    /// What the flow table says of the flow, also if it does not count any more.
    pub known: Option<Known>,
    /// Where the flow falls on the service's ring: how a new one is placed.
    pub ring: Option<Ring>,
    /// The way to the backend.
    pub next_hop: Option<NextHopView>,
    /// What is put around the packet.
    pub tunnel: Option<Tunnel>,
    /// How large packets may be.
    pub size: Option<Size>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// A flow table entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Known {
    /// `new`, `established` or `closing`.
    pub state: &'static str,
    /// Seconds since it was seen, to about a second.
    pub idle_s: f64,
    /// Seconds that it may idle.
    pub timeout_s: f64,
    /// The backend that it names; null if that is gone.
    pub backend: Option<IpAddr>,
}

/// A place on a ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ring {
    /// The slot, from 0.
    pub slot: u32,
    /// Slots that there are.
    pub slots: u32,
}

/// The way to a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NextHopView {
    /// MAC address that the frame is sent to.
    pub mac: String,
    /// MAC address that it is sent from.
    pub source_mac: String,
    /// Kernel's index of the interface that it leaves by, where it is known here.
    pub ifindex: Option<u32>,
    /// Its VLAN.
    pub vlan: Option<u16>,
    /// `configured` (`mac:`), `daemon` (which keeps it fresh) or `kernel` (no daemon does, so the FIB
    /// is asked; where that does not know, what the daemon knew last holds).
    pub known_from: &'static str,
}

/// An outer header.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tunnel {
    /// Its source: the director.
    pub source: IpAddr,
    /// Its destination: the backend.
    pub destination: IpAddr,
    /// Bytes that it takes.
    pub overhead: u16,
}

/// How large packets may be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Size {
    /// Bytes of this IP packet.
    pub length: u16,
    /// Bytes of IP packet that the way carries.
    pub mtu: u16,
    /// Bytes of a client's IP packet that fit with what is put around it.
    pub fits: u16,
}

/// Where `packet` of `flow` would go if it came now, and why. Nothing is written: no counter, no flow.
///
/// # Errors
///
/// What the kernel refuses.
pub fn explain(
    explainer: &mut Explainer,
    flow: &FlowSpec,
    packet: Packet,
) -> Result<Explanation, DatapathError> {
    let mac = mac_from_u64(explainer.interface(explainer.interface_slot()).mac());
    let frame = flow.frame(packet, mac);
    let outcome = explainer.ask(&frame)?;
    let key = flow.key();
    let hash = explainer.hash(&key);
    let tunables = explainer.tunables();
    let mut notes = Vec::new();

    let known = explainer.entry(hash).map(|entry| {
        let ticks = tunables.timeout(flow.protocol as u8, entry.state).0;
        let backend = explainer.resolve(entry.backend);
        let timeout_s = seconds((u64::from(ticks) << TICK_SHIFT) / 1_000_000);
        let known = Known {
            state: state_label(entry.state),
            idle_s: seconds(entry.idle_ms),
            timeout_s,
            backend: backend.as_ref().map(address_of),
        };
        if outcome.connection != Connection::Known {
            notes.push(why_not_known(&known));
        }
        known
    });
    let service = outcome.service.map(|slot| explainer.service(slot));
    let ring = service.as_ref().and_then(|(service, _)| {
        let slots = service.word.slots();
        (slots > 0).then(|| Ring { slot: hash.ring_slot(slots), slots })
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
        notes.push("it leaves by another interface than it comes by".into());
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

fn why_not_known(known: &Known) -> String {
    let why = if known.backend.is_none() {
        "its backend is gone"
    } else if known.idle_s > known.timeout_s {
        "it has idled too long"
    } else if known.state == state_label(FlowState::Closing) {
        "it was closing, and this packet opens a connection anew"
    } else {
        "this packet does not follow it"
    };
    format!("the flow table has an entry of this flow that does not count: {why}")
}

fn next_hop(
    explainer: &Explainer,
    backend: &Backend,
    frame: &[u8],
    verdict: Verdict,
) -> NextHopView {
    let kept = backend.next_hop;
    let fixed = backend.word.has_fixed_next_hop();
    let beat = explainer.tunables().heartbeat_ns;
    let fresh = clock_ns() < beat.wrapping_add(HEARTBEAT_STALE_NS);
    let mac = |at: usize| {
        frame.get(at..at + 6).and_then(|mac| Mac::try_from(mac).ok()).unwrap_or_default()
    };
    // What the program wrote is what counts; the maps say how it came to know.
    let is_kept = kept.is_resolved() && kept.mac() == mac(0);
    let known_from = match (fixed, fresh, is_kept) {
        (true, _, true) => "configured",
        (false, true, true) => "daemon",
        // Without a daemon the FIB is asked first; it may well say the same.
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

/// A flow's state, in a word.
pub(crate) const fn state_label(state: FlowState) -> &'static str {
    match state {
        FlowState::New => "new",
        FlowState::Established => "established",
        FlowState::Closing => "closing",
    }
}

/// What a verdict means, for who asks why a packet does not arrive.
fn meaning(verdict: Verdict, when_empty: Option<WhenEmpty>) -> String {
    let text = match verdict {
        Verdict::Tx => "forwarded, by the interface that it comes by",
        Verdict::Redirect => "forwarded, by another interface",
        Verdict::Reply(ReplyReason::NoBackend) => {
            "no usable backend: the client is told by ICMP (when_empty: reject)"
        }
        Verdict::Reply(ReplyReason::TooBig) => {
            "too big for the way to the backend: the client is told by ICMP what fits"
        }
        Verdict::Drop(DropReason::NoBackend) if when_empty == Some(WhenEmpty::Drop) => {
            "no usable backend, and the service says when_empty: drop"
        }
        Verdict::Drop(reason) => reason.explanation(),
        Verdict::Pass(PassReason::NoService) => {
            "left to this host: no service has this address, protocol and port"
        }
        Verdict::Pass(PassReason::NoBackend) => {
            "left to this host: no usable backend, and the service says when_empty: pass"
        }
        Verdict::Pass(PassReason::NotOurMac) => {
            "left to this host: the frame is to another MAC address than the interface's"
        }
        Verdict::Pass(_) => "left to this host, which looks at it itself",
    };
    text.into()
}
