//! Pinned links: which interfaces carry this instance's program, and taking it off them.

use std::{fs, io::ErrorKind};

use super::{Attached, DatapathError, Instance, link};
use crate::policy::config::model::AttachMode;

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

    pub(super) fn file_name(&self) -> String {
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

/// Detaches the program from an interface, if it is on it.
pub(super) fn detach_from(instance: &Instance, interface: &str) -> Result<(), DatapathError> {
    for pin in link_pins(instance)?.iter().filter(|pin| pin.interface == interface) {
        link::detach(&instance.link_pins().join(pin.file_name()))?;
    }
    Ok(())
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
