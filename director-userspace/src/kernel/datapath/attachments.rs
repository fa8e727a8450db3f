//! The interfaces' slots: what backends' next hops name, and what programs are loaded with.

use std::{collections::BTreeMap, mem::offset_of};

use aya::maps::{MapError, xdp::XdpMapError};
use director_common::{
    backend::{Backend, NextHop},
    interface::{INTERFACE_MACS, Interface, MAX_INTERFACES},
    wire::ethernet::mac_to_u64,
};

use super::{DatapathError, Tables};
use crate::policy::{
    config::model::{AttachMode, Role},
    plan::PlanError,
};

/// An interface to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: String,
    /// The kernel's index.
    pub ifindex: u32,
    /// Native or generic.
    pub mode: AttachMode,
    /// Receiving and sending, or only sending.
    pub role: Role,
    /// MACs that frames for this machine carry, the interface's own first.
    pub macs: Vec<[u8; 6]>,
    /// Id of the XDP program on it, of any owner.
    pub program: Option<u32>,
    /// Indices of the devices above it: VLAN devices and macvlans on it, and the bond that it is a
    /// port of. The kernel attaches no program below one that has one.
    pub above: Vec<u32>,
}

/// Interfaces by slot: what `plan::Paths` refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachments {
    slots: BTreeMap<u32, u32>,
}

impl Attachments {
    /// Finds a slot for every interface: the one it has, or a free one. Nothing is written: see
    /// [`Attachments::write`].
    ///
    /// # Errors
    ///
    /// [`PlanError::Full`] if all slots are taken.
    pub fn assign(tables: &Tables, interfaces: &[Attached]) -> Result<Self, DatapathError> {
        let used: BTreeMap<u32, u32> = (1..MAX_INTERFACES)
            .map(|slot| (tables.interfaces.get(slot).ifindex, slot))
            .filter(|(ifindex, _)| *ifindex != 0)
            .collect();
        let mut free = (1..MAX_INTERFACES).filter(|slot| !used.values().any(|s| s == slot));
        let mut slots = BTreeMap::new();
        for interface in interfaces {
            let full = PlanError::Full { what: "interfaces", capacity: MAX_INTERFACES - 1 };
            let slot = used.get(&interface.ifindex).copied().or_else(|| free.next()).ok_or(full)?;
            slots.insert(interface.ifindex, slot);
        }
        Ok(Self { slots })
    }

    /// Writes the interfaces into their slots and adds them as egress ports. Other slots are kept:
    /// see [`Attachments::prune`].
    ///
    /// # Errors
    ///
    /// If a map cannot be written.
    pub fn write(&self, tables: &mut Tables, interfaces: &[Attached]) -> Result<(), DatapathError> {
        for interface in interfaces {
            let Some(slot) = self.slot(interface.ifindex) else { continue };
            write_interface(tables, slot, interface);
            let failed = |error: XdpMapError| DatapathError::TxPort {
                interface: interface.name.clone(),
                error,
            };
            match tables.tx_ports.insert(interface.ifindex) {
                // Removed since it was listed: that is an event of its own, and the others are
                // still written. The kernel returns EINVAL for an unused index.
                Err(error) if errno(&error) == Some(libc::EINVAL) => {}
                result => result.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Clears interfaces that have no slot here, and next hops through them.
    pub fn prune(&self, tables: &mut Tables) {
        tables.tx_ports.retain(|index| self.slots.contains_key(&index));
        clear_slots(tables, |slot, _| !self.slots.values().any(|taken| *taken == slot));
    }

    /// Clears the slots of interfaces that the host has no more, and next hops through them: nothing
    /// can leave by them, and an interface that was made anew needs a slot.
    pub fn clear_gone(tables: &mut Tables, present: &[u32]) {
        tables.tx_ports.retain(|index| present.contains(&index));
        clear_slots(tables, |_, ifindex| !present.contains(&ifindex));
    }

    /// The slot of the interface with this index.
    pub fn slot(&self, ifindex: u32) -> Option<u32> {
        self.slots.get(&ifindex).copied()
    }
}

/// Clears the used slots that `is_unused` says so of, by slot and interface index.
fn clear_slots(tables: &mut Tables, is_unused: impl Fn(u32, u32) -> bool) {
    for slot in 0..MAX_INTERFACES {
        let old = tables.interfaces.get(slot);
        if old == Interface::default() || !is_unused(slot, old.ifindex) {
            continue;
        }
        for backend in 1..tables.backends.len() {
            let hop = tables.backends.get(backend).next_hop;
            if hop.is_resolved() && hop.interface() == slot {
                let at = offset_of!(Backend, next_hop);
                tables.backends.publish(backend, at, NextHop::UNRESOLVED.0);
            }
        }
        tables.interfaces.set(slot, Interface::default());
    }
}

/// The kernel's error number.
fn errno(error: &XdpMapError) -> Option<i32> {
    match error {
        XdpMapError::MapError(MapError::SyscallError(error)) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Writes an interface word by word: packets may be reading it.
pub(super) fn write_interface(tables: &Tables, slot: u32, interface: &Attached) {
    for at in 0..INTERFACE_MACS {
        let mac = interface.macs.get(at).map_or(0, |mac| mac_to_u64(*mac));
        tables.interfaces.publish(slot, offset_of!(Interface, macs) + at * 8, mac);
    }
    let at = offset_of!(Interface, ifindex);
    tables.interfaces.publish(slot, at, u64::from(interface.ifindex));
}
