//! Whether the program did with a frame what the [`model`](crate::model) expects.

use std::{collections::HashMap, net::IpAddr};

use director_common::{
    decision::Connection,
    verdict::{DropReason, PassReason, ReplyReason, Verdict},
};
use director_userspace::policy::config::model::{Config, ForwardMode, Service, WhenEmpty};

use crate::{
    case::direct,
    given::Seen,
    model::{Class, Expected, Flaw, Flow, classify, expected},
    read,
};

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Passed to the host.
    Passed,
    /// A fragment for a service, dropped.
    Fragment,
    /// For a service.
    Service,
}

/// Compares results with the model's, frame by frame.
#[derive(Debug)]
pub struct Oracle {
    config: Config,
    /// MTU towards the backends, bytes.
    mtu: u16,
    /// The backend of each flow so far. The configuration never changes, so it stays the same.
    flows: HashMap<Flow, IpAddr>,
}

impl Oracle {
    /// For a director with this configuration.
    pub fn new(config: Config, mtu: u16) -> Self {
        Self { config, mtu, flows: HashMap::new() }
    }

    /// Forgets all flows.
    pub fn forget(&mut self) {
        self.flows.clear();
    }

    /// Compares the result for a frame.
    ///
    /// # Errors
    ///
    /// What differs, with the frame.
    pub fn check(&mut self, frame: &[u8], seen: &Seen) -> Result<Kind, String> {
        let class = classify(frame);
        let expected = expected(&class, &self.config);
        let kind = match (expected, seen.verdict) {
            (Expected::Pass, Verdict::Pass(reason)) => {
                if seen.frame == frame && reason != PassReason::NoBackend {
                    Ok(Kind::Passed)
                } else {
                    Err("passed, but changed".into())
                }
            }
            (Expected::Fragment, Verdict::Drop(DropReason::Fragment)) => Ok(Kind::Fragment),
            (Expected::Service(service), _) => {
                forwarded(frame, &class, service, seen, &mut self.flows, self.mtu)
                    .map(|()| Kind::Service)
            }
            _ => Err("another verdict".to_owned()),
        };
        kind.map_err(|what| format!("{what}: {frame:02x?}\n{class:?}, {expected:?}\n{seen:02x?}"))
    }
}

/// Checks the result for a packet of a service.
fn forwarded(
    frame: &[u8],
    class: &Class,
    service: &Service,
    seen: &Seen,
    flows: &mut HashMap<Flow, IpAddr>,
    mtu: u16,
) -> Result<(), String> {
    let Class::Flow { flow, is_error, l3_offset, l3_length, flaw } = *class else {
        return Err("only flows belong to services".into());
    };
    if seen.service.as_deref() != Some(service.name.to_string().as_str()) {
        return Err("another service".into());
    }
    if let Some(flaw) = flaw {
        let reason = match flaw {
            Flaw::HopLimit => DropReason::HopLimit,
            Flaw::Source => DropReason::MartianSource,
        };
        return if seen.verdict == Verdict::Drop(reason) {
            Ok(())
        } else {
            Err(format!("{flaw:?}, and not dropped for it"))
        };
    }
    let has_active = service.backends.iter().any(|backend| backend.weight > 0);
    if !has_active {
        return match (service.when_empty, seen.verdict) {
            (WhenEmpty::Pass, Verdict::Pass(PassReason::NoBackend)) if seen.frame == frame => {
                Ok(())
            }
            (WhenEmpty::Drop, Verdict::Drop(DropReason::NoBackend)) => Ok(()),
            // No reply is sent to errors, nor beyond the rate limit.
            (WhenEmpty::Reject, Verdict::Drop(DropReason::NoBackend)) => Ok(()),
            (WhenEmpty::Reject, Verdict::Reply(ReplyReason::NoBackend)) if !is_error => {
                replied(frame, l3_offset, l3_length, seen, 0)
            }
            _ => Err("not as configured by when_empty".into()),
        };
    }
    let backend = seen.backend.ok_or("no backend")?;
    if !service.backends.iter().any(|b| b.address == backend && b.weight > 0) {
        return Err("a backend with weight 0".into());
    }
    // The configuration never changes, so a flow has one backend, tracked or not.
    if *flows.entry(flow).or_insert(backend) != backend {
        return Err("a flow changed its backend".into());
    }
    if is_error && seen.connection == Connection::New {
        return Err("an error created a flow".into());
    }
    let overhead = match (service.forward, backend) {
        (ForwardMode::Direct, _) => 0,
        (ForwardMode::Tunnel, IpAddr::V4(_)) => 20,
        (ForwardMode::Tunnel, IpAddr::V6(_)) => 40,
    };
    if l3_length + overhead > usize::from(mtu) {
        // No path of IPv6 takes less than 1,280 bytes, and hosts believe no other report.
        let is_v6 = flow.destination.0.is_ipv6();
        let fits = if is_v6 { 1280 } else { mtu - overhead as u16 };
        if is_v6 && l3_length <= 1280 {
            return if seen.verdict == Verdict::Drop(DropReason::BelowMinimumMtu) {
                Ok(())
            } else {
                Err("no IPv6 path is this narrow".into())
            };
        }
        return match seen.verdict {
            Verdict::Drop(DropReason::TooBig) => Ok(()),
            Verdict::Reply(ReplyReason::TooBig) if !is_error => {
                replied(frame, l3_offset, l3_length, seen, fits)
            }
            _ => Err("too big, and forwarded".into()),
        };
    }
    if seen.verdict != Verdict::Tx {
        return Err("not forwarded".into());
    }
    let link = read::link(&seen.frame);
    if link.source != frame[..6] || !link.vlans.is_empty() {
        return Err("not from the director, or tagged".into());
    }
    let (received, sent) = (&frame[l3_offset..], &seen.frame[link.l3_offset..]);
    let inner = &received[..l3_length];
    if service.forward == ForwardMode::Direct {
        let kept = direct(received, l3_length, link.l3_offset);
        return if sent == kept { Ok(()) } else { Err("changed in transit".into()) };
    }
    // Checks checksum and lengths.
    let outer = read::outer(sent);
    if outer.destination != backend || outer.total_length != outer.header_length + l3_length {
        return Err("the outer header's address or length".into());
    }
    let v4 = flow.destination.0.is_ipv4();
    let tos = if v4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
    if outer.tos != tos || outer.ttl != 64 || outer.protocol != if v4 { 4 } else { 41 } {
        return Err("the outer header".into());
    }
    if &sent[outer.header_length..] == inner { Ok(()) } else { Err("changed in transit".into()) }
}

fn replied(
    frame: &[u8],
    l3_offset: usize,
    l3_length: usize,
    seen: &Seen,
    mtu: u16,
) -> Result<(), String> {
    let link = read::link(&seen.frame);
    if link.destination != frame[6..12]
        || link.source != frame[..6]
        || seen.frame[12..l3_offset] != frame[12..l3_offset]
    {
        return Err("not sent back to the source".into());
    }
    // Checks checksums and lengths.
    let error = read::error(&seen.frame[l3_offset..]);
    let packet = &frame[l3_offset..l3_offset + l3_length];
    if error.mtu != mtu || !packet.starts_with(&error.quote) || error.quote.len() < 28 {
        return Err("the error's MTU or quote".into());
    }
    Ok(())
}
