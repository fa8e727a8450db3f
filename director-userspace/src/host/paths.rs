//! The ways to backends: next hop, MTU, tunnel source.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use director_common::backend::NextHop;
use tokio::task::JoinSet;

use super::HostError;
use crate::{
    config::{
        Config,
        model::{Forward, TunnelSource},
    },
    datapath::{Attached, Attachments},
    net::{self, NetError, Netlink},
    plan::{Path, Paths},
};

/// Questions to the kernel under way at once.
const AT_ONCE: usize = 64;

/// What is known of the ways to all backends.
#[derive(Debug, Default)]
pub struct Ways {
    /// By backend address.
    pub paths: Paths,
    /// Who frames are sent to, by the interface that the route names: to be kept fresh.
    pub neighbours: BTreeSet<(u32, IpAddr)>,
    /// What is odd but no reason to stop, for people: a backend without a route or with a silent
    /// neighbour. That may pass.
    pub warnings: Vec<String>,
    /// Every backend that this host cannot send to in the way that is configured. They have no path.
    pub errors: Vec<HostError>,
}

/// Finds the way to every backend of `config`, and to those of `draining`, which it no longer names;
/// neighbours that are not known are asked for and waited for at most `wait`.
pub async fn ways(
    netlink: &Netlink,
    config: &Config,
    draining: &[IpAddr],
    interfaces: &[Attached],
    attachments: &Attachments,
    wait: Duration,
) -> Ways {
    let hops = next_hops(netlink, config, draining, wait).await;
    let mut ways = Ways::default();
    for service in &config.services {
        for backend in &service.backends {
            let name = || service.name.to_string();
            let address = backend.address;
            let hop = match &hops[&address] {
                Ok(hop) => hop,
                Err(NetError::OwnAddress { .. }) => {
                    ways.errors.push(HostError::OwnAddress { service: name(), backend: address });
                    continue;
                }
                // Where it is sent is fixed; only the interface has to be guessed.
                Err(_) if backend.mac.is_some() => {
                    let first = interfaces.iter().find_map(|i| attachments.slot(i.ifindex));
                    let next_hop = NextHop::new([0; 6], 0, first.unwrap_or(0) as u8);
                    let source = tunnel_source(config, address, None);
                    ways.paths.insert(address, Path { next_hop, source, mtu: 0 });
                    continue;
                }
                Err(error) => {
                    ways.warnings.push(format!("service {}: backend {address}: {error}", name()));
                    continue;
                }
            };
            if service.forward == Forward::Direct && !hop.on_link {
                ways.errors.push(HostError::DirectOffLink {
                    service: name(),
                    backend: address,
                    gateway: hop.neighbour,
                });
                continue;
            }
            let Some(slot) = attachments.slot(hop.link_index) else {
                let interface = interface_name(netlink, hop.link_index).await;
                ways.errors.push(HostError::OtherInterface {
                    service: name(),
                    backend: address,
                    interface,
                });
                continue;
            };
            let egress = interfaces.iter().find(|i| i.ifindex == hop.link_index);
            let path = path(config, backend.mac.is_some(), hop, slot, address);
            if backend.mac.is_none() {
                ways.neighbours.insert((hop.route_link_index, hop.neighbour));
                if hop.mac.is_none() {
                    let egress = egress.map_or("?", |interface| &interface.name);
                    ways.warnings.push(format!(
                        "service {}: nobody answers for {} on {egress}, the next hop of backend \
                         {address}; packets for it are dropped until somebody does",
                        name(),
                        hop.neighbour
                    ));
                }
            }
            ways.paths.insert(address, path);
        }
    }
    for address in draining {
        if let Ok(hop) = &hops[address]
            && let Some(slot) = attachments.slot(hop.link_index)
        {
            let way = path(config, false, hop, slot, *address);
            ways.paths.entry(*address).or_insert(way);
            ways.neighbours.insert((hop.route_link_index, hop.neighbour));
        }
    }
    ways.warnings.sort();
    ways.warnings.dedup();
    ways
}

fn path(config: &Config, fixed: bool, hop: &net::NextHop, slot: u32, address: IpAddr) -> Path {
    // The configuration's MAC replaces this one; anything but "unresolved" will do.
    let mac = if fixed { Some([0; 6]) } else { hop.mac };
    let next_hop =
        mac.map_or(NextHop::UNRESOLVED, |mac| NextHop::new(mac, hop.vlan.unwrap_or(0), slot as u8));
    let source = tunnel_source(config, address, hop.source);
    Path { next_hop, source, mtu: u16::try_from(hop.mtu).unwrap_or(u16::MAX) }
}

/// The source of the outer header to a backend; `by_route` is the kernel's choice.
fn tunnel_source(config: &Config, backend: IpAddr, by_route: Option<IpAddr>) -> Option<IpAddr> {
    match (&config.tunnel.source, backend) {
        (TunnelSource::Auto, _) => by_route,
        (TunnelSource::Fixed { v4, .. }, IpAddr::V4(_)) => v4.map(IpAddr::V4),
        (TunnelSource::Fixed { v6, .. }, IpAddr::V6(_)) => v6.map(IpAddr::V6),
    }
}

async fn interface_name(netlink: &Netlink, index: u32) -> String {
    netlink.link_by_index(index).await.map_or_else(|_| format!("#{index}"), |link| link.name)
}

/// Asks the kernel for every backend's next hop, many at a time: the wait for a silent one is
/// everybody's.
async fn next_hops(
    netlink: &Netlink,
    config: &Config,
    draining: &[IpAddr],
    wait: Duration,
) -> BTreeMap<IpAddr, Result<net::NextHop, NetError>> {
    let configured = config.services.iter().flat_map(|s| s.backends.iter().map(|b| b.address));
    let addresses: BTreeSet<IpAddr> = configured.chain(draining.iter().copied()).collect();
    let mut hops = BTreeMap::new();
    let mut asked = JoinSet::new();
    let mut left = addresses.into_iter();
    let began = Instant::now();
    loop {
        while asked.len() < AT_ONCE
            && let Some(address) = left.next()
        {
            let netlink = netlink.clone();
            let wait = wait.saturating_sub(began.elapsed());
            asked.spawn(async move { (address, netlink.resolve_next_hop(address, wait).await) });
        }
        match asked.join_next().await {
            Some(Ok((address, hop))) => hops.insert(address, hop),
            // A task neither panics nor is cancelled here; were it so, its backend has no way.
            Some(Err(_)) => continue,
            None => return hops,
        };
    }
}
