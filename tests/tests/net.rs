//! `net` against a real kernel: namespaces, devices, routes and neighbours created by the tests.
//!
//! ```text
//! left: l0 10.77.0.1/24, 2001:db8:77::1/64  ------ veth ------  right: r0 10.77.0.2/24, ::2/64
//! ```

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use director_userspace::kernel::net::{
    AddressScope, Change, Link, LinkEnd, Managed, NeighbourState, NetError, NetNs, Netlink,
    NewRoute, RouteKind,
};
use nix::errno::Errno;
use xtask::vm::{KernelVersion, Vm};

const LEFT_MAC: [u8; 6] = [0x02, 0, 0, 0x77, 0, 1];
const RIGHT_MAC: [u8; 6] = [0x02, 0, 0, 0x77, 0, 2];
const WAIT: Duration = Duration::from_secs(2);

/// A named network namespace, removed when dropped.
struct TestNs {
    name: String,
    netns: NetNs,
}

impl TestNs {
    fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dnet{}-{number}-{role}", std::process::id());
        let netns = NetNs::create(&name).expect("root can create namespaces");
        Self { name, netns }
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        if let Err(error) = NetNs::delete(&self.name) {
            eprintln!("{error}");
        }
    }
}

/// Two namespaces connected by a veth pair.
struct Pair {
    left: Netlink,
    right: Netlink,
    l0: Link,
    r0: Link,
    left_ns: TestNs,
    _right_ns: TestNs,
}

impl Pair {
    async fn new() -> Self {
        let (left_ns, right_ns) = (TestNs::new("left"), TestNs::new("right"));
        let left = Netlink::connect_in(&left_ns.netns).expect("connects");
        let right = Netlink::connect_in(&right_ns.netns).expect("connects");
        let here = Netlink::connect().expect("connects");
        here.create_veth(
            LinkEnd { name: "l0", netns: Some(&left_ns.netns), mac: Some(LEFT_MAC) },
            LinkEnd { name: "r0", netns: Some(&right_ns.netns), mac: Some(RIGHT_MAC) },
        )
        .await
        .expect("a veth pair");
        for (side, name, last) in [(&left, "l0", 1), (&right, "r0", 2)] {
            let link = side.link_by_name(name).await.expect("is there");
            side.set_sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0").expect("sysctl");
            side.add_address(link.index, v4(last), 24).await.expect("an address");
            side.add_address(link.index, v6(u16::from(last)), 64).await.expect("an address");
            side.set_up(link.index, true).await.expect("up");
        }
        let l0 = running(&left, "l0").await;
        let r0 = running(&right, "r0").await;
        Self { left, right, l0, r0, left_ns, _right_ns: right_ns }
    }
}

async fn running(side: &Netlink, name: &str) -> Link {
    let started = Instant::now();
    loop {
        let link = side.link_by_name(name).await.expect("is there");
        if link.running {
            return link;
        }
        assert!(started.elapsed() < WAIT, "{name} has no carrier: {link:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether this kernel has this version or a later one.
fn kernel_is(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    let mut numbers = release.split('.').map(|number| number.parse().expect("a number"));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// How a neighbour that the kernel should keep fresh is managed.
fn kept() -> Managed {
    if kernel_is(5, 16) { Managed::ByKernel } else { Managed::ProbedOnce }
}

fn v4(last: u8) -> IpAddr {
    [10, 77, 0, last].into()
}

fn v6(last: u16) -> IpAddr {
    [0x2001, 0xdb8, 0x77, 0, 0, 0, 0, last].into()
}

#[tokio::test]
async fn a_named_namespace_is_created_and_deleted() {
    let ns = TestNs::new("life");
    assert!(NetNs::names().expect("listable").contains(&ns.name));
    let again = NetNs::create(&ns.name).expect_err("the name is taken");
    assert!(matches!(again, NetError::NamespaceExists { .. }), "{again}");
    assert_ne!(ns.netns.id().expect("stat"), NetNs::current().expect("proc").id().expect("stat"));

    let reopened = NetNs::open(&ns.name).expect("is there");
    assert_eq!(reopened.id().expect("stat"), ns.netns.id().expect("stat"));
    let shown = std::process::Command::new("ip").args(["netns", "list"]).output().expect("runs");
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&ns.name), "ip netns lists it too");

    let name = ns.name.clone();
    drop(ns);
    assert!(!NetNs::names().expect("listable").contains(&name));
    let gone = NetNs::delete(&name).expect_err("was removed");
    assert!(matches!(gone, NetError::NoSuchNamespace { .. }), "{gone}");
}

#[tokio::test]
async fn a_closure_and_a_command_run_inside() {
    let ns = TestNs::new("inside");
    let before = NetNs::current().expect("proc").id().expect("stat");
    let inside = ns.netns.run(|| NetNs::current()?.id()).expect("enters");
    assert_eq!(inside, ns.netns.id().expect("stat"));
    assert_eq!(
        NetNs::current().expect("proc").id().expect("stat"),
        before,
        "the thread stays outside"
    );

    let shown = ns
        .netns
        .command("readlink")
        .expect("a command")
        .arg("/proc/self/ns/net")
        .output()
        .expect("runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(shown.trim(), format!("net:[{}]", inside.1));
}

#[tokio::test]
async fn links_are_those_of_the_namespace() {
    let pair = Pair::new().await;
    let names: Vec<String> =
        pair.left.links().await.expect("a list").into_iter().map(|link| link.name).collect();
    assert!(names.contains(&"lo".to_owned()) && names.contains(&"l0".to_owned()), "{names:?}");
    assert!(!names.contains(&"r0".to_owned()), "{names:?}");

    let l0 = &pair.l0;
    assert_eq!((l0.mac, l0.mtu, l0.kind.as_deref()), (LEFT_MAC, 1500, Some("veth")));
    assert!(l0.up && l0.running && l0.ethernet && !l0.loopback);
    assert_eq!((l0.parent, l0.master, l0.xdp), (None, None, None));
    assert_eq!(pair.left.link_by_index(l0.index).await.expect("is there").name, "l0");

    let missing = pair.left.link_by_name("r0").await.expect_err("is elsewhere");
    assert!(matches!(missing, NetError::NoSuchInterface { .. }), "{missing}");
    let missing = pair.left.link_by_name("a-name-no-interface-can-have").await.expect_err("none");
    assert!(matches!(missing, NetError::NoSuchInterface { .. }), "{missing}");
    let missing = pair.left.link_by_index(4711).await.expect_err("none");
    assert!(matches!(missing, NetError::NoSuchIndex { .. }), "{missing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_concurrent_requests() {
    let pair = Pair::new().await;
    // The kernel refuses a dump while another is in progress: some of these would overlap.
    for _ in 0..100 {
        let [one, two] = [pair.left.clone(), pair.left.clone()]
            .map(|left| tokio::spawn(async move { left.addresses().await }));
        for answer in [one, two] {
            let addresses = answer.await.expect("no panic").expect("no refusal");
            assert!(addresses.iter().any(|a| a.address == v4(1)), "{addresses:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_dump_does_not_block_others() {
    let pair = Pair::new().await;
    for yields in 0..100 {
        // Cancelled at every stage: before the request is sent, and before its answer.
        let cancelled = async {
            for _ in 0..yields % 10 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = pair.left.addresses() => {}
            () = cancelled => {}
        }
        assert!(pair.left.addresses().await.expect("no refusal").len() >= 2);
    }
}

#[tokio::test]
async fn links_change() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    left.set_mtu(index, 1400).await.expect("an MTU");
    left.set_mac(index, [2, 0, 0, 0, 0, 5]).await.expect("a MAC");
    left.create_bridge("br0").await.expect("a bridge");
    let bridge = left.link_by_name("br0").await.expect("is there");
    left.set_master(index, Some(bridge.index)).await.expect("a port");
    let link = left.link_by_index(index).await.expect("is there");
    assert_eq!((link.mtu, link.mac), (1400, [2, 0, 0, 0, 0, 5]));
    assert_eq!((link.master, bridge.kind.as_deref()), (Some(bridge.index), Some("bridge")));

    left.set_master(index, None).await.expect("no port");
    left.set_up(index, false).await.expect("down");
    left.rename_link(index, "eth7").await.expect("renames");
    let link = left.link_by_name("eth7").await.expect("has its new name");
    assert_eq!((link.index, link.up, link.running, link.master), (index, false, false, None));

    left.create_macvlan("mv0", bridge.index).await.expect("a macvlan");
    let macvlan = left.link_by_name("mv0").await.expect("is there");
    assert_eq!((macvlan.kind.as_deref(), macvlan.parent), (Some("macvlan"), Some(bridge.index)));
    left.delete_link(index).await.expect("deleted");
    assert!(pair.right.link_by_name("r0").await.is_err(), "its peer is deleted with it");
}

#[tokio::test]
async fn a_link_moves() {
    let pair = Pair::new().await;
    pair.right.move_link(pair.r0.index, &pair.left_ns.netns).await.expect("moves");
    let link = pair.left.link_by_name("r0").await.expect("arrived");
    assert!(!link.up, "it arrives down");
    assert!(pair.right.link_by_name("r0").await.is_err());
    // In one namespace each end has the other's index.
    let l0 = pair.left.link_by_name("l0").await.expect("is there");
    assert_eq!((l0.parent, link.parent), (Some(link.index), Some(l0.index)));
}

#[tokio::test]
async fn addresses_are_added_and_removed() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    let (vip, vip6) = (IpAddr::from([192, 0, 2, 10]), v6(0x10));
    for (address, bits) in [(vip, 32), (vip6, 128)] {
        assert!(left.add_address(index, address, bits).await.expect("adds"));
        assert!(!left.add_address(index, address, bits).await.expect("checks"), "it was assigned");
        let all = left.addresses().await.expect("a list");
        let found = all.iter().find(|a| a.address == address).expect("listed");
        assert_eq!((found.link_index, found.prefix_len), (index, bits));
        assert_eq!((found.scope, found.tentative), (AddressScope::Global, false), "{found:?}");
        assert!(left.remove_address(index, address, bits).await.expect("removes"));
        assert!(!left.remove_address(index, address, bits).await.expect("checks"), "it is gone");
    }
}

#[tokio::test]
async fn routes_match_the_kernels_lookup() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    let direct = left.route_to(v4(2)).await.expect("on the link");
    assert_eq!((direct.link_index, direct.gateway), (index, None));
    assert_eq!((direct.source, direct.kind), (Some(v4(1)), RouteKind::Unicast));
    assert_eq!(left.route_to(v4(1)).await.expect("our own").kind, RouteKind::Local);

    for (far, none, gateway, bits) in [
        (IpAddr::from([203, 0, 113, 9]), IpAddr::from(Ipv4Addr::UNSPECIFIED), v4(2), 0),
        ("2001:db8:99::9".parse().expect("v6"), "::".parse().expect("v6"), v6(2), 0),
    ] {
        let error = left.route_to(far).await.expect_err("no default route yet");
        assert!(matches!(error, NetError::NoRoute { .. }), "{error}");
        let route = NewRoute {
            destination: none,
            prefix_len: bits,
            gateway: Some(gateway),
            link_index: index,
            onlink: false,
            source: None,
        };
        left.add_route(route).await.expect("adds");
        let found = left.route_to(far).await.expect("by the gateway");
        assert_eq!((found.gateway, found.link_index), (Some(gateway), index));
        assert!(left.remove_route(route).await.expect("removes"));
        assert!(!left.remove_route(route).await.expect("checks"), "it is gone");
    }
}

#[tokio::test]
async fn a_route_may_be_onlink_or_have_no_gateway() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    let off_link = IpAddr::from([198, 51, 100, 1]);
    let route = NewRoute {
        destination: [203, 0, 113, 0].into(),
        prefix_len: 24,
        gateway: Some(off_link),
        link_index: index,
        onlink: false,
        source: Some(v4(1)),
    };
    let refused = left.add_route(route).await.expect_err("the gateway is on no link");
    assert_eq!(refused.errno(), Some(Errno::ENETUNREACH as i32), "{refused}");
    left.add_route(NewRoute { onlink: true, ..route }).await.expect("adds");
    let found = left.route_to([203, 0, 113, 5].into()).await.expect("is routed");
    assert_eq!((found.gateway, found.source), (Some(off_link), Some(v4(1))));

    let default = NewRoute {
        destination: Ipv4Addr::UNSPECIFIED.into(),
        prefix_len: 0,
        gateway: None,
        link_index: index,
        onlink: false,
        source: None,
    };
    left.add_route(default).await.expect("a device route");
    let found = left.route_to([8, 8, 8, 8].into()).await.expect("is routed");
    assert_eq!((found.gateway, found.link_index), (None, index));
}

#[tokio::test]
async fn rejecting_routes_are_reported_as_errors() {
    let pair = Pair::new().await;
    for (kind, word) in
        [("unreachable", "unreachable"), ("prohibit", "prohibit"), ("blackhole", "blackhole")]
    {
        let added = pair
            .left_ns
            .netns
            .command("ip")
            .expect("a command")
            .args(["route", "replace", kind, "203.0.113.0/24"])
            .status()
            .expect("runs");
        assert!(added.success());
        let error = pair.left.route_to([203, 0, 113, 5].into()).await.expect_err("refuses");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_neighbour_is_resolved_and_managed() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    let managed = kept() == Managed::ByKernel;
    for ip in [v4(2), v6(2)] {
        assert_eq!(left.neighbour(index, ip).await.expect("queries"), None);
        let mac = left.resolve_neighbour(index, ip, WAIT).await.expect("queries");
        assert_eq!(mac, Some(RIGHT_MAC), "{ip}");

        assert_eq!(left.manage_neighbour(index, ip).await.expect("queries"), kept());
        let cached = left.neighbour(index, ip).await.expect("queries").expect("cached");
        assert_eq!((cached.managed, cached.usable_mac()), (managed, Some(RIGHT_MAC)), "{cached:?}");
        // Resolving a managed neighbour leaves it managed.
        left.resolve_neighbour(index, ip, WAIT).await.expect("queries");
        let cached = left.neighbour(index, ip).await.expect("queries").expect("cached");
        assert_eq!(cached.managed, managed);
        assert!(
            left.neighbours()
                .await
                .expect("a list")
                .iter()
                .any(|n| n.ip == ip && n.managed == managed)
        );

        left.unmanage_neighbour(index, ip).await.expect("unmanages");
        let cached = left.neighbour(index, ip).await.expect("queries").expect("still cached");
        assert!(!cached.managed && cached.usable_mac() == Some(RIGHT_MAC), "{cached:?}");
        assert!(left.remove_neighbour(index, ip).await.expect("removes"));
        assert!(!left.remove_neighbour(index, ip).await.expect("removes"), "was removed");
    }
}

#[tokio::test]
async fn managing_an_unresolved_neighbour_resolves_it() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    assert_eq!(left.manage_neighbour(index, v4(2)).await.expect("queries"), kept());
    let mac = left.resolve_neighbour(index, v4(2), WAIT).await.expect("queries");
    assert_eq!(mac, Some(RIGHT_MAC));
}

#[tokio::test]
async fn a_permanent_neighbour_stays() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    let mac = [2, 0, 0, 9, 9, 9];
    left.set_neighbour(index, v4(9), mac).await.expect("sets");
    assert_eq!(left.manage_neighbour(index, v4(9)).await.expect("queries"), Managed::Permanent);
    let cached = left.neighbour(index, v4(9)).await.expect("queries").expect("cached");
    assert_eq!((cached.state, cached.mac), (NeighbourState::Permanent, Some(mac)));
}

#[tokio::test]
async fn a_next_hop_is_found_directly_and_by_a_gateway() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    left.set_mtu(index, 1480).await.expect("an MTU");
    let hop = left.resolve_next_hop(v4(2), WAIT).await.expect("a next hop");
    assert_eq!((hop.link_index, hop.neighbour, hop.on_link), (index, v4(2), true));
    assert_eq!((hop.mac, hop.own_mac, hop.mtu), (Some(RIGHT_MAC), LEFT_MAC, 1480));
    assert_eq!((hop.source, hop.vlan, hop.route_link_index), (Some(v4(1)), None, index));

    let far = IpAddr::from([203, 0, 113, 9]);
    left.add_route(NewRoute {
        destination: far,
        prefix_len: 32,
        gateway: Some(v4(2)),
        link_index: index,
        onlink: false,
        source: None,
    })
    .await
    .expect("adds");
    let hop = left.resolve_next_hop(far, WAIT).await.expect("a next hop");
    assert_eq!((hop.neighbour, hop.on_link, hop.mac), (v4(2), false, Some(RIGHT_MAC)));

    let own = left.resolve_next_hop(v4(1), WAIT).await.expect_err("does not leave");
    assert!(matches!(own, NetError::OwnAddress { .. }), "{own}");
    let group = left.resolve_next_hop([10, 77, 0, 255].into(), WAIT).await.expect_err("no host");
    assert!(matches!(group, NetError::NoRoute { .. }), "{group}");
}

#[tokio::test]
async fn a_next_hop_that_does_not_answer_has_no_mac() {
    let pair = Pair::new().await;
    let wait = Duration::from_millis(150);
    for silent in [v4(99), v6(99)] {
        let started = Instant::now();
        let hop = pair.left.resolve_next_hop(silent, wait).await.expect("a next hop");
        assert_eq!(hop.mac, None, "{silent}");
        let waited = started.elapsed();
        assert!(waited >= wait && waited < wait * 10, "{waited:?}");
    }
    let started = Instant::now();
    pair.left.resolve_next_hop(v4(98), Duration::ZERO).await.expect("a next hop");
    assert!(started.elapsed() < wait, "zero does not wait");
}

#[tokio::test]
async fn the_owner_of_an_address_is_found() {
    let pair = Pair::new().await;
    let (left, index) = (&pair.left, pair.l0.index);
    for (owned, unused) in [(v4(2), v4(99)), (v6(2), v6(99))] {
        let owner = left.who_has(index, owned, WAIT).await.expect("queries").expect("answers");
        assert_eq!(owner.mac, RIGHT_MAC, "{owned}");
        let owner = left.who_has(index, unused, Duration::from_millis(50)).await.expect("queries");
        assert_eq!(owner, None, "{unused}");
    }
    let own = left.who_has(index, v4(1), Duration::from_millis(50)).await.expect("queries");
    assert_eq!(own, None, "a host does not answer itself");
}

#[tokio::test]
async fn an_announcement_moves_an_address() {
    let pair = Pair::new().await;
    let (left, right) = (&pair.left, &pair.right);
    for vip in [v4(50), v6(0x50)] {
        // The right side has an old owner of the VIP in its cache.
        right.set_neighbour(pair.r0.index, vip, [2, 0, 0, 0, 0, 0xee]).await.expect("sets");
        right.remove_neighbour(pair.r0.index, vip).await.expect("removes");
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        left.add_address(pair.l0.index, vip, bits).await.expect("adds");
        let mac = right.resolve_neighbour(pair.r0.index, vip, WAIT).await.expect("queries");
        assert_eq!(mac, Some(LEFT_MAC), "{vip}");

        let new_mac = [2, 0, 0, 0, 0, if vip.is_ipv4() { 0x51 } else { 0x52 }];
        left.set_mac(pair.l0.index, new_mac).await.expect("a MAC");
        left.announce(pair.l0.index, vip).await.expect("announces");
        let started = Instant::now();
        loop {
            let cached =
                right.neighbour(pair.r0.index, vip).await.expect("queries").expect("cached");
            if cached.mac == Some(new_mac) {
                break;
            }
            assert!(started.elapsed() < WAIT, "{vip} stayed at {cached:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        left.set_mac(pair.l0.index, LEFT_MAC).await.expect("a MAC");
    }
}

#[tokio::test]
async fn changes_are_received() {
    let pair = Pair::new().await;
    let mut changes = pair.left.watch().expect("subscribes");
    let (left, index) = (&pair.left, pair.l0.index);
    left.add_address(index, v4(60), 32).await.expect("adds");
    left.remove_address(index, v4(60), 32).await.expect("removes");
    left.set_neighbour(index, v4(61), RIGHT_MAC).await.expect("sets");
    left.remove_neighbour(index, v4(61)).await.expect("removes");
    left.set_mtu(index, 1300).await.expect("an MTU");

    let (mut address, mut neighbour, mut route) = ((false, false), (false, false), false);
    loop {
        let change = tokio::time::timeout(WAIT, changes.recv()).await.expect("in time");
        match change.expect("the subscription lasts") {
            Change::Address { address: seen, removed } if seen.address == v4(60) => {
                if removed {
                    address.1 = true;
                } else {
                    address.0 = true;
                }
            }
            Change::Neighbour { neighbour: seen, removed } if seen.ip == v4(61) => {
                if removed {
                    neighbour.1 = true;
                } else {
                    neighbour.0 = true;
                }
            }
            Change::Route => route = true,
            Change::Link { link, removed: false } if link.mtu == 1300 => break,
            _ => {}
        }
    }
    assert_eq!((address, neighbour, route), ((true, true), (true, true), true));
}

#[tokio::test]
async fn a_flood_of_changes_ends_in_resync() {
    let pair = Pair::new().await;
    let mut changes = pair.left.watch().expect("subscribes");
    let (left, index) = (&pair.left, pair.l0.index);
    // Nothing is read: the queue fills, then the kernel's buffer.
    'flood: for high in 0..=255 {
        for low in 0..=255 {
            let ip = IpAddr::from([10, 78, high, low]);
            left.set_neighbour(index, ip, RIGHT_MAC).await.expect("sets");
            if high == 24 {
                break 'flood;
            }
        }
    }
    loop {
        let change = tokio::time::timeout(WAIT, changes.recv()).await.expect("in time");
        if change.expect("the subscription lasts") == Change::Resync {
            break;
        }
    }
    // The subscription continues afterwards.
    left.set_mtu(index, 1301).await.expect("an MTU");
    loop {
        let change = tokio::time::timeout(WAIT, changes.recv()).await.expect("in time");
        if matches!(change, Some(Change::Link { link, .. }) if link.mtu == 1301) {
            break;
        }
    }
}

#[tokio::test]
async fn ethtool_reads_and_sets() {
    let pair = Pair::new().await;
    let left = &pair.left;
    assert_eq!(left.driver("l0").expect("queries").expect("a driver").name, "veth");
    // veth reports channels since 5.13.
    match left.channels("l0").expect("queries") {
        Some(channels) => assert!(channels.rx >= 1 && channels.max_rx >= channels.rx),
        None => assert!(!kernel_is(5, 13)),
    }

    let is_on = |name: &str| {
        let features = left.features("l0").expect("queries");
        features.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{name}")).active
    };
    for on in [false, true, false] {
        assert!(left.set_features("l0", "tx-checksum-", on).expect("sets") >= 1);
        assert!(left.set_features("l0", "rx-gro", !on).expect("sets") >= 1);
        assert_eq!((is_on("tx-checksum-ip-generic"), is_on("rx-gro")), (on, !on));
    }

    let missing = left.driver("r0").expect_err("is elsewhere");
    assert!(matches!(missing, NetError::NoSuchInterface { .. }), "{missing}");
}

#[tokio::test]
async fn drivers_report_native_xdp() {
    let pair = Pair::new().await;
    let left = &pair.left;
    if !kernel_is(6, 3) {
        assert_eq!(
            left.xdp_features(pair.l0.index).expect("queries"),
            None,
            "not reported before 6.3"
        );
        return;
    }
    let veth = left.xdp_features(pair.l0.index).expect("queries").expect("6.3 or later");
    assert!(veth.basic() && veth.redirect(), "{veth:?}");
    left.create_bridge("br0").await.expect("a bridge");
    let bridge = left.link_by_name("br0").await.expect("is there");
    let features = left.xdp_features(bridge.index).expect("queries").expect("6.3 or later");
    assert!(!features.basic(), "{features:?}");
    let missing = left.xdp_features(4711).expect_err("no such device");
    assert!(matches!(missing, NetError::NoSuchIndex { .. }), "{missing}");
}

#[tokio::test]
async fn sysctls_are_those_of_the_namespace() {
    let pair = Pair::new().await;
    let path = "net/ipv4/conf/l0/rp_filter";
    pair.left.set_sysctl(path, "2").expect("writes");
    assert_eq!(pair.left.sysctl(path).expect("reads").as_deref(), Some("2"));
    assert_eq!(pair.right.sysctl(path).expect("reads"), None, "l0 is not on the right");
    let error = pair.right.set_sysctl(path, "1").expect_err("no such setting");
    assert!(error.to_string().contains(path), "{error}");
}

#[test]
fn older_kernels_too() {
    let tests = std::env::current_exe().expect("/proc");
    for kernel in [KernelVersion::V5_10, KernelVersion::V6_1] {
        let output = Vm::new(kernel)
            .modules(["veth", "bridge", "macvlan", "af_packet", "ipv6"])
            .file(&tests, "/host/net")
            .file("/usr/sbin/ip", "/host/ip")
            .script("export PATH=/host:$PATH; net --test-threads=1 --skip older_kernels_too 2>&1")
            .timeout(Duration::from_secs(120))
            .run()
            .expect("boots");
        assert_eq!(output.status, 0, "{kernel:?}: {}", output.text);
    }
}
