//! The configured interfaces, as found on this host.

use director_common::interface::INTERFACE_MACS;

use super::{HostError, HostErrors, hidden_tags};
use crate::{
    kernel::{
        datapath::Attached,
        net::{Link, Netlink},
    },
    policy::config::{
        Config,
        model::{AttachMode, Role},
    },
};

/// Finds every configured interface among this host's `links`.
///
/// # Errors
///
/// Each interface that does not exist or cannot be used; if none is configured.
pub fn interfaces(
    netlink: &Netlink,
    links: &[Link],
    config: &Config,
) -> Result<Vec<Attached>, HostErrors> {
    if config.interfaces.is_empty() {
        return Err(HostErrors(vec![HostError::NoInterfaces]));
    }
    let (found, errors) = present_interfaces(netlink, links, config);
    if errors.is_empty() { Ok(found) } else { Err(HostErrors(errors)) }
}

/// Finds the configured interfaces among this host's `links`, and what is wrong with the others.
pub fn present_interfaces(
    netlink: &Netlink,
    links: &[Link],
    config: &Config,
) -> (Vec<Attached>, Vec<HostError>) {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for interface in &config.interfaces {
        let name = || interface.name.clone();
        let Some(link) = links.iter().find(|link| link.name == interface.name) else {
            let present = links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>();
            errors.push(HostError::NoSuchInterface { name: name(), present: present.join(", ") });
            continue;
        };
        if !link.ethernet {
            errors.push(HostError::NotEthernet { name: name() });
            continue;
        }
        // Only what receives sees received tags.
        let has = |link: &Link, offload: &str| has_offload(netlink, &link.name, offload);
        if interface.mode == AttachMode::Generic
            && interface.role == Role::Both
            && let Some(tags) = hidden_tags(link, links, has)
        {
            errors.push(HostError::HiddenTags { name: name(), tags });
            continue;
        }
        found.push(Attached {
            name: name(),
            ifindex: link.index,
            mode: interface.mode,
            role: interface.role,
            macs: macs(link, links),
            program: link.xdp.map(|xdp| xdp.prog_id),
            above: above(link, links),
        });
    }
    (found, errors)
}

/// Indices of the devices above an interface.
fn above(link: &Link, links: &[Link]) -> Vec<u32> {
    let on_it = links.iter().filter(|other| other.parent == Some(link.index));
    on_it.map(|other| other.index).chain(link.master).collect()
}

/// Whether a device has an offload; a driver that fails the query counts as one without.
fn has_offload(netlink: &Netlink, device: &str, offload: &str) -> bool {
    let features = netlink.features(device).unwrap_or_default();
    features.iter().any(|feature| feature.name == offload && feature.active)
}

/// The MACs whose frames the interface accepts: its own, and those of devices on top of it that
/// have one of their own (VRRP's macvlans, VLAN devices).
fn macs(link: &Link, links: &[Link]) -> Vec<[u8; 6]> {
    let mut macs = vec![link.mac];
    let on_top = links.iter().filter(|other| other.parent == Some(link.index));
    for mac in on_top.map(|other| other.mac) {
        if !macs.contains(&mac) && macs.len() < INTERFACE_MACS {
            macs.push(mac);
        }
    }
    macs
}
