//! Programs on interfaces: attach, replace, detach.
//!
//! Each interface carries a copy of the program, loaded with its slot. The link is pinned, so
//! forwarding does not need this process, and a later one replaces the program through the pin
//! without losing a packet.

use std::{collections::BTreeMap, fs, io::ErrorKind, mem::offset_of, path::Path};

use aya::maps::{MapError, xdp::XdpMapError};
use aya::programs::{
    ProgramError, ProgramInfo, Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    xdp::XdpLink,
};
use director_common::{
    abi::ProgramMode,
    backend::{Backend, NextHop},
    interface::{INTERFACE_MACS, Interface, MAX_INTERFACES},
    wire::ethernet::mac_to_u64,
};

use super::{
    Datapath, DatapathError, Instance, Tables, link,
    load::{self, Constants},
    object,
};
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
        for slot in (0..MAX_INTERFACES).filter(|slot| !self.slots.values().any(|s| s == slot)) {
            let old = tables.interfaces.get(slot);
            if old == Interface::default() {
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

    /// The slot of the interface with this index.
    pub fn slot(&self, ifindex: u32) -> Option<u32> {
        self.slots.get(&ifindex).copied()
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

impl Datapath {
    /// Attaches the program to every interface, or replaces what an earlier process of this
    /// instance attached; detaches it from interfaces that are not named. On an error, what this
    /// call attached is detached again.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Foreign`] and others, each naming the interface.
    pub fn attach(
        &mut self,
        interfaces: &[Attached],
        attachments: &Attachments,
    ) -> Result<(), DatapathError> {
        let mut fresh = Vec::new();
        for interface in interfaces {
            match self.attach_one(interface, attachments) {
                Ok(Before::Ours) => {}
                Ok(Before::Nothing) => fresh.push((interface, None)),
                Ok(Before::OtherMode(mode)) => fresh.push((interface, Some(mode))),
                Err(error) => {
                    for (interface, mode) in fresh {
                        let pin =
                            self.instance.link_pins().join(LinkPin::of(interface).file_name());
                        let _ = link::detach(&pin);
                        // Back to the mode that it was in: what was in effect stays.
                        if let Some(mode) = mode {
                            let was = Attached { mode, ..interface.clone() };
                            let _ = self.attach_one(&was, attachments);
                        }
                    }
                    return Err(error);
                }
            }
        }
        for pin in link_pins(&self.instance)? {
            if !interfaces.iter().any(|interface| interface.name == pin.interface) {
                link::detach(&self.instance.link_pins().join(pin.file_name()))?;
            }
        }
        // No program uses the smaller maps any more, if there were any.
        super::grow::finish(&self.instance)
    }

    /// The slot of the interface with this index.
    pub fn interface_slot(&self, ifindex: u32) -> Option<u32> {
        (1..MAX_INTERFACES).find(|slot| self.tables.interfaces.get(*slot).ifindex == ifindex)
    }

    /// The constants of the program on the interface in this slot.
    pub(super) fn constants(&self, interface_slot: u32) -> Constants {
        let meta = self.tables.meta();
        Constants {
            hash_key: meta.hash_key,
            table_salt: meta.table_salt,
            table_bits: meta.table_bits,
            interface_slot,
            own_mac: self.tables.interfaces.get(interface_slot).macs[0],
            mode: ProgramMode::Forward,
            clients: self.clients,
        }
    }

    /// Attaches the program to one interface; returns what it carried before.
    pub(super) fn attach_one(
        &self,
        interface: &Attached,
        attachments: &Attachments,
    ) -> Result<Before, DatapathError> {
        let meta = self.tables.meta();
        let sizes = super::Sizes { table_bits: meta.table_bits, backends: 1, rings: 1 };
        let interface_slot = attachments.slot(interface.ifindex).unwrap_or(0);
        let constants = self.constants(interface_slot);
        let mut ebpf = load::load(sizes, &constants, Some(&|name| self.instance.map_pin(name)))?;
        let program = match interface.role {
            Role::Both => {
                // The present one may use maps that are replaced; the tracing process loads
                // another.
                load::clear_traced(&mut ebpf, interface_slot)?;
                load::verify_both(&mut ebpf, interface_slot)?
            }
            Role::Egress => load::verify(&mut ebpf, object::EGRESS_PROGRAM)?,
        };
        let directory = self.instance.link_pins();
        let pin = LinkPin::of(interface);
        let mut replaced = None;
        let mut ended = None;
        for other in link_pins(&self.instance)? {
            if other == pin {
                let path = directory.join(pin.file_name());
                let failed = |error| DatapathError::Link { path: path.clone(), error };
                let link: FdLink = PinnedLink::from_pin(&path).map_err(failed)?.into();
                replaced = Some(XdpLink::try_from(link).map_err(failed)?);
            } else if other.interface == pin.interface || other.ifindex == pin.ifindex {
                // The interface was created again, or its mode changed: a link cannot follow.
                link::detach(&directory.join(other.file_name()))?;
                ended = Some(other).filter(|other| other.ifindex == pin.ifindex);
            }
        }
        let Some(link) = replaced else {
            let result = pin_new_link(program, interface, &directory.join(pin.file_name()));
            if let (Err(_), Some(old)) = (&result, &ended) {
                // Back to the mode that it was in: what was in effect stays.
                let was = Attached { mode: old.mode, ..interface.clone() };
                let _ = pin_new_link(program, &was, &directory.join(old.file_name()));
            }
            return result
                .map(|()| ended.map_or(Before::Nothing, |old| Before::OtherMode(old.mode)));
        };
        let failed = |error| DatapathError::Attach { interface: interface.name.clone(), error };
        let id = program.attach_to_link(link).map_err(failed)?;
        // The pin holds the link; this handle may be dropped.
        program.take_link(id).map_err(failed)?;
        Ok(Before::Ours)
    }
}

/// What an interface carried before this instance's program was put on it.
pub(super) enum Before {
    /// This instance's program, in the same mode.
    Ours,
    /// None of this instance's.
    Nothing,
    /// This instance's program in this mode, which was detached first.
    OtherMode(AttachMode),
}

/// The parsed name of a pinned link: `INTERFACE:INDEX:MODE`, an interface's dots written as double
/// colons, since bpffs allows no dots and interface names no colons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPin {
    /// The interface's name when it was attached.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Native or generic.
    pub mode: AttachMode,
}

impl LinkPin {
    pub(super) fn of(interface: &Attached) -> Self {
        Self { interface: interface.name.clone(), ifindex: interface.ifindex, mode: interface.mode }
    }

    fn file_name(&self) -> String {
        format!("{}:{}:{}", self.interface.replace('.', "::"), self.ifindex, self.mode)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.rsplitn(3, ':');
        let mode = parts.next()?;
        let mode = *AttachMode::ALL.iter().find(|m| m.as_str() == mode)?;
        let ifindex = parts.next()?.parse().ok()?;
        let interface = parts.next()?.replace("::", ".");
        Some(Self { interface, ifindex, mode })
    }
}

/// Pinned links, by name.
pub(super) fn link_pins(instance: &Instance) -> Result<Vec<LinkPin>, DatapathError> {
    let path = instance.link_pins();
    let failed = |error| DatapathError::File { path: path.clone(), error };
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut pins = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        pins.extend(name.to_str().and_then(LinkPin::parse));
    }
    pins.sort_by(|a, b| a.interface.cmp(&b.interface));
    Ok(pins)
}

/// Interfaces that this instance's program is on.
///
/// # Errors
///
/// If the pins cannot be listed.
pub fn attached(instance: &Instance) -> Result<Vec<LinkPin>, DatapathError> {
    link_pins(instance)
}

/// Detaches the program from `interfaces`, or from all if none is named; with the last one, removes
/// the maps and every pin. Returns the interfaces it was on.
///
/// # Errors
///
/// [`DatapathError::NotAttached`] if nothing is pinned, or not on an interface that is named.
pub fn detach(instance: &Instance, interfaces: &[String]) -> Result<Vec<String>, DatapathError> {
    let pins = link_pins(instance)?;
    if !instance.pins().exists() {
        return Err(DatapathError::NotAttached(instance.name().into()));
    }
    if let Some(name) = interfaces.iter().find(|name| !pins.iter().any(|p| p.interface == **name)) {
        return Err(DatapathError::NotOn(name.clone()));
    }
    let (gone, stay): (Vec<_>, Vec<_>) = pins
        .into_iter()
        .partition(|pin| interfaces.is_empty() || interfaces.contains(&pin.interface));
    for pin in &gone {
        link::detach(&instance.link_pins().join(pin.file_name()))?;
    }
    if stay.is_empty() {
        remove_pins(instance)?;
    }
    Ok(gone.into_iter().map(|pin| pin.interface).collect())
}

/// Removes every pin of the instance: programs and maps are freed with their last user.
pub(super) fn remove_pins(instance: &Instance) -> Result<(), DatapathError> {
    let path = instance.pins();
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(DatapathError::File { path, error });
        }
        _ => {}
    }
    // The directory of all instances, if this was the last.
    if let Some(parent) = path.parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

fn pin_new_link(program: &mut Xdp, interface: &Attached, pin: &Path) -> Result<(), DatapathError> {
    let name = || interface.name.clone();
    let mode = match interface.mode {
        AttachMode::Native => XdpMode::Driver,
        AttachMode::Generic => XdpMode::Skb,
    };
    let id = program.attach_to_if_index(interface.ifindex, mode).map_err(|error| {
        let errno = match &error {
            ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
            _ => None,
        };
        match errno {
            Some(libc::EBUSY | libc::EEXIST) => match interface.program {
                Some(id) => foreign(interface, id),
                None => DatapathError::Attach { interface: name(), error },
            },
            Some(code @ (libc::EOPNOTSUPP | libc::ERANGE))
                if interface.mode == AttachMode::Native =>
            {
                let error = std::io::Error::from_raw_os_error(code);
                DatapathError::NoNativeXdp { interface: name(), error }
            }
            _ => DatapathError::Attach { interface: name(), error },
        }
    })?;
    let link = program
        .take_link(id)
        .map_err(|error| DatapathError::Attach { interface: name(), error })?;
    // A link attached by netlink would stay when this process is killed, and cannot be pinned.
    let link: FdLink = link.try_into().map_err(|_: LinkError| DatapathError::NoLinks)?;
    link.pin(pin).map_err(|error| DatapathError::Pin { path: pin.to_path_buf(), error })?;
    Ok(())
}

/// The error that names the program `id` on an interface.
fn foreign(interface: &Attached, id: u32) -> DatapathError {
    let name = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|program: &ProgramInfo| program.id() == id)
        .and_then(|program| program.name_as_str().map(ToOwned::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "(unnamed)".into());
    DatapathError::Foreign { interface: interface.name.clone(), name, id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_survive_dots_and_dashes() {
        for interface in ["eth0", "bond0.100", "veth-a.b.c"] {
            let pin =
                LinkPin { interface: interface.into(), ifindex: 7, mode: AttachMode::Generic };
            assert!(!pin.file_name().contains('.'));
            assert_eq!(LinkPin::parse(&pin.file_name()), Some(pin));
        }
        assert_eq!(LinkPin::parse("eth0"), None);
    }
}
