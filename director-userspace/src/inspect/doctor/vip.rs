//! Checks of the VIPs: a host must answer ARP or neighbour discovery for each.

use std::net::IpAddr;

use super::{
    Finding,
    facts::{DirectorFacts, VipOwner},
};

pub(super) fn answered(facts: &DirectorFacts) -> Vec<Finding> {
    let ingress: Vec<&str> =
        facts.ingress().filter(|name| facts.host.link(name).is_some()).collect();
    let one = |vip| ingress.iter().map(move |interface| vip_on(facts, vip, interface));
    facts.vips().into_iter().flat_map(one).collect()
}

/// Whether traffic for a VIP on this interface's link arrives at this host.
fn vip_on(facts: &DirectorFacts, vip: IpAddr, interface: &str) -> Finding {
    let host = &facts.host;
    let subject = vip.to_string();
    let (protocol, bits) = if vip.is_ipv4() { ("ARP", 32) } else { ("neighbour discovery", 128) };
    let here = host
        .addresses
        .iter()
        .find(|a| a.address == vip)
        .and_then(|address| Some((address, host.link_at(address.link_index)?)));
    let on_interface = format!("ip address add {vip}/{bits} dev {interface}");
    let link = host.link(interface).map_or(0, |link| link.index);

    let Some((address, owner)) = here else {
        return elsewhere(facts, vip, interface);
    };
    if address.tentative {
        return Finding::fail(
            "vip",
            subject,
            format!(
                "is on {}, but is tentative: duplicate address detection has not accepted it",
                owner.name
            ),
            format!(
                "if no other host has it: `ip address delete {vip}/{} dev {}`, then `{on_interface} nodad`",
                address.prefix_len, owner.name
            ),
        );
    }
    if owner.name == interface {
        return Finding::ok("vip", subject, format!("is on {interface}, which answers {protocol}"));
    }
    // An IPv4 address belongs to the host: any interface answers, unless arp_ignore is set. An IPv6
    // address belongs to its interface.
    let silent = match vip {
        IpAddr::V4(_) => match host.ipv4_setting(interface, "arp_ignore") {
            0 => None,
            value => Some(format!("arp_ignore is {value}")),
        },
        IpAddr::V6(_) => Some("an interface answers only for its own IPv6 addresses".to_owned()),
    };
    match silent {
        None => Finding::ok(
            "vip",
            subject,
            format!("is on {}, and {interface} answers {protocol} for it", owner.name),
        ),
        Some(_) if !host.is_on_link(link, vip) => Finding::ok(
            "vip",
            subject,
            format!("is on {}, for routers that have a route to it by {interface}", owner.name),
        ),
        Some(why) => Finding::fail(
            "vip",
            subject,
            format!(
                "no host answers {protocol} for it on {interface}: it is on {} ({why})",
                owner.name
            ),
            format!("`{on_interface}`, or `assign_vips: true` on {interface}"),
        ),
    }
}

/// A VIP that this host does not have.
fn elsewhere(facts: &DirectorFacts, vip: IpAddr, interface: &str) -> Finding {
    let subject = vip.to_string();
    let (protocol, bits) = if vip.is_ipv4() { ("ARP", 32) } else { ("neighbour discovery", 128) };
    let assigns = facts.config.interfaces.iter().any(|i| i.name == interface && i.assign_vips);
    match facts.owners.get(&(interface.to_owned(), vip)) {
        Some(VipOwner::Host(mac)) if assigns => Finding::fail(
            "vip",
            subject,
            format!(
                "is at another host on {interface}, {}, and `assign_vips` would add it here too",
                mac_text(*mac)
            ),
            "take it off the other host, or set `assign_vips: false` on this one",
        ),
        Some(VipOwner::Host(mac)) => Finding::ok(
            "vip",
            subject,
            format!(
                "is at another host on {interface}, {}; this one is on standby",
                mac_text(*mac)
            ),
        ),
        Some(VipOwner::NoAnswer) if assigns => Finding::ok(
            "vip",
            subject,
            format!("no host has it yet; Director adds it to {interface} when it attaches"),
        ),
        Some(VipOwner::NoAnswer) => Finding::fail(
            "vip",
            subject,
            format!(
                "no host answers {protocol} for it on {interface}, and this host does not have it"
            ),
            format!(
                "`ip address add {vip}/{bits} dev {interface}`, or `assign_vips: true` on {interface}; \
                 if a router routes it here: `ip address add {vip}/{bits} dev lo`"
            ),
        ),
        Some(VipOwner::Unknown(why)) => Finding::warn(
            "vip",
            subject,
            format!("is not on this host, and the {protocol} lookup of its owner failed: {why}"),
            "fix that first, then run doctor again",
        ),
        None => Finding::warn(
            "vip",
            subject,
            format!("is not on this host, and its owner on {interface} was not looked up"),
            "run doctor again",
        ),
    }
}

pub(super) fn own_traffic(facts: &DirectorFacts) -> Vec<Finding> {
    if facts.config.services.is_empty() {
        return Vec::new();
    }
    let message = "connections from this host itself to a VIP do not pass XDP and are not \
                   balanced; test from another host";
    vec![Finding::ok("own-traffic", "this host", message)]
}

fn mac_text(mac: [u8; 6]) -> String {
    crate::policy::config::model::MacAddr(mac).to_string()
}
