//! Which nodes a configuration needs, and the names and addresses of each. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::LabError;
use crate::{
    policy::config::model::{Config, ForwardMode, Port, Protocol, TunnelSource},
    setup::realserver,
};

/// The director's interface where the configuration names none, and that of all other nodes.
pub(super) const INTERFACE: &str = "eth0";
/// Most clients: their MAC and IP addresses end in a byte.
pub const MAX_CLIENTS: usize = 200;
/// Port served on a VIP whose service's port is `any`.
const ANY_PORT_SERVED: u16 = 80;

/// All nodes of a lab but the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topology {
    pub(super) nodes: Vec<NodePlan>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodePlan {
    /// `director`, `client1`, `b1`, ...
    pub(super) name: String,
    /// Plugged into the switch, the first of them with the addresses and routes.
    pub(super) interfaces: Vec<String>,
    /// One per family at least; the first of a family is the source of what the node sends.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) role: Role,
}

/// The role of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// Connects to VIPs.
    Client,
    /// Has the VIPs; runs nothing by itself.
    Director {
        /// The VIPs of its first interface.
        vips: BTreeSet<IpAddr>,
    },
    /// Serves VIPs.
    Backend {
        /// Its settings for `director realserver`; none if no service uses it.
        settings: Option<realserver::Settings>,
        /// Where servers may listen.
        listen: Vec<SocketAddr>,
    },
}

impl Topology {
    /// Lays a configuration out. `hosts` joins addresses of backends that are one machine.
    pub(super) fn of(
        config: &Config,
        clients: usize,
        hosts: &[Vec<IpAddr>],
    ) -> Result<Self, LabError> {
        if clients > MAX_CLIENTS {
            let why = format!("{clients} clients are too many: {MAX_CLIENTS} is the limit");
            return Err(LabError::Unplaceable { why });
        }
        let vips: BTreeSet<IpAddr> =
            config.services.iter().map(|service| service.frontend.address).collect();
        let backends = group(config, hosts);
        if backends.len() > usize::from(u8::MAX) {
            let why = format!("{} backends are too many: 255 is the limit", backends.len());
            return Err(LabError::Unplaceable { why });
        }
        let mut taken = vips.clone();
        taken.extend(backends.iter().flatten());

        let mut nodes = vec![director(config, &vips, &mut taken)];
        let from = nodes[0].addresses.iter().copied().map(Into::into).collect();
        nodes.extend((1..=clients).map(|n| NodePlan {
            name: format!("client{n}"),
            interfaces: vec![INTERFACE.into()],
            addresses: complete(Vec::new(), 1, n, &mut taken),
            role: Role::Client,
        }));
        nodes.extend((1..).zip(&backends).map(|(n, addresses)| NodePlan {
            name: format!("b{n}"),
            interfaces: vec![INTERFACE.into()],
            addresses: complete(addresses.clone(), 2, n, &mut taken),
            role: backend(config, addresses, &from),
        }));
        Ok(Self { nodes })
    }
}

/// The backends' addresses, one list per machine, in the order of the file.
fn group(config: &Config, hosts: &[Vec<IpAddr>]) -> Vec<Vec<IpAddr>> {
    let mut machines: Vec<Vec<IpAddr>> = Vec::new();
    for backend in config.services.iter().flat_map(|service| &service.backends) {
        if machines.iter().flatten().any(|address| *address == backend.address) {
            continue;
        }
        let host = hosts.iter().find(|host| host.contains(&backend.address));
        machines.push(host.cloned().unwrap_or_else(|| vec![backend.address]));
    }
    machines
}

fn director(config: &Config, vips: &BTreeSet<IpAddr>, taken: &mut BTreeSet<IpAddr>) -> NodePlan {
    let mut interfaces: Vec<String> =
        config.interfaces.iter().map(|interface| interface.name.clone()).collect();
    if interfaces.is_empty() {
        interfaces.push(INTERFACE.into());
    }
    let sources = match config.tunnel.source {
        TunnelSource::Fixed { v4, v6 } => {
            v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).collect()
        }
        TunnelSource::Auto => Vec::new(),
    };
    // Where Director adds the VIPs itself, the lab must not.
    let assigned = config.interfaces.iter().any(|interface| interface.assign_vips);
    NodePlan {
        name: "director".into(),
        interfaces,
        addresses: complete(sources, 0, 1, taken),
        role: Role::Director { vips: if assigned { BTreeSet::new() } else { vips.clone() } },
    }
}

fn backend(config: &Config, addresses: &[IpAddr], from: &BTreeSet<realserver::Prefix>) -> Role {
    let mut vips = BTreeSet::new();
    let mut listen = BTreeSet::new();
    let (mut tunnel, mut direct) = (false, false);
    for service in &config.services {
        if !service.backends.iter().any(|backend| addresses.contains(&backend.address)) {
            continue;
        }
        vips.insert(service.frontend.address);
        match service.forward {
            ForwardMode::Tunnel => tunnel = true,
            ForwardMode::Direct => direct = true,
        }
        if service.frontend.protocol == Protocol::Tcp {
            let port = match service.frontend.port {
                Port::Exact(port) => port.get(),
                Port::Any => ANY_PORT_SERVED,
            };
            listen.insert(SocketAddr::new(service.frontend.address, port));
        }
    }
    let forward = match (tunnel, direct) {
        (true, true) => realserver::Forward::Both,
        (true, false) => realserver::Forward::Tunnel,
        _ => realserver::Forward::Direct,
    };
    let settings = (!vips.is_empty()).then(|| realserver::Settings {
        vips,
        from: if tunnel { from.clone() } else { BTreeSet::new() },
        interface: Some(INTERFACE.into()),
        mode: realserver::Mode::Native,
        forward,
    });
    Role::Backend { settings, listen: listen.into_iter().collect() }
}

/// Adds an address of each family that is not among the given ones. They come from ranges
/// reserved for tests (RFC 2544; unique local), except those in `taken`.
fn complete(
    mut addresses: Vec<IpAddr>,
    role: u16,
    number: usize,
    taken: &mut BTreeSet<IpAddr>,
) -> Vec<IpAddr> {
    let number = number as u16;
    let v4 = |site: u8| {
        let [_, low] = number.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(198, 18, site, low))
    };
    let v6 =
        |site: u8| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x198, 0x18, site.into(), 0, 0, 0, number));
    let sites = || (role as u8..u8::MAX).step_by(3);
    if !addresses.iter().any(IpAddr::is_ipv4) {
        addresses.extend(sites().map(v4).find(|address| !taken.contains(address)));
    }
    if !addresses.iter().any(IpAddr::is_ipv6) {
        addresses.extend(sites().map(v6).find(|address| !taken.contains(address)));
    }
    taken.extend(&addresses);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config;

    fn topology(yaml: &str, clients: usize, hosts: &[Vec<IpAddr>]) -> Topology {
        let config = config::parse("test", yaml).expect("valid").config;
        Topology::of(&config, clients, hosts).expect("fits")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    const TWO: &str = r#"
interfaces: [{name: wan0}]
services:
  - name: a
    address: 192.0.2.1
    protocol: tcp
    port: 80
    forward: tunnel
    backends: [{address: 10.0.0.1}, {address: 10.0.0.2}]
  - name: b
    address: "2001:db8::1"
    protocol: udp
    port: 53
    forward: direct
    backends: [{address: "2001:db8::a"}]
"#;

    #[test]
    fn every_address_gets_a_node_with_both_families() {
        let topology = topology(TWO, 2, &[]);
        let names: Vec<_> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["director", "client1", "client2", "b1", "b2", "b3"]);
        let mut all = BTreeSet::new();
        for node in &topology.nodes {
            assert!(node.addresses.iter().any(IpAddr::is_ipv4), "{node:?}");
            assert!(node.addresses.iter().any(IpAddr::is_ipv6), "{node:?}");
            assert!(node.addresses.iter().all(|&address| all.insert(address)), "{node:?}");
        }
        assert_eq!(topology.nodes[0].interfaces, ["wan0"]);
        assert_eq!(topology.nodes[5].addresses[0], ip("2001:db8::a"));
    }

    #[test]
    fn backends_accept_tunnels_from_the_director_for_their_own_vips_only() {
        let topology = topology(TWO, 1, &[]);
        let settings = |name: &str| {
            let node = topology.nodes.iter().find(|node| node.name == name).expect(name);
            match &node.role {
                Role::Backend { settings: Some(settings), listen } => {
                    (settings.clone(), listen.clone())
                }
                other => panic!("{name} is {other:?}"),
            }
        };
        let (tunnelled, listen) = settings("b1");
        assert_eq!(tunnelled.vips, [ip("192.0.2.1")].into());
        assert_eq!(tunnelled.forward, realserver::Forward::Tunnel);
        let director = &topology.nodes[0].addresses;
        assert_eq!(tunnelled.from, director.iter().map(|&address| address.into()).collect());
        assert_eq!(listen, ["192.0.2.1:80".parse().expect("a socket address")]);
        let (direct, listen) = settings("b3");
        assert_eq!(direct.forward, realserver::Forward::Direct);
        assert!(direct.from.is_empty());
        assert_eq!(listen, [], "UDP has no HTTP server");
    }

    #[test]
    fn addresses_of_one_host_share_a_node() {
        let host = vec![ip("10.0.0.1"), ip("2001:db8::a")];
        let topology = topology(TWO, 0, std::slice::from_ref(&host));
        assert_eq!(topology.nodes.len(), 3, "director, b1, b2");
        let b1 = &topology.nodes[1];
        assert_eq!(b1.addresses, host);
        let Role::Backend { settings: Some(settings), .. } = &b1.role else { panic!("{b1:?}") };
        assert_eq!(settings.forward, realserver::Forward::Both);
        assert_eq!(settings.vips.len(), 2);
    }

    #[test]
    fn the_labs_own_addresses_avoid_the_configurations() {
        let yaml = TWO.replace("10.0.0.1", "198.18.0.1").replace("10.0.0.2", "198.18.1.1");
        let topology = topology(&yaml, 1, &[]);
        let mut all = BTreeSet::new();
        for address in topology.nodes.iter().flat_map(|node| &node.addresses) {
            assert!(all.insert(*address), "{address} twice");
        }
    }

    #[test]
    fn a_fixed_tunnel_source_is_the_directors_address() {
        let yaml = format!("tunnel: {{source: 10.9.9.9}}\n{TWO}");
        assert_eq!(topology(&yaml, 0, &[]).nodes[0].addresses[0], ip("10.9.9.9"));
    }

    #[test]
    fn too_many_clients_are_refused() {
        let config = config::parse("test", TWO).expect("valid").config;
        let refused = Topology::of(&config, MAX_CLIENTS + 1, &[]);
        assert!(matches!(refused, Err(LabError::Unplaceable { .. })));
    }
}
