//! Stage 3: which service is the packet for? Previous: `flow_table` (miss); next: `schedule`.
//! Reads SERVICE_KEYS and SERVICES.

use core::ptr::read_volatile;

use director_common::{
    flow::FlowKey,
    service::{Service, ServiceKey, ServiceWord, WhenEmpty},
    verdict::{DropReason, PassReason, ReplyReason, Verdict},
};

use crate::{count, maps, parse::Packet, pipeline::Now, reply};

/// A service, as of one moment.
pub struct Matched {
    /// Its slot.
    pub slot: u16,
    /// Its ring.
    pub word: ServiceWord,
}

/// The service of exactly this port, else the one of any port.
#[inline(always)]
pub fn find(flow: &FlowKey) -> Option<Matched> {
    let exact = ServiceKey::exact(flow);
    match lookup(&exact) {
        Some(matched) => Some(matched),
        None => lookup(&exact.any_port()),
    }
}

#[inline(always)]
fn lookup(key: &ServiceKey) -> Option<Matched> {
    let slot = slot_of(key)?;
    let service: *const Service = maps::SERVICES.get_ptr(slot)?;
    // SAFETY: the map's lookup returned it. Volatile: the word is replaced while we look.
    let (word, found) =
        unsafe { (ServiceWord(read_volatile(&raw const (*service).word.0)), &(*service).key) };
    // The hash map's element may have been given to another key while we held it.
    if !word.in_use() || found != key {
        return None;
    }
    Some(Matched { slot: slot as u16, word })
}

#[inline(always)]
fn slot_of(key: &ServiceKey) -> Option<u32> {
    // SAFETY: four bytes that userspace writes once, before the service is in use.
    maps::SERVICE_KEYS.get_ptr(key).map(|slot| unsafe { *slot })
}

/// Fragments cannot be told apart by port, so those for a service's address and protocol are
/// dropped: passed on, the host would answer in the backend's place.
#[inline(always)]
pub fn fragment(packet: &Packet) -> Verdict {
    match slot_of(&ServiceKey::exact(&packet.flow).presence()) {
        Some(slot) => dropped(slot as u16, DropReason::Fragment),
        None => Verdict::Pass(PassReason::NoService),
    }
}

/// A packet of this service is dropped.
#[inline(always)]
pub fn dropped(slot: u16, reason: DropReason) -> Verdict {
    count::service_dropped(slot);
    Verdict::Drop(reason)
}

/// What a new flow gets when the service has no usable backend.
#[inline(always)]
pub fn empty(packet: &Packet, matched: &Matched, now: &Now) -> Verdict {
    match matched.word.when_empty() {
        WhenEmpty::Pass => Verdict::Pass(PassReason::NoBackend),
        WhenEmpty::Reject if reply::allowed(packet, now) => {
            count::service_dropped(matched.slot);
            Verdict::Reply(ReplyReason::NoBackend)
        }
        WhenEmpty::Reject | WhenEmpty::Drop => dropped(matched.slot, DropReason::NoBackend),
    }
}

/// A packet that does not fit the way to its backend.
#[inline(always)]
pub fn too_big(slot: u16, packet: &Packet, now: &Now) -> Verdict {
    if reply::allowed(packet, now) {
        count::service_dropped(slot);
        Verdict::Reply(ReplyReason::TooBig)
    } else {
        dropped(slot, DropReason::TooBig)
    }
}
