//! Namespaces, cables and addresses, by netlink.
//!
//! All nodes are on one bridge. Every address is on-link for every node, so that a configuration's
//! addresses work whatever they are. What XDP on veth needs is set where it is needed:
//!
//! - A packet that XDP sends back out of a veth (`XDP_TX`) arrives only if the other end has NAPI,
//!   and it has that only with a program of its own: the switch's end of the director's cable
//!   carries one that passes everything.
//! - XDP loses the mark that a checksum is still to be computed, so the sender into a node with XDP
//!   computes it: checksum and segmentation offloads are off on clients and switch ports.
//! - Tunnelled full-size packets must fit: clients have an MTU of 1500, everything else 1600.

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf,
    programs::{ProgramFd, Xdp},
};

use super::{
    BRIDGE, LabError, SWITCH,
    error::OnNode as _,
    record::Record,
    topology::{NodePlan, Role, Topology},
};
use crate::{
    kernel::net::{LinkEnd, NetNs, Netlink, NewRoute},
    setup::realserver::{self, RealServer},
};

/// The clients' MTU, in bytes.
pub(super) const CLIENT_MTU: u32 = 1500;
/// The MTU of all others: an outer header or two fit around a client's largest packet.
pub(super) const MTU: u32 = 1600;

/// Settings of a node, made before it has an interface: IPv6 addresses are ready at once, and
/// no node waits for a router.
const NODE_SYSCTLS: [(&str, &str); 8] = [
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
];
/// The switch only forwards frames; an address of its own would only send packets.
const SWITCH_SYSCTLS: [(&str, &str); 2] =
    [("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];

/// Makes everything the record lists. The caller removes what was made before an error.
pub(super) async fn build(
    record: &Record,
    topology: &Topology,
) -> Result<BTreeMap<String, NetNs>, LabError> {
    let mut namespaces = BTreeMap::new();
    for node in &record.nodes {
        let namespace = NetNs::create(&record.namespace(&node.name)).on(&node.name)?;
        let sysctls = if node.name == SWITCH { &SWITCH_SYSCTLS[..] } else { &NODE_SYSCTLS[..] };
        namespace
            .run(|| {
                sysctls
                    .iter()
                    .try_for_each(|(key, value)| crate::kernel::net::write_sysctl(key, value))
            })
            .on(&node.name)?;
        namespaces.insert(node.name.clone(), namespace);
    }
    let switch = Netlink::connect_in(&namespaces[SWITCH]).on(SWITCH)?;
    switch.create_bridge(BRIDGE).await.on(SWITCH)?;
    let bridge = switch.link_by_name(BRIDGE).await.on(SWITCH)?.index;
    switch.set_mtu(bridge, MTU).await.on(SWITCH)?;
    switch.set_up(bridge, true).await.on(SWITCH)?;

    let pass = load_pass()?;
    for (number, node) in topology.nodes.iter().enumerate() {
        let namespace = &namespaces[&node.name];
        for (cable, interface) in node.interfaces.iter().enumerate() {
            let port = port_name(&node.name, cable);
            let mac = [0x02, 0, 0, cable as u8, (number >> 8) as u8, number as u8];
            let end = LinkEnd { name: interface, netns: Some(namespace), mac: Some(mac) };
            let plug = LinkEnd { name: &port, netns: None, mac: None };
            switch.create_veth(plug, end).await.on(&node.name)?;
            let index = switch.link_by_name(&port).await.on(SWITCH)?.index;
            switch.set_mtu(index, MTU).await.on(SWITCH)?;
            switch.set_master(index, Some(bridge)).await.on(SWITCH)?;
            if !matches!(node.role, Role::Client) {
                no_offloads(&switch, &port).on(SWITCH)?;
            }
            if matches!(node.role, Role::Director { .. }) {
                let program = std::os::fd::AsFd::as_fd(&pass.1);
                switch.attach_xdp(index, program).await.on(SWITCH)?;
            }
            switch.set_up(index, true).await.on(SWITCH)?;
        }
        let netlink = Netlink::connect_in(namespace).on(&node.name)?;
        configure(&netlink, node).await.on(&node.name)?;
        if let Role::Backend { settings: Some(settings), .. } = &node.role {
            set_up_backend(netlink, record, node, settings).await?;
        }
    }
    Ok(namespaces)
}

/// Gives a node its addresses and default routes.
async fn configure(netlink: &Netlink, node: &NodePlan) -> Result<(), crate::kernel::net::NetError> {
    let lo = netlink.link_by_name("lo").await?.index;
    netlink.set_up(lo, true).await?;
    let mtu = if matches!(node.role, Role::Client) { CLIENT_MTU } else { MTU };
    for interface in &node.interfaces {
        if matches!(node.role, Role::Client) {
            no_offloads(netlink, interface)?;
        }
        let index = netlink.link_by_name(interface).await?.index;
        netlink.set_mtu(index, mtu).await?;
        netlink.set_up(index, true).await?;
    }
    let first = netlink.link_by_name(&node.interfaces[0]).await?.index;
    for &address in &node.addresses {
        netlink.add_address(first, address, full_length(address)).await?;
    }
    for default in ["0.0.0.0", "::"] {
        let Ok(destination) = default.parse::<IpAddr>() else { continue };
        // The VIPs must not become the source of what the node itself sends.
        let own = node.addresses.iter().find(|own| own.is_ipv4() == destination.is_ipv4());
        let route = NewRoute {
            destination,
            prefix_len: 0,
            gateway: None,
            link_index: first,
            onlink: false,
            source: own.copied(),
        };
        netlink.add_route(route).await?;
    }
    if let Role::Director { vips } = &node.role {
        for &vip in vips {
            netlink.add_address(first, vip, full_length(vip)).await?;
        }
    }
    Ok(())
}

async fn set_up_backend(
    netlink: Netlink,
    record: &Record,
    node: &NodePlan,
    settings: &realserver::Settings,
) -> Result<(), LabError> {
    let failed = |source| LabError::Backend { node: node.name.clone(), source };
    let instance = record.instance(&node.name);
    let backend = RealServer::new(netlink, Some(&instance)).map_err(failed)?;
    backend.up(settings).await.map_err(failed)?;
    Ok(())
}

/// Makes senders through this device compute checksums and segment packets first.
fn no_offloads(netlink: &Netlink, interface: &str) -> Result<(), crate::kernel::net::NetError> {
    for features in ["tx-checksum-", "tx-generic-segmentation", "tx-tcp-", "tx-udp-segmentation"] {
        netlink.set_features(interface, features, false)?;
    }
    Ok(())
}

/// The program that passes everything. The map holder must live until it is attached.
fn load_pass() -> Result<(Ebpf, ProgramFd), LabError> {
    let failed = |source| LabError::Backend { node: SWITCH.into(), source };
    let mut ebpf = realserver::load_pass().map_err(failed)?;
    let program = ebpf.program_mut(realserver::PASS).and_then(|program| {
        let program: &mut Xdp = program.try_into().ok()?;
        program.fd().ok()?.try_clone().ok()
    });
    let program = program.ok_or_else(|| {
        LabError::system("use the passing XDP program", std::io::Error::other("it is not loaded"))
    })?;
    Ok((ebpf, program))
}

/// The switch's end of a node's cable, named after the node.
fn port_name(node: &str, cable: usize) -> String {
    if cable == 0 { node.to_owned() } else { format!("{node}.{cable}") }
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
