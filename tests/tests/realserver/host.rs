//! Set-up and removal on a host, which a namespace stands for.

use std::{collections::BTreeMap, net::IpAddr};

use director_userspace::{
    kernel::net::{NetNs, Netlink},
    setup::{
        lab::Lab,
        realserver::{self, Forward, Mode, RealServer, RealServerError, Settings, Step},
    },
};

const VIPS: [&str; 2] = ["192.0.2.77", "2001:db8:77::1"];

/// A lab's client as the host, and a real server named after the test.
async fn host(test: &str) -> (Lab, Netlink, RealServer) {
    let name = format!("trs-{}-{test}", std::process::id());
    let lab = Lab::builder().name(&name).build().await.expect("a lab");
    let netns = lab.node("client1").expect("exists").netns();
    let netlink = Netlink::connect_in(netns).expect("connects");
    let server = RealServer::new(netlink.clone(), Some(&name)).expect("a real server");
    (lab, netlink, server)
}

fn settings() -> Settings {
    Settings {
        vips: VIPS.map(|vip| vip.parse().expect(vip)).into(),
        from: ["198.18.0.0/24".parse().expect("a prefix")].into(),
        interface: None,
        mode: Mode::Native,
        forward: Forward::Tunnel,
    }
}

/// Everything that set-up may change: addresses on lo, the settings, the program on eth0.
async fn snapshot(netlink: &Netlink) -> (Vec<IpAddr>, BTreeMap<String, String>, bool) {
    let lo = netlink.link_by_name("lo").await.expect("lo").index;
    let addresses = netlink.addresses().await.expect("listed");
    let on_lo = addresses.iter().filter(|address| address.link_index == lo);
    let mut sysctls = BTreeMap::new();
    for interface in ["all", "eth0"] {
        for what in ["arp_ignore", "arp_announce", "rp_filter"] {
            let key = format!("net/ipv4/conf/{interface}/{what}");
            let value = netlink.sysctl(&key).expect("readable").expect("exists");
            sysctls.insert(key, value);
        }
    }
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
    (on_lo.map(|address| address.address).collect(), sysctls, eth0.xdp.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_twice_then_other_then_down() {
    let (_lab, netlink, server) = host("cycle").await;
    netlink.set_sysctl("net/ipv4/conf/eth0/rp_filter", "1").expect("writable");
    let before = snapshot(&netlink).await;

    let steps = server.up(&settings()).await.expect("set up");
    assert!(steps.iter().any(|step| matches!(step, Step::AttachDecap(_))), "{steps:?}");
    let (addresses, sysctls, program) = snapshot(&netlink).await;
    for vip in VIPS {
        assert!(addresses.contains(&vip.parse().expect(vip)), "{vip}");
    }
    assert_eq!(sysctls["net/ipv4/conf/all/arp_ignore"], "1");
    assert_eq!(sysctls["net/ipv4/conf/eth0/arp_announce"], "2");
    assert_ne!(sysctls["net/ipv4/conf/eth0/rp_filter"], "1", "strict");
    assert!(program);

    assert_eq!(server.up(&settings()).await.expect("nothing to do"), [], "the second run");

    let other = Settings { vips: [VIPS[0].parse().expect("an address")].into(), ..settings() };
    let steps = server.up(&other).await.expect("changed");
    assert!(steps.iter().any(|step| matches!(step, Step::ReplaceDecap { .. })), "{steps:?}");
    let status = server.status().await.expect("read");
    assert!(status.up);
    assert_eq!(status.vips.len(), 1);
    let decap = status.decapsulation.expect("tunnels are accepted");
    assert!(decap.attached);
    assert_eq!(decap.packets.len(), 5);

    server.down().await.expect("taken down");
    assert_eq!(snapshot(&netlink).await, before);
    assert!(!server.status().await.expect("read").up);
    assert_eq!(server.down().await.expect("nothing to do"), [], "the second run");
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_changes_nothing() {
    let (_lab, netlink, server) = host("plan").await;
    let before = snapshot(&netlink).await;
    let planned = server.plan_up(&settings()).await.expect("possible");
    assert!(!planned.is_empty());
    assert_eq!(snapshot(&netlink).await, before);
    assert_eq!(server.up(&settings()).await.expect("set up"), planned);
    let planned = server.plan_down().await.expect("possible");
    assert_eq!(server.down().await.expect("taken down"), planned);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_set_up_is_undone() {
    let (lab, ..) = host("undo").await;
    // A bridge has no native XDP, so the program cannot be attached, after ARP has been changed.
    let netlink = Netlink::connect_in(lab.node("switch").expect("exists").netns()).expect("in");
    let key = "net/ipv4/conf/all/arp_ignore";
    let before = netlink.sysctl(key).expect("readable");
    let server = RealServer::new(netlink.clone(), Some(lab.name())).expect("a real server");
    let on_bridge = Settings {
        interface: Some("br0".into()),
        vips: [VIPS[0].parse().expect("an address")].into(),
        ..settings()
    };
    let error = server.up(&on_bridge).await.expect_err("a bridge has no native XDP");
    let text = error.to_string();
    assert!(text.contains("all steps before it were undone"), "{text}");
    assert!(text.contains("--mode generic"), "{text}");
    assert_eq!(netlink.sysctl(key).expect("readable"), before);
    assert!(!server.status().await.expect("read").up, "no record is left");

    let generic = Settings { mode: Mode::Generic, ..on_bridge };
    server.up(&generic).await.expect("generic works everywhere");
    server.down().await.expect("taken down");
    assert_eq!(netlink.sysctl(key).expect("readable"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_is_kept_and_reported() {
    let (_lab, netlink, server) = host("foreign").await;
    let mut ebpf = realserver::load_pass().expect("loads");
    let program = ebpf.program_mut(realserver::PASS).expect("in the object");
    let program: &mut aya::programs::Xdp = program.try_into().expect("XDP");
    let id = program.info().expect("loaded").id();
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    let fd = program.fd().expect("loaded");
    netlink.attach_xdp(eth0, std::os::fd::AsFd::as_fd(fd)).await.expect("attached");

    let error = server.up(&settings()).await.expect_err("occupied");
    assert!(matches!(error, RealServerError::Refused(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("eth0 carries another XDP program, pass (id {id})")), "{text}");
    let direct = Settings { forward: Forward::Direct, ..settings() };
    server.up(&direct).await.expect("direct routing needs no program");
    server.down().await.expect("taken down");
    let left = netlink.link_by_name("eth0").await.expect("eth0").xdp.expect("still there");
    assert_eq!(left.prog_id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vip_on_a_network_interface_is_refused() {
    let (_lab, netlink, server) = host("vip").await;
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    let vip = VIPS[0].parse().expect("an address");
    netlink.add_address(eth0, vip, 24).await.expect("added");
    let error = server.up(&settings()).await.expect_err("occupied").to_string();
    assert!(error.contains("ip address delete 192.0.2.77/24 dev eth0"), "{error}");
    let elsewhere = Settings { interface: Some("eth9".into()), ..settings() };
    let error = server.up(&elsewhere).await.expect_err("no such interface").to_string();
    assert!(error.contains("no interface eth9 here; there are: eth0"), "{error}");
    assert!(error.contains("192.0.2.77"), "all errors at once: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_interface_was_removed_can_be_set_up_again() {
    let (lab, netlink, server) = host("gone").await;
    server.up(&settings()).await.expect("set up");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    netlink.delete_link(eth0).await.expect("deleted");
    let status = server.status().await.expect("read");
    assert!(!status.decapsulation.expect("recorded").attached);
    // A new veth pair under the old name.
    let switch = lab.node("switch").expect("exists").netns();
    let plug = director_userspace::kernel::net::LinkEnd { name: "eth0", netns: None, mac: None };
    let port =
        director_userspace::kernel::net::LinkEnd { name: "again", netns: Some(switch), mac: None };
    netlink.create_veth(plug, port).await.expect("a veth pair");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    netlink.set_up(eth0, true).await.expect("up");
    let there = Netlink::connect_in(switch).expect("connects");
    let port = there.link_by_name("again").await.expect("exists").index;
    there.set_up(port, true).await.expect("up");
    server.up(&Settings { interface: Some("eth0".into()), ..settings() }).await.expect("again");
    assert!(server.status().await.expect("read").decapsulation.expect("there").attached);
    server.down().await.expect("taken down");
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_names_cannot_leave_their_directory() {
    let netns = NetNs::current().expect("proc");
    let netlink = Netlink::connect_in(&netns).expect("connects");
    for name in ["", "../x", "a/b", "A"] {
        let refused = RealServer::new(netlink.clone(), Some(name));
        assert!(matches!(refused, Err(RealServerError::BadInstance { .. })), "{name:?}");
    }
}
