//! Paths to backends behind routers: narrow ones, and some that move.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use director_common::checksum::Sum;
use director_tests::live::{Daemon, Echo, Host, Live, TIMEOUT, VIPS, address, get, ip, wait_until};
use director_userspace::kernel::{
    datapath::{self, Datapath},
    net::{LinkEnd, NetError, NewRoute},
};
use nix::sys::{
    signal::Signal,
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
    },
};

/// How soon the daemon follows a change of the host.
const FOLLOWED: Duration = Duration::from_secs(2);
/// The router's addresses towards the director.
const ROUTER: [&str; 2] = ["10.0.0.250", "2001:db8:1::250"];
/// The MTU of the director's interface, and of the router's towards backends.
const WIDE: u32 = 1600;
const NARROW: u32 = 1400;
/// How long the kernel keeps a path MTU in these tests.
const KEPT: Duration = Duration::from_secs(3);
/// How often the daemon looks for path MTUs that it was not told of, and some time.
const POLLED: Duration = Duration::from_secs(12);

/// A router beside the director, both of its legs on the lab's switch.
struct Router {
    host: Host,
    mac: [u8; 6],
}

impl Router {
    /// A router that reaches `backends` by a leg of the MTU [`NARROW`].
    async fn new(live: &Live, test: &str, backends: &[IpAddr]) -> Self {
        let host = Host::new(test);
        let (switch, netlink) = (live.netlink("switch"), host.netlink());
        let bridge = switch.link_by_name("br0").await.expect("a bridge").index;
        for (n, (leg, mtu)) in [("near", WIDE), ("far", NARROW)].into_iter().enumerate() {
            let mac = Some([2, 0, 0, 7, 0, n as u8]);
            let end = LinkEnd { name: leg, netns: Some(&host.netns), mac };
            let port = LinkEnd { name: leg, netns: None, mac: None };
            switch.create_veth(port, end).await.expect("a veth pair");
            let port = switch.link_by_name(leg).await.expect("a port").index;
            switch.set_mtu(port, WIDE).await.expect("an MTU");
            switch.set_master(port, Some(bridge)).await.expect("a port");
            switch.set_up(port, true).await.expect("up");
            let index = netlink.link_by_name(leg).await.expect("a leg").index;
            netlink.set_mtu(index, mtu).await.expect("an MTU");
            netlink.set_up(index, true).await.expect("up");
            // Each leg answers for its own addresses only.
            netlink.set_sysctl(&format!("net/ipv4/conf/{leg}/arp_ignore"), "1").expect("sysctl");
            netlink.set_sysctl(&format!("net/ipv4/conf/{leg}/rp_filter"), "0").expect("sysctl");
        }
        netlink.set_sysctl("net/ipv4/ip_forward", "1").expect("sysctl");
        netlink.set_sysctl("net/ipv6/conf/all/forwarding", "1").expect("sysctl");
        let index = |leg: &'static str| {
            let netlink = netlink.clone();
            async move { netlink.link_by_name(leg).await.expect("a leg").index }
        };
        let (near, far) = (index("near").await, index("far").await);
        for (own, bits) in [(ROUTER[0], 8), (ROUTER[1], 64)] {
            netlink.add_address(near, ip(own), bits).await.expect("an address");
        }
        netlink.add_address(far, ip("10.0.0.251"), 32).await.expect("an address");
        for &backend in backends {
            netlink.add_route(on_link(backend, far)).await.expect("a route");
            // A new port of the bridge forwards only after a while.
            let found = netlink.resolve_neighbour(far, backend, TIMEOUT).await.expect("asked");
            assert!(found.is_some(), "{backend} answers the router");
        }
        let director = live.node("director");
        for &own in director.addresses() {
            netlink.add_route(on_link(own, near)).await.expect("a route");
            let found = netlink.resolve_neighbour(near, own, TIMEOUT).await.expect("asked");
            assert!(found.is_some(), "{own} answers the router");
        }
        Self { host, mac: [2, 0, 0, 7, 0, 0] }
    }

    /// Leads the director to a backend by this router.
    async fn leads_to(&self, live: &Live, backend: IpAddr) {
        let netlink = live.netlink("director");
        let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
        let node = live.node("director");
        let (gateway, source) = match backend {
            IpAddr::V4(_) => (ip(ROUTER[0]), node.ipv4()),
            IpAddr::V6(_) => (ip(ROUTER[1]), node.ipv6()),
        };
        let (gateway, onlink) = (Some(gateway), true);
        let route = NewRoute { gateway, onlink, source, ..on_link(backend, eth0) };
        netlink.add_route(route).await.expect("a route");
    }

    /// Sends the director "fragmentation needed" about a packet of this protocol to `backend`.
    fn complains(&self, live: &Live, backend: Ipv4Addr, protocol: u8, mtu: u16) {
        self.complains_of(live, [(backend, protocol, mtu)].into_iter());
    }

    /// The same about many; how many.
    fn complains_of(
        &self,
        live: &Live,
        packets: impl Iterator<Item = (Ipv4Addr, u8, u16)> + Send,
    ) -> usize {
        let Some(IpAddr::V4(director)) = live.node("director").ipv4() else {
            panic!("no IPv4 address");
        };
        let to = SockaddrIn::from(SocketAddrV4::new(director, 0));
        let send = || {
            let (raw, icmp) = (SockType::Raw, SockProtocol::Icmp);
            let socket = socket(AddressFamily::Inet, raw, SockFlag::empty(), icmp)?;
            let mut sent = 0;
            for (backend, protocol, mtu) in packets {
                let message = fragmentation_needed(director, backend, protocol, mtu);
                sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
                sent += 1;
            }
            Ok::<_, nix::Error>(sent)
        };
        let sent = self.host.netns.run(|| Ok::<_, NetError>(send()));
        sent.expect("enters").expect("sent")
    }
}

/// The ICMP error, which quotes only what it must: an IP header and eight bytes.
fn fragmentation_needed(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, mtu: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x45, 0, 5, 220, 0, 1, 0x40, 0, 63, protocol, 0, 0]);
    message.extend(from.octets());
    message.extend(to.octets());
    message.extend([0; 8]);
    let mut sum = Sum::ZERO;
    for word in message.chunks_exact(4) {
        sum.add_word(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    message[2..4].copy_from_slice(&sum.finish());
    message
}

/// The route to one neighbour.
fn on_link(destination: IpAddr, link_index: u32) -> NewRoute {
    NewRoute {
        destination,
        prefix_len: if destination.is_ipv4() { 32 } else { 128 },
        gateway: None,
        link_index,
        onlink: false,
        source: None,
    }
}

/// The MTU and the next hop's MAC address, as the maps have them, of a service's backend.
fn path(live: &Live, service: &str, backend: IpAddr) -> (u32, [u8; 6]) {
    let opened = Datapath::open(live.instance()).expect("is attached");
    let observed = datapath::observe(&opened.tables);
    let (slot, _) =
        observed.services.iter().find(|(_, found)| found.name == service).expect(service);
    let mut backends = observed.backends_of(*slot);
    let (_, found) = backends.find(|(_, found)| found.address == backend).expect("its backend");
    (found.mtu.into(), found.next_hop.mac())
}

/// Sends many blocks through a VIP to an echo server and receives all of them; how long that took.
fn upload(live: &Live, vip: &str) -> Duration {
    const BLOCKS: usize = 64;
    const BLOCK: usize = 2048;
    const ANSWER: usize = BLOCK + 8;
    let began = Instant::now();
    let received = live.node("client1").run(|| {
        let mut stream = TcpStream::connect_timeout(&address(vip), TIMEOUT).expect("connects");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut sender = stream.try_clone().expect("cloned");
        let sending = thread::spawn(move || sender.write_all(&[7; BLOCK * BLOCKS]));
        let mut answers = vec![0; ANSWER * BLOCKS];
        stream.read_exact(&mut answers)?;
        sending.join().expect("no panic")
    });
    received.expect("enters").unwrap_or_else(|error| panic!("{vip}: {error}"));
    began.elapsed()
}

/// A service and backend for each pair of families, the outer one first.
const KINDS: [(&str, &str, &str); 4] = [
    ("v4-in-v4", "192.0.2.10:80", "10.0.0.11"),
    ("v6-in-v4", "[2001:db8::10]:80", "10.0.0.12"),
    ("v4-in-v6", "192.0.2.11:80", "2001:db8:1::11"),
    ("v6-in-v6", "[2001:db8::11]:80", "2001:db8:1::12"),
];

fn kinds() -> String {
    let mut yaml = "interfaces: [{name: eth0}]\nservices:\n".to_owned();
    for (name, vip, backend) in KINDS {
        let vip = address(vip).ip();
        yaml += &format!(
            "  - {{name: {name}, address: \"{vip}\", protocol: tcp, port: 80, forward: tunnel, \
             backends: [{{address: \"{backend}\"}}]}}\n"
        );
    }
    yaml
}

async fn narrow(test: &str) -> (Live, Router) {
    let live = Live::with(test, &kinds()).await;
    let backends = KINDS.map(|(_, _, backend)| ip(backend));
    let router = Router::new(&live, test, &backends).await;
    let director = live.netlink("director");
    for setting in ["net/ipv4/route/mtu_expires", "net/ipv6/route/mtu_expires"] {
        director.set_sysctl(setting, &KEPT.as_secs().to_string()).expect("sysctl");
    }
    for backend in backends {
        router.leads_to(&live, backend).await;
    }
    (live, router)
}

/// A router between director and backends reports that a tunnel's packets do not fit: clients are
/// told what does, as long as the kernel keeps the path's MTU.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_pass_a_narrow_hop() {
    let (live, _router) = narrow("narrow").await;
    let servers: Vec<Echo> = [("b1", 0), ("b2", 1), ("b1", 2), ("b2", 3)]
        .map(|(node, kind)| Echo::start(live.node(node), &[address(KINDS[kind].1)]))
        .into();
    let daemon = live.run();
    for (service, vip, backend) in KINDS {
        assert_eq!(path(&live, service, ip(backend)).0, WIDE, "{service}\n{}", daemon.log());
        let took = upload(&live, vip);
        assert!(took < Duration::from_secs(1), "{service}: {took:?}\n{}", daemon.log());
        println!("{service}: {took:?}");
        assert_eq!(path(&live, service, ip(backend)).0, NARROW, "{service}");
        let raised = || path(&live, service, ip(backend)).0 == WIDE;
        let kept = wait_until(service, KEPT + FOLLOWED, raised);
        println!("{service}: wide again after {kept:?}");
    }
    daemon.end(Signal::SIGTERM);
    drop(servers);
}

const ICMP: u8 = 1;
const IPIP: u8 = 4;
/// The backend that routers report about.
const REPORTED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);

/// Off-path, a path MTU can be reported of a packet that the kernel itself would send (a ping's
/// answer here), with or without a director: followed all the same, as is its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_mtu_that_the_kernel_learned_otherwise_is_followed() {
    let (live, router) = narrow("otherwise").await;
    let director = live.netlink("director");
    director.set_sysctl("net/ipv4/route/mtu_expires", "14").expect("sysctl");
    let daemon = live.run();
    let (service, _, backend) = KINDS[0];
    let backend = ip(backend);
    router.complains(&live, REPORTED, ICMP, 1300);
    wait_until("followed", POLLED, || path(&live, service, backend).0 == 1300);
    daemon.wait_for("mtu 1300 -> 1600", Duration::from_secs(14) + FOLLOWED);
    assert_eq!(path(&live, service, backend).0, WIDE);
    // A route's own MTU.
    for (words, before, mtu) in
        [(" mtu 1450", WIDE, 1450), (" mtu lock 1440", 1450, 1440), ("", 1440, WIDE)]
    {
        let line = format!("route replace {REPORTED} via {} dev eth0 onlink{words}", ROUTER[0]);
        let mut ip = Command::new("ip");
        ip.args(line.split(' '));
        live.node("director").place(&mut ip).expect("placed");
        assert!(ip.status().expect("runs").success(), "{line}");
        daemon.wait_for(&format!("mtu {before} -> {mtu}"), FOLLOWED);
        assert_eq!(path(&live, service, backend).0, mtu, "{line}");
    }
    // Addresses that are no backends change nothing, whatever they are told of.
    daemon.clear_log();
    router.complains_of(&live, (100..110).map(|n| (Ipv4Addr::new(10, 0, 0, n), IPIP, 1300)));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(daemon.log(), "", "addresses that are no backends");
    router.complains(&live, REPORTED, IPIP, 1320);
    wait_until("reported of the tunnel", FOLLOWED, || path(&live, service, backend).0 == 1320);
    // The flows of a backend that drains are the oldest.
    live.write(&kinds().replace(&format!("{{address: \"{REPORTED}\"}}"), ""));
    daemon.wait_for("drains", FOLLOWED);
    router.complains(&live, REPORTED, IPIP, 1310);
    wait_until("reported while it drains", FOLLOWED, || path(&live, service, backend).0 == 1310);
    daemon.end(Signal::SIGTERM);
}

/// Forged errors, ten thousand destinations and ever smaller MTUs of a backend among them: they cost
/// the daemon little, and what routers report about other backends is followed nonetheless.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_errors_costs_little() {
    const LASTS: Duration = Duration::from_secs(3);
    let (live, router) = narrow("flood").await;
    let director = live.netlink("director");
    director.set_sysctl("net/ipv4/route/mtu_expires", "600").expect("sysctl");
    let servers = Echo::start(live.node("b2"), &[address(KINDS[1].1)]);
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    let before = cpu_time(&daemon);
    let began = Instant::now();
    let forged = (0..u32::MAX).take_while(|_| began.elapsed() < LASTS).map(|n| match n % 10 {
        0 => (REPORTED, IPIP, 1399 - (n / 10 % 800) as u16),
        _ => (Ipv4Addr::from_bits(0x0a00_0200 + n % 10_000), IPIP, 1300),
    });
    let (sent, took) = thread::scope(|scope| {
        let flood = scope.spawn(|| router.complains_of(&live, forged));
        thread::sleep(LASTS / 3);
        let took = upload(&live, KINDS[1].1);
        (flood.join().expect("no panic"), took)
    });
    let spent = cpu_time(&daemon) - before;
    println!("{sent} errors in {LASTS:?}: {spent:?} of CPU time; an upload beside them: {took:?}");
    assert!(sent > 10_000, "{sent}");
    assert!(spent < LASTS / 2, "{spent:?}");
    // Ever smaller, yet not each of them at once.
    let changes = daemon.log().matches("backend 10.0.0.11: mtu").count();
    assert!(changes < 8, "{changes}: {}", daemon.log());
    assert!(took < POLLED, "{took:?}");
    assert_eq!(path(&live, KINDS[1].0, ip(KINDS[1].2)).0, NARROW);
    assert!(path(&live, KINDS[0].0, ip(KINDS[0].2)).0 < NARROW, "{}", daemon.log());
    daemon.end(Signal::SIGTERM);
    drop(servers);
}

/// What a daemon has used so far.
fn cpu_time(daemon: &Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks = fields.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().expect("a number"));
    // USER_HZ.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// `dir` and `last` reach the same backend directly that `tun` reaches by a tunnel; so does, while
/// it drains, `old`.
const SHARED: &str = r#"
interfaces: [{name: eth0}]
services:
  - {name: dir, address: 192.0.2.11, protocol: tcp, port: 80, forward: direct, backends: [{address: 10.0.0.11}]}
  - {name: tun, address: 192.0.2.10, protocol: tcp, port: 80, forward: tunnel, backends: [{address: 10.0.0.11}]}
  - {name: last, address: 192.0.2.12, protocol: tcp, port: 80, forward: direct, backends: [{address: 10.0.0.11}]}
  - {name: old, address: 192.0.2.13, protocol: tcp, port: 80, forward: direct, backends: [{address: 10.0.0.11}, {address: 10.0.0.12}]}
"#;

/// The route to a backend moves behind a router: the tunnel follows, direct routing keeps its last
/// next hop.
#[tokio::test(flavor = "multi_thread")]
async fn a_direct_backend_keeps_its_next_hop_when_a_tunnel_to_it_moves() {
    let mut live = Live::with("shared", SHARED).await;
    live.serve(&["b1", "b2"]);
    let backend = ip("10.0.0.11");
    let router = Router::new(&live, "shared", &[backend]).await;
    let daemon: Daemon = live.run();
    live.write(
        &SHARED.replace("{address: 10.0.0.11}, {address: 10.0.0.12}", "{address: 10.0.0.12}"),
    );
    daemon.wait_for("drains", FOLLOWED);
    let services = ["dir", "tun", "last", "old"];
    let before = services.map(|service| path(&live, service, backend).1);
    assert_eq!(before, [before[0]; 4]);
    router.leads_to(&live, backend).await;
    daemon.wait_for("service dir: backend 10.0.0.11 is reached via 10.0.0.250", FOLLOWED);
    wait_until("tun follows", FOLLOWED, || path(&live, "tun", backend).1 == router.mac);
    let after = services.map(|service| path(&live, service, backend).1);
    assert_eq!(after, [before[0], router.mac, before[0], before[0]]);
    assert!(daemon.log().contains("service last: backend 10.0.0.11 is reached via"));
    assert!(!daemon.log().contains("service tun: backend"), "{}", daemon.log());
    for vip in [VIPS[0], "192.0.2.11:80", "192.0.2.12:80"] {
        assert_eq!(get(live.node("client1"), address(vip)).expect(vip), "b1");
    }
    daemon.end(Signal::SIGTERM);
}
