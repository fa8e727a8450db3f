//! The checks, one fault at a time: a healthy host with one change, and its findings.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Finding, Level,
    facts::{DirectorFacts, HostFacts, Nic, VipOwner},
    interface, path,
    realserver::{self, RealserverExpectation, RealserverFacts},
    vip,
};
use crate::{
    kernel::net::{
        Address, AddressScope, Channels, Driver, Feature, Link, NetError, NextHop, XdpAttached,
        XdpFeatures, XdpMode,
    },
    policy::config::{
        self,
        model::{AttachMode, Role},
    },
    setup::realserver::Forward,
};

const CONFIG: &str = r#"
interfaces:
  - {name: eth0}
services:
  - name: web
    address: 192.0.2.10
    protocol: tcp
    port: 80
    forward: tunnel
    backends:
      - {address: 10.0.0.11}
      - {address: 10.0.0.12}
  - name: dns
    address: "2001:db8::53"
    protocol: udp
    port: 53
    forward: direct
    backends:
      - {address: "2001:db8:1::11"}
"#;

const LO: u32 = 1;
const ETH0: u32 = 2;
const ETH1: u32 = 3;
/// Basic, redirect, redirect target.
const ALL_XDP: XdpFeatures = XdpFeatures::from_bits(0b111);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, index as u8],
        ethernet: name != "lo",
        loopback: name == "lo",
        mtu,
        up: true,
        running: true,
        kind: None,
        parent: None,
        vlan_id: None,
        master: None,
        rx_queues: 1,
        tx_queues: 1,
        xdp: None,
    }
}

fn address(link_index: u32, text: &str) -> Address {
    let (address, prefix_len) = text.split_once('/').expect("a prefix");
    Address {
        link_index,
        address: ip(address),
        prefix_len: prefix_len.parse().expect("a length"),
        scope: AddressScope::Global,
        tentative: false,
        secondary: false,
    }
}

fn settings(values: &[(&str, &str)]) -> BTreeMap<String, String> {
    values.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
}

fn hop(backend: &str) -> NextHop {
    NextHop {
        link_index: ETH1,
        route_link_index: ETH1,
        vlan: None,
        neighbour: ip(backend),
        on_link: true,
        source: Some(ip("10.0.0.1")),
        mac: Some([2, 0, 0, 0, 0, 0x11]),
        own_mac: [2, 0, 0, 0, 0, 3],
        mtu: 1600,
        route_mtu: None,
        route_mtu_ends: None,
    }
}

fn nic() -> Nic {
    Nic {
        driver: Some(Driver { name: "ice".into(), version: String::new(), bus: String::new() }),
        channels: Some(Channels { rx: 8, tx: 8, max_rx: 64, max_tx: 64 }),
        features: Vec::new(),
        xdp: Some(ALL_XDP),
    }
}

fn host() -> HostFacts {
    HostFacts {
        cpus: 8,
        links: vec![link(LO, "lo", 65536), link(ETH0, "eth0", 1500), link(ETH1, "eth1", 1600)],
        addresses: vec![
            address(ETH0, "192.0.2.1/24"),
            address(ETH0, "192.0.2.10/32"),
            address(ETH0, "2001:db8::1/64"),
            address(ETH0, "2001:db8::53/128"),
            address(ETH1, "10.0.0.1/24"),
        ],
        nics: [("eth0".to_owned(), nic()), ("eth1".to_owned(), nic())].into(),
        ..HostFacts::default()
    }
}

fn director() -> DirectorFacts {
    director_with(CONFIG)
}

fn director_with(yaml: &str) -> DirectorFacts {
    let config = config::parse("test", yaml).expect("a valid configuration").config;
    let next_hops = config
        .services
        .iter()
        .flat_map(|service| &service.backends)
        .map(|backend| (backend.address, Ok(hop(&backend.address.to_string()))))
        .collect();
    DirectorFacts { host: host(), config, next_hops, owners: BTreeMap::new() }
}

/// Checks that exactly one finding has the level, that it has the subject, and that message and fix
/// contain the words.
#[track_caller]
fn only(findings: &[Finding], level: Level, subject: &str, words: &[&str]) {
    let found: Vec<&Finding> = findings.iter().filter(|f| f.level == level).collect();
    let [finding] = found[..] else {
        panic!("want one {level} finding: {findings:#?}");
    };
    assert_eq!(finding.subject, subject, "{finding:?}");
    let text = format!("{} {}", finding.message, finding.fix.as_deref().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[track_caller]
fn healthy(findings: &[Finding]) {
    assert!(findings.iter().all(|f| f.level == Level::Ok), "{findings:#?}");
}

#[test]
fn all_findings_of_a_healthy_director_are_ok() {
    let facts = director();
    for check in super::DIRECTOR {
        healthy(&check(&facts));
    }
}

#[test]
fn an_interface_that_is_down_missing_or_unplugged() {
    let mut facts = director();
    facts.host.links[1].up = false;
    only(&interface::links(&facts), Level::Fail, "eth0", &["down", "ip link set eth0 up"]);
    facts.host.links[1].up = true;
    facts.host.links[1].running = false;
    only(&interface::links(&facts), Level::Fail, "eth0", &["no carrier"]);
    facts.host.links.remove(1);
    only(&interface::links(&facts), Level::Fail, "eth0", &["does not exist", "eth1"]);
    let none = director_with("services: []");
    only(&interface::links(&none), Level::Fail, "interfaces", &["names no interface"]);
}

#[test]
fn a_generic_only_driver() {
    let mut facts = director();
    let nic = facts.host.nics.get_mut("eth0").expect("eth0");
    nic.xdp = Some(XdpFeatures::from_bits(0));
    let findings = interface::native_xdp(&facts);
    only(&findings, Level::Fail, "eth0", &["ice", "generic", "mode: generic"]);

    let mut generic = director_with(&CONFIG.replace("{name: eth0}", "{name: eth0, mode: generic}"));
    generic.host.nics.get_mut("eth0").expect("eth0").xdp = Some(XdpFeatures::from_bits(0));
    healthy(&interface::native_xdp(&generic));

    facts.host.nics.get_mut("eth0").expect("eth0").xdp = None;
    only(&interface::native_xdp(&facts), Level::Warn, "eth0", &["does not report"]);
    facts.host.links[1].ethernet = false;
    only(&interface::native_xdp(&facts), Level::Fail, "eth0", &["Ethernet"]);
}

#[test]
fn a_veth_whose_other_end_accepts_no_frames() {
    let mut facts = director();
    facts.host.links[1].kind = Some("veth".into());
    healthy(&interface::native_xdp(&facts));
    facts.host.nics.get_mut("eth0").expect("eth0").xdp = Some(XdpFeatures::from_bits(0b11));
    only(&interface::native_xdp(&facts), Level::Warn, "eth0", &["other end", "gro on"]);
}

#[test]
fn a_foreign_program() {
    let mut facts = director();
    facts.host.links[1].xdp = Some(XdpAttached { prog_id: 42, mode: XdpMode::Native });
    let findings = interface::foreign_program(&facts);
    only(&findings, Level::Fail, "eth0", &["unknown name", "42", "native"]);
    facts.host.programs.insert(42, "katran".into());
    only(&interface::foreign_program(&facts), Level::Fail, "eth0", &["katran", "xdp off"]);
    facts.host.programs.insert(42, "director".into());
    healthy(&interface::foreign_program(&facts));
    // An egress interface has a program of its own.
    facts.config.interfaces[0].role = Role::Egress;
    only(&interface::foreign_program(&facts), Level::Fail, "eth0", &["director", "xdp off"]);
    facts.host.programs.insert(42, "egress".into());
    healthy(&interface::foreign_program(&facts));
}

#[test]
fn a_native_program_shows_what_an_old_kernel_does_not_report() {
    let mut facts = director();
    facts.host.nics.get_mut("eth0").expect("eth0").xdp = None;
    only(&interface::native_xdp(&facts), Level::Warn, "eth0", &["does not report"]);
    facts.host.links[1].xdp = Some(XdpAttached { prog_id: 42, mode: XdpMode::Native });
    healthy(&interface::native_xdp(&facts));
}

#[test]
fn a_bond_s_port() {
    let mut facts = director();
    facts.host.links[1].master = Some(9);
    facts.host.links.push(Link { kind: Some("bond".into()), ..link(9, "bond0", 1500) });
    only(&interface::ports(&facts), Level::Fail, "eth0", &["bond0"]);
    facts.host.links[3].kind = Some("bridge".into());
    healthy(&interface::ports(&facts));
}

#[test]
fn offloads_that_merge_packets_or_strip_tags() {
    let feature = |name: &str| Feature { name: name.into(), active: true, fixed: false };
    let mut facts = director();
    let offload = |facts: &mut DirectorFacts, name| {
        facts.host.nics.get_mut("eth0").expect("eth0").features = vec![feature(name)];
    };
    offload(&mut facts, "rx-lro");
    only(&interface::offloads(&facts), Level::Warn, "eth0", &["rx-lro", "lro off"]);
    offload(&mut facts, "rx-gro-hw");
    only(&interface::offloads(&facts), Level::Warn, "eth0", &["rx-gro-hw off"]);
    offload(&mut facts, "rx-vlan-hw-parse");
    healthy(&interface::offloads(&facts));
    facts.host.links.push(Link { vlan_id: Some(7), parent: Some(ETH0), ..link(9, "eth0.7", 1500) });
    only(&interface::offloads(&facts), Level::Warn, "eth0", &["rxvlan off"]);
    // In generic mode, the tag stays on what is sent.
    facts.config.interfaces[0].mode = AttachMode::Generic;
    let words = ["mode: generic", "eth0.7", "rxvlan off", "attach to eth0.7"];
    only(&interface::offloads(&facts), Level::Fail, "eth0", &words);
    facts.config.interfaces[0].role = Role::Egress;
    only(&interface::offloads(&facts), Level::Warn, "eth0", &["rxvlan off"]);
}

#[test]
fn unused_queues() {
    let mut facts = director();
    let channels = Channels { rx: 2, tx: 2, max_rx: 64, max_tx: 64 };
    facts.host.nics.get_mut("eth0").expect("eth0").channels = Some(channels);
    only(&interface::queues(&facts), Level::Warn, "eth0", &["2 receive", "8 CPUs", "combined 8"]);
    facts.host.links[1].kind = Some("veth".into());
    healthy(&interface::queues(&facts));
}

#[test]
fn a_vip_that_no_host_answers_for() {
    let missing = |owner: Option<VipOwner>, yaml: &str| {
        let mut facts = director_with(yaml);
        facts.host.addresses.retain(|a| a.address != ip("192.0.2.10"));
        let key = ("eth0".to_owned(), ip("192.0.2.10"));
        facts.owners.extend(owner.map(|owner| (key, owner)));
        vip::answered(&facts)
    };
    let assigns = CONFIG.replace("{name: eth0}", "{name: eth0, assign_vips: true}");
    let owner = VipOwner::Host([2, 0, 0, 0, 0, 9]);
    let vip = "192.0.2.10";
    only(
        &missing(Some(VipOwner::NoAnswer), CONFIG),
        Level::Fail,
        vip,
        &["no host answers ARP", "eth0", "ip address add 192.0.2.10/32", "assign_vips"],
    );
    healthy(&missing(Some(VipOwner::NoAnswer), &assigns));
    healthy(&missing(Some(owner.clone()), CONFIG));
    only(&missing(Some(owner), &assigns), Level::Fail, vip, &["02:00:00:00:00:09"]);
    let unknown = VipOwner::Unknown("eth0 is down".into());
    only(&missing(Some(unknown), CONFIG), Level::Warn, vip, &["eth0 is down"]);
    only(&missing(None, CONFIG), Level::Warn, vip, &["was not looked up"]);
}

#[test]
fn a_vip_on_another_interface() {
    let move_to = |vip: &str, link: u32| {
        let mut facts = director();
        for address in &mut facts.host.addresses {
            if address.address == ip(vip) {
                address.link_index = link;
            }
        }
        facts
    };
    // For IPv4 any interface answers, unless arp_ignore is set.
    let mut facts = move_to("192.0.2.10", LO);
    healthy(&vip::answered(&facts));
    facts.host.sysctls = settings(&[("net/ipv4/conf/all/arp_ignore", "1")]);
    only(&vip::answered(&facts), Level::Fail, "192.0.2.10", &["arp_ignore is 1", "lo"]);
    facts.host.addresses.retain(|a| a.address != ip("192.0.2.1"));
    healthy(&vip::answered(&facts));
    // For IPv6 only its own.
    let mut facts = move_to("2001:db8::53", LO);
    only(&vip::answered(&facts), Level::Fail, "2001:db8::53", &["neighbour discovery", "lo"]);
    facts.host.addresses.retain(|a| a.address != ip("2001:db8::1"));
    healthy(&vip::answered(&facts));
}

#[test]
fn a_vip_that_is_a_duplicate() {
    let mut facts = director();
    facts.host.addresses[3].tentative = true;
    only(&vip::answered(&facts), Level::Fail, "2001:db8::53", &["duplicate", "nodad"]);
}

#[test]
fn backends_without_a_route() {
    let mut facts = director();
    let backend = ip("10.0.0.11");
    let reason = "the routing table has none".to_owned();
    facts.next_hops.insert(backend, Err(NetError::NoRoute { destination: backend, reason }));
    let findings = path::routes(&facts);
    only(&findings, Level::Fail, "10.0.0.11", &["web", "no route", "ip route add 10.0.0.11"]);
    facts.next_hops.insert(backend, Err(NetError::OwnAddress { address: backend }));
    only(&path::routes(&facts), Level::Fail, "10.0.0.11", &["this host"]);
    facts.next_hops.remove(&backend);
    only(&path::routes(&facts), Level::Warn, "10.0.0.11", &["doctor again"]);
}

#[test]
fn a_direct_backend_behind_a_router() {
    let mut facts = director();
    let backend = ip("2001:db8:1::11");
    let behind = NextHop { on_link: false, neighbour: ip("2001:db8::fe"), ..hop("2001:db8:1::11") };
    facts.next_hops.insert(backend, Ok(behind));
    let words = ["dns", "2001:db8::fe", "forward: tunnel"];
    only(&path::routes(&facts), Level::Fail, "2001:db8:1::11", &words);
    // A tunnel goes through any router.
    let behind = NextHop { on_link: false, neighbour: ip("10.0.0.254"), ..hop("10.0.0.11") };
    let mut facts = director();
    facts.next_hops.insert(ip("10.0.0.11"), Ok(behind));
    healthy(&path::routes(&facts));
}

#[test]
fn a_silent_neighbour() {
    let mut facts = director();
    facts.next_hops.insert(ip("10.0.0.12"), Ok(NextHop { mac: None, ..hop("10.0.0.12") }));
    let words = ["backend 10.0.0.12", "ARP", "eth1", "mac:"];
    only(&path::neighbours(&facts), Level::Fail, "10.0.0.12", &words);
    // A router of several backends is one finding.
    for backend in ["10.0.0.11", "10.0.0.12", "2001:db8:1::11"] {
        let silent =
            NextHop { mac: None, neighbour: ip("10.0.0.254"), on_link: false, ..hop(backend) };
        facts.next_hops.insert(ip(backend), Ok(silent));
    }
    let words = ["next hop of 10.0.0.11, 10.0.0.12, 2001:db8:1::11"];
    only(&path::neighbours(&facts), Level::Fail, "10.0.0.254", &words);
}

#[test]
fn a_backend_with_a_mac_needs_no_neighbour() {
    let given = "{address: 10.0.0.11, mac: \"02:00:00:00:00:aa\"}";
    let mut facts = director_with(&CONFIG.replace("{address: 10.0.0.11}", given));
    facts.next_hops.insert(ip("10.0.0.11"), Ok(NextHop { mac: None, ..hop("10.0.0.11") }));
    healthy(&path::neighbours(&facts));
}

#[test]
fn a_neighbour_table_too_small() {
    let mut facts = director();
    facts.host.sysctls = settings(&[("net/ipv4/neigh/default/gc_thresh3", "3")]);
    let subject = "net.ipv4.neigh.default.gc_thresh3";
    only(&path::neighbour_table(&facts), Level::Warn, subject, &["2 next hops", "holds 3"]);
    facts.host.sysctls = settings(&[("net/ipv4/neigh/default/gc_thresh3", "1024")]);
    healthy(&path::neighbour_table(&facts));
}

#[test]
fn an_mtu_too_small_for_the_tunnel() {
    let with_mtu = |mtu: u32| {
        let mut facts = director();
        for hop in facts.next_hops.values_mut().flatten() {
            hop.mtu = mtu;
        }
        facts
    };
    healthy(&path::mtu(&with_mtu(1520)));
    let mut one_nic = with_mtu(1520);
    one_nic.host.links[1].mtu = 1520;
    healthy(&path::mtu(&one_nic));
    only(
        &path::mtu(&with_mtu(1519)),
        Level::Warn,
        "eth1",
        &["1519", "adds 20", "1499", "1500", "mtu 1520", "advmss 1459", "10.0.0.11, 10.0.0.12"],
    );
    only(&path::mtu(&with_mtu(590)), Level::Fail, "eth1", &["576"]);
    // The outer header is the backend's family's; the minimum is the VIP's.
    let v6 = CONFIG.replace("forward: direct", "forward: tunnel");
    let mut facts = director_with(&v6);
    facts
        .next_hops
        .insert(ip("2001:db8:1::11"), Ok(NextHop { mtu: 1530, ..hop("2001:db8:1::11") }));
    only(&path::mtu(&facts), Level::Warn, "eth1", &["adds 40", "1490", "mtu 1540", "advmss 1430"]);
    facts
        .next_hops
        .insert(ip("2001:db8:1::11"), Ok(NextHop { mtu: 1300, ..hop("2001:db8:1::11") }));
    only(&path::mtu(&facts), Level::Fail, "eth1", &["1260", "1280", "IPv6"]);
}

#[test]
fn no_source_for_the_tunnel() {
    let mut facts = director();
    facts.next_hops.insert(ip("10.0.0.12"), Ok(NextHop { source: None, ..hop("10.0.0.12") }));
    only(&path::tunnel_source(&facts), Level::Fail, "tunnel.source", &["10.0.0.12"]);
    let fixed = format!("tunnel: {{source: 10.0.0.1}}\n{CONFIG}");
    let mut facts = director_with(&fixed);
    facts.next_hops.insert(ip("10.0.0.12"), Ok(NextHop { source: None, ..hop("10.0.0.12") }));
    healthy(&path::tunnel_source(&facts));
}

#[test]
fn an_egress_that_accepts_no_frames() {
    let mut facts = director();
    facts.host.nics.get_mut("eth1").expect("eth1").xdp = Some(XdpFeatures::from_bits(0b11));
    only(&path::egress(&facts), Level::Fail, "eth1", &["role: egress"]);
    let named = CONFIG.replace("- {name: eth0}", "- {name: eth0}\n  - {name: eth1, role: egress}");
    let mut facts = director_with(&named);
    facts.host.nics.get_mut("eth1").expect("eth1").xdp = Some(XdpFeatures::from_bits(0b11));
    healthy(&path::egress(&facts));
}

fn real_server() -> RealserverFacts {
    let host = HostFacts {
        links: vec![
            link(LO, "lo", 65536),
            Link {
                xdp: Some(XdpAttached { prog_id: 7, mode: XdpMode::Native }),
                ..link(ETH0, "eth0", 1500)
            },
        ],
        addresses: vec![
            address(ETH0, "10.0.0.11/24"),
            address(LO, "192.0.2.10/32"),
            address(LO, "2001:db8::53/128"),
        ],
        programs: [(7, "realserver".to_owned())].into(),
        sysctls: settings(&[
            ("net/ipv4/conf/all/arp_ignore", "1"),
            ("net/ipv4/conf/eth0/arp_announce", "2"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/eth0/rp_filter", "2"),
        ]),
        ..HostFacts::default()
    };
    let expect = RealserverExpectation {
        vips: [ip("192.0.2.10"), ip("2001:db8::53")].into(),
        interface: None,
        from: BTreeSet::new(),
        forward: Forward::Both,
    };
    RealserverFacts { host, expect, interface: Some("eth0".into()) }
}

#[test]
fn all_findings_of_a_healthy_real_server_are_ok() {
    let facts = real_server();
    for check in super::REALSERVER {
        healthy(&check(&facts));
    }
}

/// IP's and TCP's headers, and the tunnel's, which depends on the directors' family.
#[test]
fn the_mss_that_fits_a_real_server_s_tunnel() {
    for (vips, from, clamps) in [
        (&["192.0.2.10"][..], "10.0.0.1", &["`ip route change", "advmss 1440`"][..]),
        (&["2001:db8::53"], "10.0.0.1", &["`ip -6 route change", "advmss 1420`"]),
        (&["192.0.2.10"], "fd00::1", &["`ip route change", "advmss 1420`"]),
        (&["2001:db8::53"], "fd00::1", &["`ip -6 route change", "advmss 1400`"]),
        (
            &["192.0.2.10", "2001:db8::53"],
            "10.0.0.1",
            &["advmss 1440` and `ip -6 route", "advmss 1420`"],
        ),
    ] {
        let mut facts = real_server();
        facts.expect.vips = vips.iter().map(|vip| ip(vip)).collect();
        facts.expect.from = [ip(from).into()].into();
        only(&realserver::mtu(&facts), Level::Ok, "eth0", clamps);
    }
}

#[test]
fn a_strict_reverse_path_filter() {
    let set = |values: &[(&str, &str)]| {
        let mut facts = real_server();
        facts.host.sysctls = settings(values);
        facts
    };
    let (all, own) = ("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter");
    for strict in [&[(all, "1"), (own, "0")][..], &[(own, "1")], &[(all, "1"), (own, "1")]] {
        let findings = realserver::reverse_path(&set(strict));
        only(&findings, Level::Fail, "rp_filter on eth0", &["strict", "conf/eth0/rp_filter=2"]);
    }
    healthy(&realserver::reverse_path(&set(&[(all, "1"), (own, "2")])));
    healthy(&realserver::reverse_path(&set(&[(all, "0"), (own, "0")])));
    let mut direct = set(&[(all, "1")]);
    direct.expect.forward = Forward::Direct;
    assert!(realserver::reverse_path(&direct).is_empty(), "only tunnels are affected");
}

#[test]
fn arp_settings() {
    let mut facts = real_server();
    facts.host.sysctls = settings(&[("net/ipv4/conf/eth0/arp_announce", "2")]);
    let subject = "arp_ignore on eth0";
    only(&realserver::arp(&facts), Level::Fail, subject, &["is 0", "answers ARP", "arp_ignore=1"]);
    // Behind a tunnel and not on the VIPs' link it may not matter.
    facts.expect.forward = Forward::Tunnel;
    only(&realserver::arp(&facts), Level::Warn, subject, &["is 0"]);
    facts.host.addresses.push(address(ETH0, "192.0.2.2/24"));
    only(&realserver::arp(&facts), Level::Fail, subject, &["is 0"]);
    facts.host.sysctls = settings(&[("net/ipv4/conf/all/arp_ignore", "2")]);
    only(&realserver::arp(&facts), Level::Fail, "arp_announce on eth0", &["claims"]);
    facts.expect.vips = [ip("2001:db8::53")].into();
    assert!(realserver::arp(&facts).is_empty(), "IPv6 has no ARP");
}

#[test]
fn a_vip_missing_or_misplaced_on_a_real_server() {
    let mut facts = real_server();
    facts.host.addresses[1].link_index = ETH0;
    let words = ["is on eth0", "address delete 192.0.2.10/32 dev eth0"];
    only(&realserver::vips(&facts), Level::Fail, "192.0.2.10", &words);
    facts.host.addresses.remove(1);
    let words = ["missing on lo", "ip address add 192.0.2.10/32 dev lo"];
    only(&realserver::vips(&facts), Level::Fail, "192.0.2.10", &words);

    let mut facts = real_server();
    facts.host.addresses.pop();
    facts.host.sysctls = settings(&[("net/ipv6/conf/lo/disable_ipv6", "1")]);
    only(&realserver::vips(&facts), Level::Fail, "2001:db8::53", &["disabled"]);
    facts.expect.vips.clear();
    only(&realserver::vips(&facts), Level::Fail, "VIPs", &["--vip"]);
}

#[test]
fn a_host_without_decapsulation() {
    let mut facts = real_server();
    facts.host.programs.insert(7, "firewall".into());
    let words = ["firewall", "bpftool prog show id 7"];
    only(&realserver::decapsulation(&facts), Level::Fail, "eth0", &words);
    facts.host.links[1].xdp = None;
    only(&realserver::decapsulation(&facts), Level::Fail, "eth0", &["nothing", "--from"]);
    facts.host.links.push(Link { kind: Some("ipip".into()), ..link(9, "tunl0", 1480) });
    healthy(&realserver::decapsulation(&facts));
    // The device has its own reverse-path filter.
    facts.host.sysctls = settings(&[("net/ipv4/conf/tunl0/rp_filter", "1")]);
    only(&realserver::reverse_path(&facts), Level::Fail, "rp_filter on tunl0", &["strict"]);
    facts.expect.forward = Forward::Direct;
    assert!(realserver::decapsulation(&facts).is_empty());
}

#[test]
fn a_real_server_s_interface() {
    let mut facts = real_server();
    facts.host.links[1].up = false;
    only(&realserver::link(&facts), Level::Fail, "eth0", &["down"]);
    facts.interface = None;
    only(&realserver::link(&facts), Level::Fail, "interface", &["--interface"]);
}
