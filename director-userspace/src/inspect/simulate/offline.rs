//! Assumed paths to backends, without a network.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use director_common::{backend::NextHop, wire::ethernet::Mac};

use crate::policy::{
    config::model::{Config, TunnelSource},
    plan::{Path, PathKey, Paths},
};

/// Next hop of a backend whose MAC address the configuration does not give.
pub const PLACEHOLDER_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// Source of IPv4 outer headers when the configuration leaves it to the route: the dummy address of
/// RFC 7600, which no host has.
pub const PLACEHOLDER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// The same for IPv6: of the discard-only prefix (RFC 6666).
pub const PLACEHOLDER_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8);
/// Most backends named in a note.
const MAX_NAMED: usize = 5;

/// Assumed paths to the backends of a configuration.
#[derive(Debug)]
pub struct Offline {
    /// All leave by the ingress interface, and any size fits.
    pub paths: Paths,
    /// The assumptions, in words.
    pub notes: Vec<String>,
}

/// The assumed paths to the backends.
pub fn offline(config: &Config) -> Offline {
    let (v4, v6) = match config.tunnel.source {
        TunnelSource::Auto => (None, None),
        TunnelSource::Fixed { v4, v6 } => (v4, v6),
    };
    let mut paths = Paths::default();
    let (mut without_mac, mut assumed_sources) = (BTreeSet::new(), BTreeSet::new());
    for service in &config.services {
        for backend in &service.backends {
            let source: IpAddr = match backend.address {
                IpAddr::V4(_) => v4.unwrap_or(PLACEHOLDER_V4).into(),
                IpAddr::V6(_) => v6.unwrap_or(PLACEHOLDER_V6).into(),
            };
            if backend.mac.is_none() {
                without_mac.insert(backend.address);
            }
            let known = if backend.address.is_ipv4() { v4.is_some() } else { v6.is_some() };
            if service.forward.encapsulates() && !known {
                assumed_sources.insert(source);
            }
            let next_hop = NextHop::new(PLACEHOLDER_MAC, 0, 1);
            let path = Path { next_hop, source: Some(source), mtu: 0 };
            paths.insert(PathKey::of(service, backend), path);
        }
    }
    let mut notes = Vec::new();
    if !without_mac.is_empty() {
        notes.push(format!(
            "next hops are not resolved here: 02:00:00:00:00:01 stands for the MAC address of {} \
             (`mac:` gives it)",
            some(&without_mac)
        ));
    }
    if !assumed_sources.is_empty() {
        notes.push(format!(
            "`tunnel: {{source: auto}}` depends on routes, which are not looked up here: {} stands \
             for the source of tunnels",
            some(&assumed_sources)
        ));
    }
    Offline { paths, notes }
}

/// The first few addresses, and the number of further ones.
fn some(addresses: &BTreeSet<IpAddr>) -> String {
    let named: Vec<String> = addresses.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    let named = named.join(", ");
    match addresses.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
