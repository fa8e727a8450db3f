//! Checks of the paths to the backends: route, next hop, room for the tunnel's header.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Finding, facts::DirectorFacts};
use crate::{
    kernel::net::{NetError, NextHop},
    policy::config::model::{AttachMode, ForwardMode, TunnelSource},
};

/// The least MTU of a path: RFC 8200 section 5, and the size that every IPv4 host must accept.
const IPV6_MINIMUM_MTU: u32 = 1280;
const IPV4_MINIMUM_MTU: u32 = 576;
/// The longest packet that clients send from ordinary networks, in bytes.
const ETHERNET_MTU: u32 = 1500;

/// Backends with a resolved route: service, forwarding mode, address, next hop.
fn reachable(facts: &DirectorFacts) -> impl Iterator<Item = (&str, ForwardMode, IpAddr, &NextHop)> {
    facts.backends().filter_map(|(service, forward, backend)| {
        let hop = facts.next_hops.get(&backend.address)?.as_ref().ok()?;
        Some((service, forward, backend.address, hop))
    })
}

pub(super) fn routes(facts: &DirectorFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, forward, backend) in facts.backends() {
        let subject = backend.address.to_string();
        match facts.next_hops.get(&backend.address) {
            Some(Ok(hop)) if forward.needs_link() && !hop.on_link => {
                findings.push(Finding::fail(
                    "route",
                    subject,
                    format!(
                        "backend of {service} is behind the router {}, which with `forward: \
                         direct` would send the packets back to this host",
                        hop.neighbour
                    ),
                    "put the backend on the director's link, or use `forward: tunnel`",
                ));
            }
            Some(Ok(_)) => {}
            Some(Err(NetError::OwnAddress { .. })) => findings.push(Finding::fail(
                "route",
                subject,
                format!("backend of {service} is an address of this host"),
                "use another host's address: Director forwards packets, it does not serve them",
            )),
            Some(Err(error)) => findings.push(Finding::fail(
                "route",
                subject.clone(),
                format!("backend of {service} can't be reached: {error}"),
                format!("add a route: `ip route add {subject} via ROUTER`, or `dev INTERFACE`"),
            )),
            None => findings.push(Finding::warn(
                "route",
                subject,
                format!("the route to this backend of {service} could not be looked up"),
                "run doctor again",
            )),
        }
    }
    if findings.is_empty() && !facts.next_hops.is_empty() {
        let message =
            format!("there is a route to each of {}", count(facts.next_hops.len(), "backend"));
        findings.push(Finding::ok("route", "backends", message));
    }
    findings
}

pub(super) fn neighbours(facts: &DirectorFacts) -> Vec<Finding> {
    // Backends may share a router; a silent one is one finding, not one per backend.
    let mut silent: BTreeMap<(u32, IpAddr), BTreeSet<IpAddr>> = BTreeMap::new();
    let mut answered = BTreeSet::new();
    for (_, _, backend) in facts.backends().filter(|(_, _, b)| b.mac.is_none()) {
        let Some(Ok(hop)) = facts.next_hops.get(&backend.address) else {
            continue;
        };
        let key = (hop.route_link_index, hop.neighbour);
        let ethernet = facts.host.link_at(hop.route_link_index).is_none_or(|l| l.ethernet);
        if hop.mac.is_some() || !ethernet {
            answered.insert(key);
        } else {
            silent.entry(key).or_default().insert(backend.address);
        }
    }
    let mut findings: Vec<Finding> = silent
        .into_iter()
        .map(|((link, neighbour), backends)| silent_neighbour(facts, link, neighbour, &backends))
        .collect();
    if findings.is_empty() && !answered.is_empty() {
        let hops = count(answered.len(), "next hop");
        findings.push(Finding::ok("neighbour", "next hops", format!("{hops} resolved")));
    }
    findings
}

fn silent_neighbour(
    facts: &DirectorFacts,
    link: u32,
    neighbour: IpAddr,
    backends: &BTreeSet<IpAddr>,
) -> Finding {
    let interface = facts.host.name_of(link);
    let protocol = if neighbour.is_ipv4() { "ARP" } else { "neighbour discovery" };
    let own = backends.len() == 1 && backends.contains(&neighbour);
    let whose = if own {
        format!("backend {neighbour}")
    } else {
        format!("the next hop of {}", some_of(backends))
    };
    Finding::fail(
        "neighbour",
        neighbour.to_string(),
        format!("{whose} does not answer {protocol} on {interface}"),
        format!(
            "is it up, and in the subnet and VLAN of {interface}? `ip neighbour show {neighbour} \
             dev {interface}`; if it can't answer, give the backend a `mac:`"
        ),
    )
}

pub(super) fn neighbour_table(facts: &DirectorFacts) -> Vec<Finding> {
    let check = |(family, v4): (&str, bool)| {
        let path = format!("net/{family}/neigh/default/gc_thresh3");
        let limit = usize::try_from(facts.host.sysctl_number(&path)?).ok()?;
        let hops: BTreeSet<(u32, IpAddr)> = facts
            .next_hops
            .values()
            .flatten()
            .map(|hop| (hop.route_link_index, hop.neighbour))
            .filter(|(_, neighbour)| neighbour.is_ipv4() == v4)
            .collect();
        // Clients and other hosts on the links need entries too.
        (hops.len() * 2 > limit).then(|| {
            Finding::warn(
                "neighbour",
                path.replace('/', "."),
                format!(
                    "{} need entries, and the table holds {limit}",
                    count(hops.len(), "next hop")
                ),
                format!("`sysctl -w {}={}`", path.replace('/', "."), hops.len() * 4),
            )
        })
    };
    [("ipv4", true), ("ipv6", false)].into_iter().filter_map(check).collect()
}

pub(super) fn mtu(facts: &DirectorFacts) -> Vec<Finding> {
    let ingress = facts.ingress().filter_map(|name| Some((name, facts.host.link(name)?.mtu)));
    let Some((from, mtu)) = ingress.max_by_key(|(_, mtu)| *mtu) else {
        return Vec::new();
    };
    // An MTU raised for tunnels does not affect clients, which are on ordinary Ethernet.
    let longest = mtu.min(ETHERNET_MTU);
    // One finding for all backends that share an egress interface, its MTU and the families.
    type Tight = (u32, u32, u32, bool);
    let mut tight: BTreeMap<Tight, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut roomy = 0;
    for service in facts.config.services.iter().filter(|s| s.forward.encapsulates()) {
        for backend in &service.backends {
            let Some(Ok(hop)) = facts.next_hops.get(&backend.address) else {
                continue;
            };
            let overhead = u32::from(service.forward.overhead(backend.address.is_ipv6()));
            if longest + overhead <= hop.mtu {
                roomy += 1;
                continue;
            }
            let key = (hop.route_link_index, hop.mtu, overhead, service.frontend.address.is_ipv6());
            tight.entry(key).or_default().insert(backend.address);
        }
    }
    if tight.is_empty() && roomy > 0 {
        let message = format!("packets of {longest} bytes fit with the tunnel's header");
        return vec![Finding::ok("mtu", "tunnels", message)];
    }
    tight
        .into_iter()
        .map(|((link, mtu, overhead, inner_v6), backends)| {
            let egress = facts.host.name_of(link);
            let room = mtu.saturating_sub(overhead);
            let minimum = if inner_v6 { IPV6_MINIMUM_MTU } else { IPV4_MINIMUM_MTU };
            let needed = longest + overhead;
            let message = format!(
                "{egress} carries packets of {mtu} bytes; the tunnel to {} adds {overhead}, so \
                 only {room} of the {longest} that can arrive on {from} fit",
                some_of(&backends)
            );
            let mss = room.saturating_sub(if inner_v6 { 60 } else { 40 });
            let fix = format!(
                "raise the MTU between director and backends to {needed} (`ip link set {egress} \
                 mtu {needed}`, and on the switches and backends), or have the backends clamp \
                 the MSS: `ip route change default via ROUTER advmss {mss}`"
            );
            if room < minimum {
                let version = if inner_v6 { "IPv6" } else { "IPv4" };
                let message = format!("{message}; less than the {minimum} that {version} requires");
                Finding::fail("mtu", egress, message, fix)
            } else {
                Finding::warn("mtu", egress, message, fix)
            }
        })
        .collect()
}

pub(super) fn tunnel_source(facts: &DirectorFacts) -> Vec<Finding> {
    if facts.config.tunnel.source != TunnelSource::Auto {
        return Vec::new();
    }
    let tunnelled = reachable(facts).filter(|(_, forward, ..)| forward.encapsulates());
    let sourceless: BTreeSet<IpAddr> =
        tunnelled.filter(|(.., hop)| hop.source.is_none()).map(|(_, _, ip, _)| ip).collect();
    if sourceless.is_empty() {
        return Vec::new();
    }
    let backends = some_of(&sourceless);
    vec![Finding::fail(
        "tunnel-source",
        "tunnel.source",
        format!("this host has no source address for tunnels to {backends}"),
        "give the interface an address of that family, or set `tunnel: {source: ADDRESS}`",
    )]
}

pub(super) fn egress(facts: &DirectorFacts) -> Vec<Finding> {
    let hops: BTreeSet<u32> =
        facts.next_hops.values().flatten().map(|hop| hop.link_index).collect();
    let native = facts.config.interfaces.iter().any(|i| i.mode == AttachMode::Native);
    let check = |index: u32| {
        let link = facts.host.link_at(index)?;
        let named = facts.config.interfaces.iter().any(|i| i.name == link.name);
        let accepts = facts.host.nics.get(&link.name)?.xdp?.redirect_target();
        (native && !named && !accepts).then(|| {
            Finding::fail(
                "egress",
                &link.name,
                "packets to backends leave by it, and its driver does not accept frames from XDP yet",
                format!(
                    "add `- {{name: {}, role: egress}}` to `interfaces`: many drivers accept them \
                     only with an XDP program attached; on a veth: `ethtool -K <peer> gro on`",
                    link.name
                ),
            )
        })
    };
    hops.into_iter().filter_map(check).collect()
}

/// Up to three of the addresses, and the number of further ones.
fn some_of(addresses: &BTreeSet<IpAddr>) -> String {
    let some: Vec<String> = addresses.iter().take(3).map(IpAddr::to_string).collect();
    match addresses.len() {
        more @ 4.. => format!("{} and {} more", some.join(", "), more - 3),
        _ => some.join(", "),
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
