//! What a refusal does to counters and replies: from a stage's [`Refusal`] to the [`Verdict`].
//! Previous: any stage; next: `reply`, or the end.

use director_common::{
    service::WhenEmpty,
    verdict::{DropReason, PassReason, ReplyReason, Verdict},
};

use crate::{
    context::PacketContext,
    count,
    parse::Packet,
    reply,
    service::{self, ServiceMatch},
};

/// Why a stage does not let a packet go on. Nothing in the frame has changed.
#[derive(Clone, Copy)]
pub enum Refusal {
    /// A new flow of a service that has no usable backend.
    NoBackend(ServiceMatch),
    /// A packet of the service in this slot does not fit the path to its backend.
    TooBig {
        /// The service's slot.
        service: u16,
        /// Bytes of IP packet that its sender is told would fit.
        fits: u16,
    },
    /// A packet of the service in this slot cannot be forwarded.
    Dropped {
        /// The service's slot.
        service: u16,
        /// Why.
        reason: DropReason,
    },
}

/// Decides about a packet that a stage refused, and counts it for its service.
#[inline(always)]
pub fn decide(packet: &Packet, refusal: &Refusal, context: &PacketContext) -> Verdict {
    match *refusal {
        Refusal::NoBackend(service) => match service.word.when_empty() {
            WhenEmpty::Pass => Verdict::Pass(PassReason::NoBackend),
            WhenEmpty::Drop => dropped(service.slot, DropReason::NoBackend),
            WhenEmpty::Reject => answered(
                packet,
                service.slot,
                context,
                ReplyReason::NoBackend,
                DropReason::NoBackend,
            ),
        },
        Refusal::TooBig { service, fits } if packet.l3_length <= u32::from(fits) => {
            dropped(service, DropReason::BelowMinimumMtu)
        }
        Refusal::TooBig { service, .. } => {
            answered(packet, service, context, ReplyReason::TooBig, DropReason::TooBig)
        }
        Refusal::Dropped { service, reason } => dropped(service, reason),
    }
}

/// Fragments cannot be told apart by port, so those for a service's address and protocol are dropped:
/// if they were passed, the host would answer instead of the backend.
#[inline(always)]
pub fn fragment(packet: &Packet) -> Verdict {
    match service::of_any_port(&packet.flow) {
        Some(slot) => dropped(slot, DropReason::Fragment),
        None => Verdict::Pass(PassReason::NoService),
    }
}

/// The client is told, if the limit on errors and RFC 1122 allow it; else the packet is dropped.
#[inline(always)]
fn answered(
    packet: &Packet,
    service: u16,
    context: &PacketContext,
    reply: ReplyReason,
    drop: DropReason,
) -> Verdict {
    if reply::allowed(packet, context) {
        count::service_dropped(service);
        Verdict::Reply(reply)
    } else {
        dropped(service, drop)
    }
}

/// A packet of this service is dropped.
#[inline(always)]
pub fn dropped(service: u16, reason: DropReason) -> Verdict {
    count::service_dropped(service);
    Verdict::Drop(reason)
}
