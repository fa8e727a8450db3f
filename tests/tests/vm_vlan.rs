//! VIPs on a trunk, with clients in one of its VLANs: against stock kernels in virtual machines,
//! since the build's own may have no VLAN devices.

#[path = "vm/machine.rs"]
mod machine;

use std::{process::Command, time::Duration};

use director_tests::live::{Live, ip, wait_until};
use director_userspace::{kernel::net::Netlink, setup::lab::DEFAULT_CONFIG};
use nix::sys::signal::Signal;
use xtask::vm::KernelVersion;

/// Time limit of steps that are fast on a real machine and slow on an emulated one.
const TIMEOUT: Duration = Duration::from_secs(120);
const VLAN: &str = "eth0.7";
const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];

#[test]
fn clients_in_a_vlan_find_the_vips_of_its_trunk() {
    let test = "clients_in_a_vlan_find_the_vips_of_its_trunk";
    machine::within(
        KernelVersion::V6_1,
        test,
        |vm| vm.modules(["8021q"]),
        || tokio::runtime::Runtime::new().expect("a runtime").block_on(found_in_a_vlan()),
    );
}

async fn found_in_a_vlan() {
    let yaml = DEFAULT_CONFIG.replace("name: eth0", "name: eth0\n    assign_vips: true");
    let live = Live::with("vlan", &yaml).await;
    let daemon = live.spawn_run();
    daemon.wait_for("running with", TIMEOUT);
    for node in ["director", "client1"] {
        add_vlan(&live, node);
    }
    // Where clients of the IPv6 VIP are cannot be known yet.
    daemon.wait_for("2001:db8::10/128 dev eth0.7", TIMEOUT);
    add_addresses(&live, "client1", ["192.0.2.99/24", "2001:db8::99/64"]).await;
    let client = live.netlink("client1");
    let there = client.link_by_name(VLAN).await.expect(VLAN).index;
    let soon = Duration::from_secs(5);
    let found = client.resolve_neighbour(there, ip(VIPS[1]), soon).await.expect("asked");
    assert_eq!(found, None, "the warning is right");
    add_addresses(&live, "director", ["192.0.2.2/24", "2001:db8::2/64"]).await;
    let director = live.netlink("director");
    let vlan = director.link_by_name(VLAN).await.expect(VLAN);
    wait_until("assigned", TIMEOUT, || assigned_to(&director, vlan.index) == VIPS.map(ip));
    for vip in VIPS {
        let found = client.resolve_neighbour(there, ip(vip), TIMEOUT).await.expect("asked");
        assert_eq!(found, Some(vlan.mac), "{vip}");
    }
    // No longer the VLAN's subnet.
    director.remove_address(vlan.index, ip("2001:db8::2"), 64).await.expect("removed");
    wait_until("withdrawn", TIMEOUT, || assigned_to(&director, vlan.index) == [ip(VIPS[0])]);
    daemon.end(Signal::SIGTERM);
    live.detach();
    assert!(assigned_to(&director, vlan.index).is_empty(), "withdrawn by detach");
}

fn add_vlan(live: &Live, node: &str) {
    let mut ip = Command::new("ip");
    ip.args(["link", "add", "link", "eth0", "name", VLAN, "up", "type", "vlan", "id", "7"]);
    live.node(node).place(&mut ip).expect("placed");
    assert!(ip.status().expect("runs").success(), "a VLAN device on {node}");
}

async fn add_addresses(live: &Live, node: &str, addresses: [&str; 2]) {
    let netlink = live.netlink(node);
    let index = netlink.link_by_name(VLAN).await.expect(VLAN).index;
    for address in addresses {
        let (address, bits) = address.split_once('/').expect("a prefix");
        let bits = bits.parse().expect("a number");
        netlink.add_address(index, ip(address), bits).await.expect("added");
    }
}

/// The VIPs on an interface.
fn assigned_to(netlink: &Netlink, index: u32) -> Vec<std::net::IpAddr> {
    let addresses = tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(netlink.addresses()).expect("listed")
    });
    let mut vips: Vec<_> = addresses
        .iter()
        .filter(|a| a.link_index == index && VIPS.map(ip).contains(&a.address))
        .map(|a| a.address)
        .collect();
    vips.sort();
    vips
}
