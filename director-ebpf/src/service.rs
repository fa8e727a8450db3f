//! Stage 4: which service is the packet for? Previous: `flow_table` (miss); next: `schedule`.
//! Reads SERVICE_KEYS and SERVICES.

use core::ptr::read_volatile;

use director_common::{
    flow::FlowKey,
    service::{Service, ServiceKey, ServiceWord},
    wire::{tcp::PROTOCOL_TCP, udp::PROTOCOL_UDP},
};

use crate::maps;

/// A service, as of one moment.
#[derive(Clone, Copy)]
pub struct ServiceMatch {
    /// Its slot.
    pub slot: u16,
    /// Its ring.
    pub word: ServiceWord,
}

/// The service of exactly this port, else the one of any port.
#[inline(always)]
pub fn find(flow: &FlowKey) -> Option<ServiceMatch> {
    let exact = ServiceKey::exact(flow);
    match lookup(&exact) {
        Some(service) => Some(service),
        None => lookup(&exact.any_port()),
    }
}

#[inline(always)]
fn lookup(key: &ServiceKey) -> Option<ServiceMatch> {
    let slot = slot_of(key)?;
    let service: *const Service = maps::SERVICES.get_ptr(slot)?;
    // SAFETY: the map's lookup returned it. Volatile: the word is replaced while packets read it.
    let (word, found) =
        unsafe { (ServiceWord(read_volatile(&raw const (*service).word.0)), &(*service).key) };
    // The hash map's element may have been reused for another key since the lookup.
    if !word.in_use() || found != key {
        return None;
    }
    Some(ServiceMatch { slot: slot as u16, word })
}

#[inline(always)]
fn slot_of(key: &ServiceKey) -> Option<u32> {
    // SAFETY: four bytes that userspace writes once, before the service is in use.
    maps::SERVICE_KEYS.get_ptr(key).map(|slot| unsafe { *slot })
}

/// The slot of any service with the flow's address and protocol: fragments do not tell their port,
/// and some not their protocol.
#[inline(always)]
pub fn of_any_port(flow: &FlowKey) -> Option<u16> {
    let mut key = ServiceKey::exact(flow).presence();
    if key.protocol != PROTOCOL_TCP && key.protocol != PROTOCOL_UDP {
        key.protocol = PROTOCOL_TCP;
        if let Some(slot) = slot_of(&key) {
            return Some(slot as u16);
        }
        key.protocol = PROTOCOL_UDP;
    }
    slot_of(&key).map(|slot| slot as u16)
}
