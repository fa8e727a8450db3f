//! Drops and passes that need a real kernel: its routes, neighbours and interfaces. No daemon runs,
//! so the program looks up each packet in the kernel's FIB.

use std::net::UdpSocket;

use director_tests::live::{Capture, Host, Live, TIMEOUT, ip, wait_until};
use director_userspace::kernel::net::NewRoute;

const VIP: &str = "192.0.2.40:7";
const PACKETS: u64 = 10;

/// One service with one backend.
fn service(forward: &str, backend: &str) -> String {
    format!(
        r#"
interfaces: [{{name: eth0}}]
services:
  - name: only
    address: 192.0.2.40
    protocol: udp
    port: 7
    forward: {forward}
    backends: [{{address: {backend}}}]
"#
    )
}

/// Sends datagrams to the VIP from the client, each of a new flow.
fn send(live: &Live) {
    live.node("client1")
        .run(|| {
            for _ in 0..PACKETS {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
                socket.send_to(b"?", VIP).expect("sends");
            }
        })
        .expect("enters");
}

/// Sends, and expects this verdict for all packets and no other forwarding verdict.
#[track_caller]
fn expect(live: &Live, verdict: &str) {
    let count = |verdict: &str| live.verdicts().get(verdict).copied().unwrap_or(0);
    let was = count(verdict);
    send(live);
    wait_until(verdict, TIMEOUT, || count(verdict) >= was + PACKETS);
    let verdicts = live.verdicts();
    assert_eq!(verdicts[verdict], was + PACKETS, "{verdicts:?}");
    for other in ["tx", "redirect"].iter().filter(|other| **other != verdict) {
        assert_eq!(verdicts.get(*other), None, "{verdicts:?}");
    }
}

fn forward_on(live: &Live) {
    let netlink = live.netlink("director");
    netlink.set_sysctl("net/ipv4/ip_forward", "1").expect("sysctl");
}

/// No host has the backend's address.
#[tokio::test(flavor = "multi_thread")]
async fn drop_no_neighbour() {
    let live = Live::with("no-neigh", &service("tunnel", "10.0.0.11")).await;
    live.write(&service("tunnel", "10.0.0.99"));
    forward_on(&live);
    live.attach().reports(&["warning: service only: no answer from 10.0.0.99 on eth0"]);
    expect(&live, "drop/no-neighbour");
    let stats = live.director("stats").succeeded();
    stats.prints(&["drop", "no-neighbour", "the next hop does not answer ARP or ND"]);
    let service = live.json("services");
    assert_eq!(service[0]["dropped"], PACKETS, "{service}");
    live.detach();
}

/// No route leads to the backend.
#[tokio::test(flavor = "multi_thread")]
async fn drop_no_route() {
    let live = Live::with("no-route", &service("tunnel", "10.0.0.11")).await;
    forward_on(&live);
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    let source = live.node("director").ipv4();
    let (gateway, destination) = (None, ip("0.0.0.0"));
    let everywhere =
        NewRoute { destination, prefix_len: 0, gateway, link_index: eth0, onlink: false, source };
    netlink.remove_route(everywhere).await.expect("removed");
    let client = live.node("client1").ipv4().expect("has one");
    netlink
        .add_route(NewRoute { destination: client, prefix_len: 32, ..everywhere })
        .await
        .expect("the return route");
    live.attach().reports(&["warning: service only: backend 10.0.0.11: ", "route"]);
    expect(&live, "drop/no-route");
    live.detach();
}

/// A direct backend that moved behind a router, which would send its packets back.
#[tokio::test(flavor = "multi_thread")]
async fn drop_no_route_to_a_direct_backend_behind_a_router() {
    let live = Live::with("behind", &service("direct", "10.0.0.11")).await;
    live.write(&service("direct", "10.0.0.99"));
    forward_on(&live);
    live.attach();
    expect(&live, "drop/no-neighbour");
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    let gateway = live.node("client1").ipv4();
    let (destination, source) = (ip("10.0.0.99"), live.node("director").ipv4());
    let resolved = netlink.resolve_neighbour(eth0, gateway.expect("has one"), TIMEOUT).await;
    resolved.expect("requested").expect("resolved");
    netlink
        .add_route(NewRoute {
            destination,
            prefix_len: 32,
            gateway,
            link_index: eth0,
            onlink: true,
            source,
        })
        .await
        .expect("a route");
    expect(&live, "drop/no-route");
    live.detach();
}

/// The kernel's route to the backend uses an interface that is not listed.
#[tokio::test(flavor = "multi_thread")]
async fn drop_no_interface() {
    let live = Live::with("no-iface", &service("tunnel", "10.0.0.11")).await;
    live.write(&service("tunnel", "10.0.0.99"));
    forward_on(&live);
    let far = Host::new("no-iface");
    live.second_network(&far.netns).await;
    live.attach();
    let netlink = live.netlink("director");
    let eth1 = netlink.link_by_name("eth1").await.expect("eth1").index;
    netlink.add_address(eth1, ip("10.0.0.1"), 24).await.expect("moved");
    let there = far.netlink();
    let index = there.link_by_name("far").await.expect("far").index;
    there.add_address(index, ip("10.0.0.99"), 24).await.expect("moved");
    let resolved = netlink.resolve_neighbour(eth1, ip("10.0.0.99"), TIMEOUT).await;
    resolved.expect("requested").expect("resolved");
    expect(&live, "drop/no-interface");
    live.detach();
}

/// All addresses of this host are VIPs, from which no backend accepts tunnels.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_tunnel_source_is_warned_about() {
    let live = Live::with("no-source", &service("tunnel", "10.0.0.11")).await;
    let own = live.node("director").ipv4().expect("has one").to_string();
    let one = service("tunnel", "10.0.0.11");
    let (_, other) = one.split_once("services:").expect("there");
    let yaml = format!("{one}{}", other.replace("only", "own").replace("192.0.2.40", &own));
    live.write(&yaml);
    live.attach().reports(&[
        "warning: service only: backend 10.0.0.11: no address of this host can be the tunnel's source",
        "set `tunnel: {source: ADDRESS}`",
    ]);
    live.write(&format!("tunnel: {{source: 10.0.0.77}}\n{yaml}"));
    let output = live.attach();
    assert!(!output.stderr.contains("warning"), "{output:?}");
    live.detach();
}

/// A flooding switch or a promiscuous NIC: frames for other hosts pass unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn pass_not_our_mac() {
    let live = Live::with("not-our-mac", &service("tunnel", "10.0.0.11")).await;
    let client = live.netlink("client1");
    let eth0 = client.link_by_name("eth0").await.expect("eth0").index;
    // No host has this address, so the switch floods the frames.
    let unused = [2, 0xaa, 0, 0, 0, 1];
    client.set_neighbour(eth0, ip("192.0.2.40"), unused).await.expect("set");
    let director = live.netlink("director");
    let link = director.link_by_name("eth0").await.expect("eth0");
    let capture = Capture::start(director.netns(), link.index);
    live.attach();
    send(&live);
    let counted = || live.verdicts().get("pass/not-our-mac").copied().unwrap_or(0);
    wait_until("pass/not-our-mac", TIMEOUT, || counted() >= PACKETS);
    // Hosts send multicast (MLD, ND) at any time, which is not for this MAC address either.
    let counted = counted();
    let for_others = capture.frames(counted as usize, TIMEOUT, |frame| {
        frame[..6] != link.mac && matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd])
    });
    assert!(for_others.len() as u64 >= counted, "{counted} counted, {} captured", for_others.len());
    let sent: Vec<_> = for_others.iter().filter(|frame| frame[..6] == unused).collect();
    assert_eq!(sent.len() as u64, PACKETS, "none is lost");
    for frame in sent {
        // TTL 64, from the client to the VIP's port 7, with its one byte.
        assert_eq!((frame[22], &frame[30..34]), (64, &[192, 0, 2, 40][..]), "{frame:x?}");
        assert_eq!((&frame[36..38], frame[42]), (&[0, 7][..], b'?'), "{frame:x?}");
    }
    let verdicts = live.verdicts();
    assert!(verdicts.keys().all(|verdict| verdict.starts_with("pass/")), "{verdicts:?}");
    live.detach();
}

/// The interface gets another MAC while the daemon runs (VRRP without a virtual MAC). The program's
/// fast path compares with a constant: it accepted the former one, now another host's, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn pass_frames_to_a_former_mac() {
    let live = Live::with("former-mac", &service("tunnel", "10.0.0.11")).await;
    let client = live.netlink("client1");
    let eth0 = client.link_by_name("eth0").await.expect("eth0").index;
    let director = live.netlink("director");
    let link = director.link_by_name("eth0").await.expect("eth0");
    let daemon = live.run();
    let count = |verdict: &str| live.verdicts().get(verdict).copied().unwrap_or(0);
    let sends_to = async |mac| {
        client.set_neighbour(eth0, ip("192.0.2.40"), mac).await.expect("set");
        send(&live);
    };
    sends_to(link.mac).await;
    wait_until("forwarded", TIMEOUT, || count("tx") >= PACKETS);

    let moved = [2, 0xaa, 0, 0, 0, 2];
    director.set_mac(link.index, moved).await.expect("set");
    sends_to(moved).await;
    wait_until("forwarded to the new MAC", TIMEOUT, || {
        let before = count("tx");
        send(&live);
        count("tx") >= before + PACKETS
    });
    client.set_neighbour(eth0, ip("192.0.2.40"), link.mac).await.expect("set");
    // The switch floods them, as no port has that MAC any more.
    wait_until("passed for the former MAC", TIMEOUT, || {
        let (tx, passed) = (count("tx"), count("pass/not-our-mac"));
        send(&live);
        count("pass/not-our-mac") >= passed + PACKETS && count("tx") == tx
    });
    drop(daemon);
    live.detach();
}
