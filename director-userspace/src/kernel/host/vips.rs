//! VIPs that Director adds to interfaces itself (`assign_vips: true`), and removes again.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::HostErrors;
use crate::{
    kernel::{
        net::{Address, Link, NetError, Netlink},
        private_file,
    },
    policy::config::Config,
};

/// Adds the configuration's VIPs to every interface with `assign_vips`, and to VLAN devices on it
/// that have the VIP's subnet; announces new ones, and removes those that an earlier call added and
/// that belong there no longer. What was added is recorded in `run_dir`. Returns warnings.
///
/// # Errors
///
/// If an address cannot be added.
pub async fn assign_vips(
    netlink: &Netlink,
    config: &Config,
    run_dir: &Path,
) -> Result<Vec<String>, HostErrors> {
    let added = read(run_dir);
    let assigns = config.interfaces.iter().any(|interface| interface.assign_vips);
    if !assigns && added.is_empty() {
        return Ok(Vec::new());
    }
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let (wanted, warnings) = places(config, &links, &addresses);
    let mut ours = added.clone();
    for (interface, vip) in &wanted {
        // Removed under a running daemon: the VIPs are added when it is back.
        let Some(link) = links.iter().find(|link| link.name == *interface) else { continue };
        if netlink.add_address(link.index, *vip, prefix(*vip)).await? {
            ours.insert((interface.clone(), *vip));
            write(run_dir, &ours);
            // An interface that is down cannot announce.
            let _ = netlink.announce(link.index, *vip).await;
        }
    }
    let gone: Vec<_> = added.difference(&wanted).cloned().collect();
    for (interface, vip) in gone {
        remove_vip(netlink, &interface, vip).await?;
        ours.remove(&(interface, vip));
    }
    write(run_dir, &ours);
    Ok(warnings)
}

/// Which interfaces should have which VIPs, and warnings.
///
/// A host answers ARP on every interface for every address it has, but neighbour discovery only on
/// the interface that has the address: clients in a VLAN find an IPv6 VIP only on the VLAN's device.
fn places(
    config: &Config,
    links: &[Link],
    addresses: &[Address],
) -> (BTreeSet<(String, IpAddr)>, Vec<String>) {
    let vips: BTreeSet<IpAddr> = config.services.iter().map(|s| s.frontend.address).collect();
    let (mut wanted, mut warnings) = (BTreeSet::new(), Vec::new());
    for interface in config.interfaces.iter().filter(|interface| interface.assign_vips) {
        wanted.extend(vips.iter().map(|vip| (interface.name.clone(), *vip)));
        let Some(trunk) = links.iter().find(|link| link.name == interface.name) else { continue };
        let is_above = |link: &&Link| link.vlan_id.is_some() && link.parent == Some(trunk.index);
        let vlans: Vec<&Link> = links.iter().filter(is_above).collect();
        for vip in &vips {
            let has_subnet = |link: &Link| {
                let here = addresses.iter().filter(|address| address.link_index == link.index);
                here.into_iter().any(|address| is_in_subnet(*vip, address))
            };
            let near: Vec<&&Link> = vlans.iter().filter(|link| has_subnet(link)).collect();
            wanted.extend(near.iter().map(|link| (link.name.clone(), *vip)));
            if vip.is_ipv6() && !vlans.is_empty() && near.is_empty() && !has_subnet(trunk) {
                let names: Vec<&str> = vlans.iter().map(|link| link.name.as_str()).collect();
                let (names, first) = (names.join(", "), names[0]);
                warnings.push(format!(
                    "assign_vips: clients in a VLAN on {} ({names}) cannot find {vip}: neighbour \
                     discovery is answered only on an interface that has the address, and none of \
                     these has its subnet. If clients or their router are in one of them: `ip \
                     address add {vip}/128 dev {first} nodad`, or give it an address of the subnet",
                    interface.name
                ));
            }
        }
    }
    (wanted, warnings)
}

/// Whether an address is in the subnet of an interface's address: other hosts there look for it.
fn is_in_subnet(address: IpAddr, of: &Address) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let differ = bits(address) ^ bits(of.address);
    address.is_ipv4() == of.address.is_ipv4()
        && of.prefix_len < prefix(address)
        && of.prefix_len > 0
        && differ.leading_zeros() >= u32::from(of.prefix_len)
}

/// Removes every VIP that [`assign_vips`] added.
///
/// # Errors
///
/// If an address cannot be removed.
pub async fn withdraw_vips(netlink: &Netlink, run_dir: &Path) -> Result<(), NetError> {
    for (interface, vip) in read(run_dir) {
        remove_vip(netlink, &interface, vip).await?;
    }
    write(run_dir, &BTreeSet::new());
    Ok(())
}

async fn remove_vip(netlink: &Netlink, interface: &str, vip: IpAddr) -> Result<(), NetError> {
    match netlink.link_by_name(interface).await {
        Ok(link) => netlink.remove_address(link.index, vip, prefix(vip)).await.map(|_| ()),
        // Gone with its interface.
        Err(NetError::NoSuchInterface { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn record_path(run_dir: &Path) -> PathBuf {
    run_dir.join("vips")
}

/// `INTERFACE ADDRESS` a line.
fn read(run_dir: &Path) -> BTreeSet<(String, IpAddr)> {
    let text = fs::read_to_string(record_path(run_dir)).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (interface, address) = line.split_once(' ')?;
            Some((interface.to_owned(), address.parse().ok()?))
        })
        .collect()
}

fn write(run_dir: &Path, added: &BTreeSet<(String, IpAddr)>) {
    let path = record_path(run_dir);
    if added.is_empty() {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
            _ => {}
        }
        return;
    }
    let text: String = added.iter().map(|(i, a)| format!("{i} {a}\n")).collect();
    if let Err(error) = private_file::replace(&path, text.as_bytes()) {
        tracing::warn!(
            "cannot record in {} which VIPs were added: {error}; `director detach` will not remove \
             them",
            path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::net::AddressScope, policy::config};

    fn link(index: u32, name: &str, trunk: Option<u32>) -> Link {
        Link {
            index,
            name: name.into(),
            mac: [2, 0, 0, 0, 0, index as u8],
            ethernet: true,
            loopback: false,
            mtu: 1500,
            up: true,
            running: true,
            kind: None,
            parent: trunk,
            vlan_id: trunk.map(|_| 100),
            master: None,
            rx_queues: 1,
            tx_queues: 1,
            xdp: None,
        }
    }

    /// `2 2001:db8::2/64`: interface 2 has this address.
    fn address(text: &str) -> Address {
        let (link_index, address) = text.split_once(' ').expect("an index");
        let (address, prefix_len) = address.split_once('/').expect("a prefix");
        Address {
            link_index: link_index.parse().expect("a number"),
            address: address.parse().expect("an address"),
            prefix_len: prefix_len.parse().expect("a number"),
            scope: AddressScope::Global,
            tentative: false,
            secondary: false,
        }
    }

    #[test]
    fn vips_are_where_their_clients_look_for_them() {
        let yaml = "interfaces: [{name: eth0, assign_vips: true}, {name: eth1}]\n\
                    defaults: {protocol: tcp, port: 80, forward: tunnel, backends: []}\n\
                    services: [{name: a, address: 192.0.2.10}, \
                    {name: b, address: \"2001:db8::10\"}]\n";
        let config = config::parse("test", yaml).expect("valid").config;
        let trunk = [link(1, "eth0", None), link(2, "eth0.7", Some(1)), link(3, "eth0.8", Some(1))];
        let above_another = [link(1, "eth0", None), link(9, "eth1", None), link(2, "e7", Some(9))];
        let (v4, v6) = ("192.0.2.10", "2001:db8::10");
        for (links, addresses, vlans, is_warned) in [
            (&trunk[..1], &[][..], &[][..], false),
            (&trunk[..], &[], &[], true),
            (&trunk, &["2 2001:db8::2/64"], &[("eth0.7", v6)], false),
            (&trunk, &["2 2001:db8:1::2/64", "3 fe80::2/64"], &[], true),
            (&trunk, &["1 2001:db8::2/64"], &[], false),
            (
                &trunk,
                &["3 192.0.2.2/24", "3 2001:db8::2/48"],
                &[("eth0.8", v4), ("eth0.8", v6)],
                false,
            ),
            // Itself, and the default of a tunnel.
            (&trunk, &["2 2001:db8::10/128", "2 ::/0", "2 10.0.0.0/0"], &[], true),
            (&above_another, &["2 2001:db8::2/64"], &[], false),
        ] {
            let all: Vec<Address> = addresses.iter().map(|text| address(text)).collect();
            let (wanted, warnings) = places(&config, links, &all);
            let mut expected = vec![("eth0", v4), ("eth0", v6)];
            expected.extend(vlans);
            let expected: BTreeSet<(String, IpAddr)> = expected
                .into_iter()
                .map(|(name, vip): (&str, &str)| (name.into(), vip.parse().expect("valid")))
                .collect();
            assert_eq!(wanted, expected, "{addresses:?}");
            assert_eq!(warnings.len(), usize::from(is_warned), "{addresses:?}: {warnings:?}");
            assert!(warnings.iter().all(|w| w.contains("2001:db8::10/128 dev eth0.7")));
        }
    }
}
