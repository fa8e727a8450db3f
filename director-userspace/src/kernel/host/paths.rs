//! The routes to backends: next hop, MTU, tunnel source.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use director_common::backend::NextHop;

use super::{HostError, NextHopCache};
use crate::{
    kernel::{
        datapath::{Attached, Attachments},
        net::{self, AddressScope, NetError, Netlink},
    },
    policy::{
        config::{
            Config,
            model::{Service, TunnelSource},
        },
        plan::{ObservedBackend, Path, PathKey, Paths},
    },
};

/// The routes to all backends.
#[derive(Debug, Default)]
pub struct HostRoutes {
    /// To backends, as each service sends to them.
    pub paths: Paths,
    /// Neighbours that frames are sent to, by the route's interface: they must be kept fresh.
    pub neighbours: BTreeSet<(u32, IpAddr)>,
    /// Problems that do not prevent a start: a backend without a route, or with a neighbour that
    /// does not answer. They may be temporary.
    pub warnings: Vec<String>,
    /// Every backend that this host cannot send to with the configured forward mode. They have no
    /// path.
    pub errors: Vec<HostError>,
}

/// Backends `present` in the maps that `services` no longer send to in this way, and whose tracked flows are
/// still served. A next hop that was fixed stays.
pub fn draining<'a>(
    present: impl Iterator<Item = &'a ObservedBackend>,
    services: &[&Service],
) -> Vec<PathKey> {
    let mut draining: HashSet<PathKey> = present
        .filter(|backend| !backend.fixed_next_hop)
        .filter_map(|backend| {
            Some(PathKey { address: backend.address, forward: backend.forward?, mac: None })
        })
        .collect();
    for service in services {
        for backend in &service.backends {
            draining.remove(&PathKey::of(service, backend));
        }
    }
    draining.into_iter().collect()
}

/// Finds the path to every backend of `services`, which are some of `config`'s or all of them, and
/// to those of `draining`, which it no longer names. `hops` has their next hops. The kernel is asked
/// only for what explains an error, and where its choice of a tunnel's source is a VIP.
pub async fn routes(
    netlink: &Netlink,
    config: &Config,
    services: &[&Service],
    draining: &[PathKey],
    interfaces: &[Attached],
    attachments: &Attachments,
    hops: &NextHopCache,
) -> HostRoutes {
    let configured = services.iter().flat_map(|service| service.backends.iter().map(|b| b.address));
    let addresses = configured.chain(draining.iter().map(|backend| backend.address));
    let chosen = addresses.filter_map(|address| hops.get(address)?.as_ref().ok());
    let sources = Sources::new(netlink, config, chosen.map(|hop| hop.source).collect()).await;
    let mut routes = HostRoutes::default();
    for service in services {
        for backend in &service.backends {
            let name = || service.name.to_string();
            let (address, key) = (backend.address, PathKey::of(service, backend));
            let Some(hop) = hops.get(address) else { continue };
            let hop = match hop {
                Ok(hop) => hop,
                Err(NetError::OwnAddress { .. }) => {
                    routes.errors.push(HostError::OwnAddress { service: name(), backend: address });
                    continue;
                }
                // The MAC is fixed; only the interface has to be guessed.
                Err(_) if backend.mac.is_some() => {
                    let first = interfaces.iter().find_map(|i| attachments.slot(i.ifindex));
                    let next_hop = NextHop::new([0; 6], 0, first.unwrap_or(0) as u8);
                    let source = sources.fixed(address);
                    if source.is_none() && service.forward.encapsulates() {
                        routes.warnings.push(format!(
                            "service {}: backend {address}: no route gives the tunnel's source: \
                             set `tunnel: {{source: ADDRESS}}`; packets for it are dropped until then",
                            name()
                        ));
                        continue;
                    }
                    routes.paths.insert(key, Path { next_hop, source, mtu: 0 });
                    continue;
                }
                Err(error) => {
                    routes.warnings.push(format!("service {}: backend {address}: {error}", name()));
                    continue;
                }
            };
            if service.forward.needs_link() && !hop.on_link {
                routes.errors.push(HostError::DirectOffLink {
                    service: name(),
                    backend: address,
                    gateway: hop.neighbour,
                });
                continue;
            }
            let Some(slot) = attachments.slot(hop.link_index) else {
                let interface = interface_name(netlink, hop.link_index).await;
                routes.errors.push(HostError::OtherInterface {
                    service: name(),
                    backend: address,
                    interface,
                });
                continue;
            };
            let egress = interfaces.iter().find(|i| i.ifindex == hop.link_index);
            if backend.mac.is_none() {
                routes.neighbours.insert((hop.route_link_index, hop.neighbour));
                if hop.mac.is_none() {
                    let egress = egress.map_or("?", |interface| &interface.name);
                    routes.warnings.push(format!(
                        "service {}: no answer from {} on {egress}, the next hop of backend \
                         {address}; packets for it are dropped until it answers",
                        name(),
                        hop.neighbour
                    ));
                }
            }
            let path = path_of(&sources, hop, slot, address);
            if path.source.is_none() && service.forward.encapsulates() {
                routes.warnings.push(format!(
                    "service {}: backend {address}: no address of this host can be the tunnel's \
                     source, since all are VIPs: add another, or set `tunnel: {{source: \
                     ADDRESS}}`; until then backends accept no packets from it",
                    name()
                ));
            }
            routes.paths.insert(key, path);
        }
    }
    for backend in draining {
        if let Some(Ok(hop)) = hops.get(backend.address)
            && let Some(slot) = attachments.slot(hop.link_index)
            && (hop.on_link || !backend.forward.needs_link())
        {
            let path = path_of(&sources, hop, slot, backend.address);
            routes.paths.entry(*backend).or_insert(path);
            routes.neighbours.insert((hop.route_link_index, hop.neighbour));
        }
    }
    routes.warnings.sort();
    routes.warnings.dedup();
    routes
}

fn path_of(sources: &Sources<'_>, hop: &net::NextHop, slot: u32, address: IpAddr) -> Path {
    // Zero while unknown: a backend with a fixed one needs the egress interface all the same.
    let mac = hop.mac.unwrap_or_default();
    let next_hop = NextHop::new(mac, hop.vlan.unwrap_or(0), slot as u8);
    let source = sources.of(address, hop);
    Path { next_hop, source, mtu: u16::try_from(hop.mtu).unwrap_or(u16::MAX) }
}

/// Sources of outer headers.
struct Sources<'a> {
    config: &'a Config,
    /// Empty unless the kernel chooses one of them.
    vips: BTreeSet<IpAddr>,
    /// Used only where the kernel would choose a VIP, or nothing.
    addresses: Vec<net::Address>,
}

impl<'a> Sources<'a> {
    /// `chosen` are the kernel's choices.
    async fn new(netlink: &Netlink, config: &'a Config, chosen: HashSet<Option<IpAddr>>) -> Self {
        let mut sources = Self { config, vips: BTreeSet::new(), addresses: Vec::new() };
        if config.tunnel.source != TunnelSource::Auto {
            return sources;
        }
        let vips = || config.services.iter().map(|service| service.frontend.address);
        let is_unusable =
            |source: &Option<IpAddr>| source.is_none_or(|source| vips().any(|vip| vip == source));
        if chosen.iter().any(is_unusable) {
            sources.vips = vips().collect();
            sources.addresses = netlink.addresses().await.unwrap_or_default();
        }
        sources
    }

    /// The configured source towards a backend.
    fn fixed(&self, backend: IpAddr) -> Option<IpAddr> {
        match (&self.config.tunnel.source, backend) {
            (TunnelSource::Auto, _) => None,
            (TunnelSource::Fixed { v4, .. }, IpAddr::V4(_)) => v4.map(IpAddr::V4),
            (TunnelSource::Fixed { v6, .. }, IpAddr::V6(_)) => v6.map(IpAddr::V6),
        }
    }

    /// The configured source, else the kernel's choice by route: but never a VIP, from which
    /// backends do not accept tunnels. (A /128 beats the host's own /64 by RFC 6724 rule 8.)
    fn of(&self, backend: IpAddr, hop: &net::NextHop) -> Option<IpAddr> {
        if self.config.tunnel.source != TunnelSource::Auto {
            return self.fixed(backend);
        }
        let is_own = |address: &IpAddr| !self.vips.contains(address);
        hop.source.filter(is_own).or_else(|| {
            let usable = |address: &&net::Address| {
                address.address.is_ipv4() == backend.is_ipv4()
                    && address.scope == AddressScope::Global
                    && is_own(&address.address)
            };
            let near = |address: &&net::Address| address.link_index == hop.route_link_index;
            let mut candidates = self.addresses.iter().filter(usable);
            candidates.clone().find(near).or_else(|| candidates.next()).map(|found| found.address)
        })
    }
}

async fn interface_name(netlink: &Netlink, index: u32) -> String {
    netlink.link_by_index(index).await.map_or_else(|_| format!("#{index}"), |link| link.name)
}
