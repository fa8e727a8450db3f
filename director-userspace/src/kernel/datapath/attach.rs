//! Programs on interfaces: attach, replace, detach.
//!
//! Each interface carries a copy of the program, loaded with its slot. The link is pinned, so
//! forwarding does not need this process, and a later one replaces the program through the pin
//! without losing a packet.

use std::{os::fd::AsFd as _, path::Path};

use aya::programs::{
    ProgramError, ProgramFd, ProgramInfo, Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    xdp::XdpLink,
};
use director_common::{abi::ProgramMode, interface::MAX_INTERFACES, wire::ethernet::mac_to_u64};

use super::{
    Attached, Attachments, Datapath, DatapathError, LinkPin, link,
    link_pins::link_pins,
    load::{self, Constants},
    object,
};
use crate::policy::config::model::{AttachMode, Role};

impl Datapath {
    /// Attaches the program to every interface, or replaces what an earlier process of this
    /// instance attached; detaches it from interfaces that are not named. On an error of an
    /// interface that must not fail, what this call attached is detached again. Returns the errors
    /// of interfaces that `may_fail`.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Foreign`] and others, each naming the interface.
    pub fn attach(
        &mut self,
        interfaces: &[Attached],
        attachments: &Attachments,
        may_fail: &dyn Fn(&Attached) -> bool,
    ) -> Result<Vec<AttachError>, DatapathError> {
        let all: Vec<&Attached> = interfaces.iter().collect();
        let failed = self.attach_some(&all, attachments, may_fail)?;
        self.detach_others(interfaces)?;
        // No program uses the smaller maps any more, if there were any.
        super::grow::finish(&self.instance)?;
        Ok(failed)
    }

    /// As [`Datapath::attach`], for some of the instance's interfaces; the others stay.
    ///
    /// # Errors
    ///
    /// As [`Datapath::attach`].
    pub fn attach_some(
        &self,
        interfaces: &[&Attached],
        attachments: &Attachments,
        may_fail: &dyn Fn(&Attached) -> bool,
    ) -> Result<Vec<AttachError>, DatapathError> {
        let mut fresh = Vec::new();
        let mut failed = Vec::new();
        for interface in lowest_first(interfaces) {
            match self.attach_one(interface, attachments) {
                Ok(Before::Ours) => {}
                Ok(Before::Nothing) => fresh.push((interface, None)),
                Ok(Before::OtherMode(mode)) => fresh.push((interface, Some(mode))),
                Err(error) if may_fail(interface) => {
                    failed.push(AttachError { interface: interface.name.clone(), error });
                }
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
        Ok(failed)
    }

    /// Detaches the program from interfaces that are not named.
    ///
    /// # Errors
    ///
    /// If a pin cannot be listed or removed.
    pub fn detach_others(&self, interfaces: &[Attached]) -> Result<(), DatapathError> {
        for pin in link_pins(&self.instance)? {
            if !interfaces.iter().any(|interface| interface.name == pin.interface) {
                link::detach(&self.instance.link_pins().join(pin.file_name()))?;
            }
        }
        Ok(())
    }

    /// What the program on an interface is, or would be, loaded with.
    pub fn loaded_for(&self, interface: &Attached, attachments: &Attachments) -> Loaded {
        let interface_slot = attachments.slot(interface.ifindex).unwrap_or(0);
        let own_mac = interface.macs.first().map_or(0, |mac| mac_to_u64(*mac));
        let constants = Constants { own_mac, ..self.constants(interface_slot) };
        let Attached { ifindex, mode, role, .. } = *interface;
        Loaded { ifindex, mode, role, constants }
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
        if let Some(id) = interface.program
            && !link_pins(&self.instance)?.iter().any(|pin| pin.ifindex == interface.ifindex)
        {
            // Loading the program only to be refused would take a good part of a second.
            return Err(foreign(interface, id));
        }
        let meta = self.tables.meta();
        let sizes = super::Sizes { table_bits: meta.table_bits, backends: 1, rings: 1 };
        let interface_slot = attachments.slot(interface.ifindex).unwrap_or(0);
        let constants = self.loaded_for(interface, attachments).constants;
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
        if let Some(link) = replaced {
            match program.attach_to_link(link) {
                Ok(id) => {
                    // The pin holds the link; this handle may be dropped.
                    let failed =
                        |error| DatapathError::Attach { interface: interface.name.clone(), error };
                    program.take_link(id).map_err(failed)?;
                    return Ok(Before::Ours);
                }
                // Another interface had this name and index once, and is gone: so is what its link
                // was for.
                Err(error) if is_severed(&error) => {
                    link::detach(&directory.join(pin.file_name()))?;
                }
                Err(error) => {
                    let interface = interface.name.clone();
                    return Err(DatapathError::Attach { interface, error });
                }
            }
        }
        let result = self.pin_below_others(program, interface, &directory.join(pin.file_name()));
        if let (Err(_), Some(old)) = (&result, &ended) {
            // Back to the mode that it was in: what was in effect stays.
            let was = Attached { mode: old.mode, ..interface.clone() };
            let _ = pin_new_link(program, &was, &directory.join(old.file_name()));
        }
        result.map(|()| ended.map_or(Before::Nothing, |old| Before::OtherMode(old.mode)))
    }

    /// Attaches a program by a new link. The kernel refuses that while a device above the interface
    /// has a program (dev_xdp_attach, EEXIST): this instance's are taken off them for that moment.
    fn pin_below_others(
        &self,
        program: &mut Xdp,
        interface: &Attached,
        pin: &Path,
    ) -> Result<(), DatapathError> {
        let directory = self.instance.link_pins();
        let mut above = link_pins(&self.instance)?;
        above.retain(|pin| interface.above.contains(&pin.ifindex));
        if above.is_empty() {
            return pin_new_link(program, interface, pin);
        }
        let mut held = Vec::new();
        for pin in above {
            let path = directory.join(pin.file_name());
            held.extend(pinned_program(&path).map(|program| (pin, program)));
            link::detach(&path)?;
        }
        let result = pin_new_link(program, interface, pin);
        for (pin, program) in held {
            let path = directory.join(pin.file_name());
            let again = link::attach(program.as_fd(), pin.ifindex, pin.mode, &path);
            again.map_err(|error| DatapathError::File { path, error })?;
        }
        result
    }
}

/// The program of a pinned link.
fn pinned_program(path: &Path) -> Option<ProgramFd> {
    let link: FdLink = PinnedLink::from_pin(path).ok()?.into();
    let id = link.info().ok()?.program_id();
    let mut programs = aya::programs::loaded_programs().filter_map(Result::ok);
    programs.find(|program| program.id() == id)?.fd().ok()
}

/// Whether a link's interface is gone (`ENOLINK`).
fn is_severed(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOLINK),
        _ => false,
    }
}

/// An interface that the program could not be attached to, and why.
#[derive(Debug)]
pub struct AttachError {
    /// The interface's name.
    pub interface: String,
    /// Why.
    pub error: DatapathError,
}

/// The program on an interface, and its constants: what differs is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    ifindex: u32,
    mode: AttachMode,
    role: Role,
    constants: Constants,
}

/// Interfaces in an order that the kernel accepts: none before one below it.
fn lowest_first<'a>(interfaces: &[&'a Attached]) -> Vec<&'a Attached> {
    let mut left: Vec<&Attached> = interfaces.to_vec();
    let mut sorted = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let is_above = |one: &Attached| left.iter().any(|other| other.above.contains(&one.ifindex));
        // Devices do not form circles; if they did, the kernel would have the last word.
        let at = left.iter().position(|one| !is_above(one)).unwrap_or(0);
        sorted.push(left.remove(at));
    }
    sorted
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
