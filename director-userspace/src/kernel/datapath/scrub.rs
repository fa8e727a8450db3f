//! Compares what no plan covers with what it should be: another process may have written to it.
//!
//! A plan compares services, backends and keys. This module compares the contents of rings, the
//! filter of VIPs, interfaces and flow timeouts: a wrong bit in one of them misdirects packets just
//! the same.

use std::{collections::HashMap, sync::atomic::Ordering};

use director_common::{
    interface::{INTERFACE_MACS, Interface, MAX_INTERFACES},
    service::{RING_CHUNKS, Service},
    tunables::Ticks,
    wire::ethernet::mac_to_u64,
};

use super::{Attached, Datapath, Tables, attachments::write_interface, filter, open::set_timeouts};
use crate::policy::{config::model::Flows, plan::ring_of};

/// Most rings that are read per call: 256 KiB each.
const RINGS_AT_ONCE: usize = 64;

/// What the last calls read.
#[derive(Debug, Default)]
pub struct Scrub {
    /// By service slot.
    rings: HashMap<u32, Seen>,
    /// The service slot that is read next.
    next: u32,
    /// Interfaces' slots, by index: programs are loaded with their own.
    slots: HashMap<u32, u32>,
}

/// A ring, what it was built from, and what it held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    ring: u32,
    fingerprint: u64,
    contents: u64,
}

impl Datapath {
    /// Repairs what differs from the last call, or from `interfaces` and `flows`; returns what
    /// differed. A ring whose contents changed counts as never built: the next plan builds it
    /// again. Each call reads some rings only, in turn.
    pub fn scrub(
        &mut self,
        scrub: &mut Scrub,
        interfaces: &[Attached],
        flows: &Flows,
    ) -> Vec<String> {
        let tables = &mut self.tables;
        let mut found = scrub.rings(tables);
        found.extend(admit_all(tables));
        found.extend(scrub.interfaces(tables, interfaces));
        let tunables = tables.tunables.get(0);
        let is = [tunables.tcp_ticks, tunables.tcp_closing_ticks, tunables.udp_ticks];
        let wanted = [flows.tcp, flows.tcp_closing, flows.udp];
        if is != wanted.map(|time| Ticks::from_duration(time).0) {
            set_timeouts(tables, flows);
            found.push("flow timeouts".to_owned());
        }
        found
    }
}

impl Scrub {
    fn rings(&mut self, tables: &Tables) -> Vec<String> {
        let count = tables.services.len();
        let (mut found, mut read) = (Vec::new(), 0);
        for at in 0..count {
            let slot = (self.next + at) % count;
            let service = tables.services.get(slot);
            let ring = if service.word.in_use() { ring_of(service.word) } else { None };
            let (Some(ring), fingerprint @ 1..) = (ring, service.ring_fingerprint) else {
                self.rings.remove(&slot);
                continue;
            };
            if read == RINGS_AT_ONCE {
                self.next = slot;
                return found;
            }
            read += 1;
            if (ring + 1) * RING_CHUNKS > tables.rings.len() {
                // There is no such ring; the next plan finds that too.
                continue;
            }
            let now = Seen { ring, fingerprint, contents: contents(tables, ring) };
            let before = self.rings.insert(slot, now);
            let is_same = |before: &Seen| (before.ring, before.fingerprint) == (ring, fingerprint);
            if before.filter(is_same).is_some_and(|before| before != now) {
                self.rings.remove(&slot);
                let at = std::mem::offset_of!(Service, ring_fingerprint);
                tables.services.publish(slot, at, 0);
                let name = tables.service_meta.get(slot).name;
                let name = String::from_utf8_lossy(&name);
                found.push(format!("ring of {}", name.trim_end_matches('\0')));
            }
        }
        found
    }

    fn interfaces(&mut self, tables: &mut Tables, interfaces: &[Attached]) -> Vec<String> {
        let mut found = Vec::new();
        for slot in 1..MAX_INTERFACES {
            let index = tables.interfaces.get(slot).ifindex;
            if interfaces.iter().any(|interface| interface.ifindex == index) {
                self.slots.insert(index, slot);
            }
        }
        self.slots.retain(|index, _| interfaces.iter().any(|i| i.ifindex == *index));
        for interface in interfaces {
            let Some(&slot) = self.slots.get(&interface.ifindex) else { continue };
            let mut macs = [0; INTERFACE_MACS];
            for (place, mac) in macs.iter_mut().zip(&interface.macs) {
                *place = mac_to_u64(*mac);
            }
            let Interface { macs: there, ifindex, .. } = tables.interfaces.get(slot);
            if (there, ifindex) != (macs, interface.ifindex) {
                write_interface(tables, slot, interface);
                found.push(format!("interface {}", interface.name));
            }
            let index = interface.ifindex;
            // A removed interface cannot be an egress port; its removal is an event of its own.
            if tables.tx_ports.get(index, 0).is_err()
                && tables.tx_ports.insert(index, index, None, 0).is_ok()
            {
                found.push(format!("{} as an egress port", interface.name));
            }
        }
        found
    }
}

/// Lets packets for every service through to the lookup; returns what was repaired if some were
/// not.
fn admit_all(tables: &Tables) -> Option<String> {
    let services = (0..tables.services.len()).map(|slot| tables.services.get(slot));
    let mut was_complete = true;
    for service in services.filter(|service| service.word.in_use()) {
        was_complete &= filter::admit(tables, &service.key);
    }
    (!was_complete).then(|| "filter of VIPs".to_owned())
}

/// A hash of a ring's contents.
fn contents(tables: &Tables, ring: u32) -> u64 {
    let first = ring * RING_CHUNKS;
    let mut sum = 0u64;
    for chunk in first..first + RING_CHUNKS {
        for at in (0..64).step_by(8) {
            let word = tables.rings.word(chunk, at).load(Ordering::Relaxed);
            // FNV-1a, a word at a time.
            sum = (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
    }
    sum
}
