//! Traffic through an attached director: real clients, real servers, two directors, two networks.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use director_tests::live::{
    Capture, Host, Live, TIMEOUT, VIPS, address, command, finish, ip, pass_everything, verdicts_of,
    wait_until,
};
use director_userspace::{
    kernel::{
        datapath::{self, Instance},
        net::{AddressScope, LinkEnd, Netlink, NewRoute},
    },
    setup::lab::DEFAULT_CONFIG,
};
use nix::sys::signal::Signal;

/// Percentage of a service's flows by backend.
fn shares(answers: &BTreeMap<String, usize>) -> Vec<(&str, f64)> {
    let all: usize = answers.values().sum();
    answers.iter().map(|(name, n)| (name.as_str(), *n as f64 * 100.0 / all as f64)).collect()
}

/// Every process whose command line names the instance.
fn processes_of(instance: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(instance) {
            found.push(line);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_forwards_by_weight_without_any_process_until_detach() {
    let live = Live::new("attach").await;
    let before = live.bpf().await;
    live.attach().prints(&["+ service web (tcp 192.0.2.10:80)", "attached to eth0"]);
    assert_eq!(processes_of(live.instance().name()), Vec::<String>::new());

    for vip in VIPS {
        let answers = live.spread(vip, 900);
        let shares = shares(&answers);
        assert_eq!(shares.len(), 3, "{vip}: {answers:?}");
        for ((name, share), expected) in shares.into_iter().zip([100.0 / 6.0, 100.0 / 3.0, 50.0]) {
            assert!(
                (share - expected).abs() < 7.0,
                "{vip}: {name} got {share:.1} % of {answers:?}"
            );
        }
    }
    let verdicts = live.verdicts();
    assert!(verdicts["tx"] > 2 * 900 * 4, "{verdicts:?}");
    assert!(!verdicts.keys().any(|verdict| verdict.starts_with("drop/")), "{verdicts:?}");

    let attached = live.bpf().await;
    assert_eq!(attached.programs.len(), 1, "{attached:?}");
    assert_eq!(attached.links.len(), 1, "{attached:?}");
    assert!(attached.maps.len() >= 14, "{attached:?}");
    live.detach().prints(&["detached from eth0"]);
    live.assert_nothing_attached().await;
    attached.wait_until_gone();
    assert_eq!(live.bpf().await, before);
    assert!(live.get(VIPS[0]).is_err(), "nothing forwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_daemon_does_not_stop_forwarding() {
    let live = Live::new("kill").await;
    let daemon = live.run();
    let mut connections = VIPS.map(|vip| live.connect(vip));
    let served: Vec<_> = connections.iter_mut().map(|c| c.request().expect("answers")).collect();
    daemon.end(Signal::SIGKILL);
    assert_eq!(processes_of(live.instance().name()), Vec::<String>::new());
    for vip in VIPS {
        assert_eq!(live.spread(vip, 50).values().sum::<usize>(), 50);
    }
    // Longer than until the heartbeat is stale.
    std::thread::sleep(Duration::from_millis(1700));
    for vip in VIPS {
        assert_eq!(live.spread(vip, 50).values().sum::<usize>(), 50);
    }
    for (connection, name) in connections.iter_mut().zip(&served) {
        assert_eq!(&connection.request().expect("open still"), name);
    }
    let attached = live.bpf().await;
    live.detach();
    attached.wait_until_gone();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_again_applies_differences_and_breaks_no_connection() {
    let live = Live::new("again").await;
    live.attach();
    let first = live.bpf().await;
    let mut connections = VIPS.map(|vip| live.connect(vip));
    let served: Vec<_> = connections.iter_mut().map(|c| c.request().expect("answers")).collect();
    live.attach().prints(&["nothing to change"]);
    let second = live.bpf().await;
    assert_eq!(first.links, second.links, "the program was replaced through its link");
    assert_ne!(first.programs, second.programs);
    live.write(&DEFAULT_CONFIG.replace("weight: 3", "weight: 30"));
    live.attach().prints(&["weight 3 -> 30", "ring over 3 backends"]);
    for (connection, name) in connections.iter_mut().zip(&served) {
        assert_eq!(&connection.request().expect("open still"), name);
    }
    live.detach();
    second.wait_until_gone();
}

/// A UDP service of its own, for numbered datagrams.
const UDP: &str = r#"
interfaces: [{name: eth0}]
services:
  - name: counters
    address: 192.0.2.20
    protocol: udp
    port: 7
    forward: tunnel
    backends: [{address: 10.0.0.11}, {address: 10.0.0.12}, {address: 10.0.0.13}]
"#;
const MARK: &[u8] = b"one-of-many-";
const DATAGRAMS: usize = 200;

fn is_marked(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|window| window == MARK)
}

/// A second director beside the first, on the same switch, without the VIP.
async fn standby(live: &Live) -> Host {
    let standby = Host::new("standby");
    let switch = live.netlink("switch");
    let mac = Some([2, 0, 0, 9, 0, 9]);
    let near = LinkEnd { name: "eth0", netns: Some(&standby.netns), mac };
    let port = LinkEnd { name: "standby", netns: None, mac: None };
    switch.create_veth(port, near).await.expect("a veth pair");
    let port = switch.link_by_name("standby").await.expect("a port").index;
    let bridge = switch.link_by_name("br0").await.expect("a bridge").index;
    switch.set_mtu(port, 1600).await.expect("an MTU");
    switch.set_master(port, Some(bridge)).await.expect("a port");
    // Frames sent by the standby would be captured.
    pass_everything(&switch, "standby").await;
    switch.set_up(port, true).await.expect("up");
    let netlink = standby.netlink();
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    netlink.set_mtu(eth0, 1600).await.expect("an MTU");
    netlink.set_up(eth0, true).await.expect("up");
    netlink.add_address(eth0, ip("10.0.0.99"), 8).await.expect("an address");
    standby
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_flooding_switch_a_standby_forwards_nothing() {
    let live = Live::with("standby", UDP).await;
    let standby = standby(&live).await;
    let flood = Command::new("ip")
        .args(["-n", live.node("switch").netns().label()])
        .args(["link", "set", "br0", "type", "bridge", "ageing_time", "0"])
        .status();
    assert!(flood.expect("iproute2").success());

    live.attach();
    let other = Instance::new(&format!("{}-standby", live.instance().name())).expect("a name");
    let on_standby = |words: &[&str]| {
        let mut command = command(words);
        command.args(["--instance", other.name()]).current_dir(live.directory());
        let path = format!("/run/netns/{}", standby.netns.label());
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net={path}")).arg(command.get_program()).args(command.get_args());
        inside.current_dir(live.directory());
        finish(inside).succeeded()
    };
    let _detached = Detached(&other);
    on_standby(&["attach", "-c", "director.yaml"]);

    let vip: SocketAddr = address("192.0.2.20:7");
    let servers: Vec<UdpSocket> = ["b1", "b2", "b3"]
        .map(|node| live.node(node).run(|| UdpSocket::bind(vip)).expect("enters").expect("binds"))
        .into();
    let switch = live.netlink("switch");
    let port = switch.link_by_name("standby").await.expect("a port").index;
    let from_standby = Capture::start(switch.netns(), port);
    let near = standby.netlink();
    let eth0 = near.link_by_name("eth0").await.expect("eth0").index;
    let to_standby = Capture::start(near.netns(), eth0);
    let mut at_backends = Vec::new();
    for node in ["b1", "b2", "b3"] {
        let netlink = live.netlink(node);
        let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
        at_backends.push((eth0.mac, Capture::start(netlink.netns(), eth0.index)));
    }

    let client = live.node("client1");
    client
        .run(|| {
            for number in 0..DATAGRAMS {
                // One socket, and thus one flow, per datagram.
                let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
                let text = [MARK, format!("{number:04}").as_bytes()].concat();
                socket.send_to(&text, vip).expect("sends");
            }
        })
        .expect("enters");

    let mut received = vec![0; DATAGRAMS];
    for server in &servers {
        server.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let mut buffer = [0; 64];
        while let Ok(length) = server.recv(&mut buffer) {
            let number = std::str::from_utf8(&buffer[MARK.len()..length]).expect("text");
            received[number.parse::<usize>().expect("a number")] += 1;
        }
    }
    assert!(received.iter().all(|&times| times == 1), "{received:?}");
    let mut delivered = 0;
    for (mac, capture) in &at_backends {
        let theirs = |frame: &[u8]| is_marked(frame) && frame.starts_with(mac);
        delivered += capture.frames(0, Duration::ZERO, theirs).len();
    }
    assert_eq!(delivered, DATAGRAMS, "frames addressed to backends");
    // The switch floods each datagram twice: as sent by the client and as forwarded by the
    // director.
    let seen = to_standby.frames(2 * DATAGRAMS, Duration::from_millis(200), is_marked).len();
    assert!(seen >= 2 * DATAGRAMS, "the switch floods: the standby saw {seen} frames");
    let sent = from_standby.frames(0, Duration::ZERO, is_marked).len();
    assert_eq!(sent, 0, "the standby forwards nothing");

    let active = live.verdicts();
    assert_eq!(active["tx"], DATAGRAMS as u64, "{active:?}");
    let idle = verdicts_of(&on_standby(&["stats", "--output", "json"]).json());
    assert_eq!(idle["pass/not-our-mac"], 2 * DATAGRAMS as u64, "{idle:?}");
    let forwarding = ["tx", "redirect"].map(|verdict| idle.contains_key(verdict));
    assert_eq!(forwarding, [false, false], "{idle:?}");
    on_standby(&["detach"]);
    live.detach();
}

/// An instance whose pins and files are removed when dropped.
struct Detached<'a>(&'a Instance);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let _ = datapath::detach(self.0, &[]);
        let _ = fs::remove_dir_all(self.0.run_dir());
    }
}

/// A service whose backends are behind a second interface with this role.
fn two_networks(forward: &str, role: &str) -> String {
    format!(
        r#"
interfaces: [{{name: eth0}}, {{name: eth1, role: {role}}}]
services:
  - name: far
    address: 192.0.2.30
    protocol: udp
    port: 7
    forward: {forward}
    backends: [{{address: 10.9.0.2}}]
"#
    )
}

/// The director's second network, with a backend in it that holds the VIP.
async fn far_backend(live: &Live, test: &str) -> Host {
    let far = Host::new(test);
    live.second_network(&far.netns).await;
    let near = live.netlink("director");
    let eth1 = near.link_by_name("eth1").await.expect("eth1").index;
    near.add_address(eth1, ip("10.9.0.1"), 24).await.expect("an address");
    let netlink = far.netlink();
    let index = netlink.link_by_name("far").await.expect("far").index;
    netlink.add_address(index, ip("10.9.0.2"), 24).await.expect("an address");
    netlink.add_address(index, ip("192.0.2.30"), 32).await.expect("the VIP");
    far
}

/// Sends datagrams to the service from the client and returns the frames that `far` receives.
async fn send_far(live: &Live, far: &Host, count: usize) -> Vec<Vec<u8>> {
    let index = far.netlink().link_by_name("far").await.expect("far").index;
    let capture = Capture::start(&far.netns, index);
    live.node("client1")
        .run(|| {
            for _ in 0..count {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
                socket.send_to(MARK, "192.0.2.30:7").expect("sends");
            }
        })
        .expect("enters");
    capture.frames(count, TIMEOUT, is_marked)
}

/// Lab nodes come from the configuration: this one has only the first interface and no backend.
const FIRST_NETWORK: &str = r#"
interfaces: [{name: eth0}]
services:
  - {name: far, address: 192.0.2.30, protocol: udp, port: 7, forward: tunnel, backends: []}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn backends_behind_another_interface_get_redirected_frames() {
    let live = Live::with("redirect", FIRST_NETWORK).await;
    let far = far_backend(&live, "redirect").await;
    let far_mac = far.netlink().link_by_name("far").await.expect("far").mac;
    let near_mac = live.netlink("director").link_by_name("eth1").await.expect("eth1").mac;
    let mut packets = 0;
    for (forward, role) in
        [("tunnel", "both"), ("direct", "both"), ("tunnel", "egress"), ("direct", "egress")]
    {
        live.write(&two_networks(forward, role));
        live.attach().prints(&["attached to eth0, eth1"]);
        let frames = send_far(&live, &far, 20).await;
        packets += 20;
        assert_eq!(frames.len(), 20, "{forward}, {role}");
        for frame in &frames {
            assert_eq!(frame[..6], far_mac, "{forward}, {role}");
            assert_eq!(frame[6..12], near_mac, "{forward}, {role}");
            let protocol = if forward == "tunnel" { 4 } else { 17 };
            assert_eq!(frame[14 + 9], protocol, "{forward}, {role}");
        }
        let verdicts = live.verdicts();
        assert_eq!(verdicts.get("redirect"), Some(&packets), "{forward}, {role}: {verdicts:?}");
        assert_eq!(verdicts.get("tx"), None, "{forward}, {role}: {verdicts:?}");
    }
    let status = live.director("status").succeeded();
    status.prints(&["eth0 (native, up), eth1 (native, up)"]);

    // One of two interfaces is detached; the maps stay until the last one is.
    let attached = live.bpf().await;
    assert_eq!(attached.programs.len(), 2, "{attached:?}");
    live.director("detach eth1").succeeded().prints(&["detached from eth1"]);
    live.director("status").succeeded().prints(&["attached   eth0 (native, up)\n"]);
    live.director("detach eth1")
        .refused(1)
        .reports(&["director is not on eth1", "director status"]);
    live.director("detach eth0").succeeded().prints(&["detached from eth0"]);
    live.assert_nothing_attached().await;
    attached.wait_until_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_no_longer_listed_is_detached() {
    let live = Live::with("let-go", FIRST_NETWORK).await;
    let far = far_backend(&live, "let-go").await;
    live.write(&two_networks("direct", "both"));
    live.attach();
    assert_eq!(send_far(&live, &far, 5).await.len(), 5);
    live.write(FIRST_NETWORK);
    live.attach().prints(&["backend 10.9.0.2 drains", "attached to eth0;"]);
    live.director("status").succeeded().prints(&["attached   eth0 (native, up)\n"]);
    let eth1 = live.netlink("director").link_by_name("eth1").await.expect("eth1");
    assert_eq!(eth1.xdp, None);
    live.detach();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_an_empty_service_are_refused() {
    let live = Live::with("empty", DEFAULT_CONFIG).await;
    let (mut yaml, mut skipped) = (String::new(), false);
    for line in DEFAULT_CONFIG.lines() {
        skipped = line.starts_with("      - {");
        if !skipped {
            yaml += &line.replace("backends:", "backends: []");
            yaml.push('\n');
        }
    }
    assert!(skipped, "the last line is a backend");
    live.write(&yaml);
    live.attach().reports(&["warning: ", "no backends"]);
    for vip in VIPS {
        // The reply to a first SYN may arrive before the socket is ready for it.
        let connect = || TcpStream::connect_timeout(&address(vip), TIMEOUT);
        let error = live.node("client1").run(connect).expect("enters").expect_err("no backend");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{vip}: {error}");
    }
    let verdicts = live.verdicts();
    assert!(verdicts["reply/no-backend"] >= 2, "{verdicts:?}");
    live.detach();
}

/// Full-size packets that fit the director's link do not fit it in a tunnel: the sender gets an
/// ICMP error.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_receives_the_mtu_of_a_tunnel() {
    let live = Live::new("too-big").await;
    live.attach();
    let client = live.netlink("client1");
    let eth0 = client.link_by_name("eth0").await.expect("eth0").index;
    client.set_mtu(eth0, 1600).await.expect("an MTU");
    for (vip, replies) in [(VIPS[0], true), (VIPS[1], false)] {
        let before = live.verdicts().get("reply/too-big").copied().unwrap_or(0);
        let answer = live.node("client1").run(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address(vip), TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            let long = "x".repeat(6000);
            stream.write_all(format!("GET /?{long} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = answer.expect("enters").expect(vip);
        assert!(answer.starts_with("HTTP/1.1 200"), "{vip}: {answer}");
        let after = live.verdicts().get("reply/too-big").copied().unwrap_or(0);
        assert_eq!(after > before, replies, "{vip}: {before} to {after}");
    }
    live.detach();
}

/// The VIPs on the director's first interface.
async fn vips_on_director(netlink: &Netlink) -> Vec<(IpAddr, u8)> {
    let addresses = netlink.addresses().await.expect("listed");
    let vips = VIPS.map(|vip| address(vip).ip());
    addresses
        .iter()
        .filter(|a| vips.contains(&a.address))
        .map(|a| (a.address, a.prefix_len))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn vips_are_assigned_announced_and_withdrawn() {
    let yaml = DEFAULT_CONFIG.replace("name: eth0", "name: eth0\n    assign_vips: true");
    let mut live = Live::with("assign", &yaml).await;
    live.serve(&["b1", "b2", "b3"]);
    let netlink = live.netlink("director");
    assert_eq!(vips_on_director(&netlink).await, [], "the lab assigns no VIPs");
    let client = live.netlink("client1");
    let eth0 = client.link_by_name("eth0").await.expect("eth0").index;
    // Another host had the address: the announcement must move it.
    client.set_sysctl("net/ipv4/conf/eth0/arp_accept", "1").expect("sysctl");
    let capture = Capture::start(client.netns(), eth0);

    live.attach();
    let both = [(ip("192.0.2.10"), 32), (ip("2001:db8::10"), 128)];
    assert_eq!(vips_on_director(&netlink).await, both);
    let gratuitous_arp = |frame: &[u8]| {
        frame[12..14] == [8, 6]
            && frame[28..32] == [192, 0, 2, 10]
            && frame[38..42] == frame[28..32]
    };
    assert!(!capture.frames(1, TIMEOUT, gratuitous_arp).is_empty(), "no gratuitous ARP");
    for vip in VIPS {
        assert_eq!(live.spread(vip, 20).values().sum::<usize>(), 20);
    }
    live.attach();
    assert_eq!(vips_on_director(&netlink).await, both, "they stay");
    live.detach();
    assert_eq!(vips_on_director(&netlink).await, []);

    // Director does not remove an address that existed before.
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    netlink.add_address(eth0, both[0].0, 32).await.expect("added");
    live.attach();
    live.detach();
    assert_eq!(vips_on_director(&netlink).await, both[..1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vip_of_a_removed_service_is_withdrawn() {
    let yaml = DEFAULT_CONFIG.replace("name: eth0", "name: eth0\n    assign_vips: true");
    let live = Live::with("gone-vip", &yaml).await;
    live.attach();
    let netlink = live.netlink("director");
    assert_eq!(vips_on_director(&netlink).await.len(), 2);
    let (first, _) = yaml.split_once("  - name: web-v6").expect("two services");
    live.write(first);
    live.attach().prints(&["- service web-v6"]);
    assert_eq!(vips_on_director(&netlink).await, [(ip("192.0.2.10"), 32)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn generic_mode_forwards_on_an_interface_without_native_xdp() {
    let live = Live::new("generic").await;
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
    // eth0 becomes a port of a bridge, which takes over its addresses and routes.
    let addresses = netlink.addresses().await.expect("listed");
    netlink.create_bridge("br1").await.expect("a bridge");
    let bridge = netlink.link_by_name("br1").await.expect("br1").index;
    netlink.set_master(eth0.index, Some(bridge)).await.expect("a port");
    netlink.set_mac(bridge, eth0.mac).await.expect("a MAC");
    netlink.set_mtu(bridge, 1600).await.expect("an MTU");
    netlink.set_up(bridge, true).await.expect("up");
    for old in addresses.iter().filter(|a| a.link_index == eth0.index) {
        netlink.remove_address(eth0.index, old.address, old.prefix_len).await.expect("moved");
        if old.scope == AddressScope::Global {
            netlink.add_address(bridge, old.address, old.prefix_len).await.expect("moved");
        }
    }
    for (source, destination) in [("198.18.0.1", "0.0.0.0"), ("fd00:198:18::1", "::")] {
        let (source, destination) = (Some(ip(source)), ip(destination));
        assert!(live.node("director").addresses().contains(&source.expect("given")));
        let route = |link_index| NewRoute {
            destination,
            prefix_len: 0,
            gateway: None,
            link_index,
            onlink: false,
            source,
        };
        // The IPv4 route was removed with its source address.
        let _ = netlink.remove_route(route(eth0.index)).await;
        netlink.add_route(route(bridge)).await.expect("moved");
    }

    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: br1"));
    live.director("attach -c director.yaml")
        .refused(1)
        .reports(&["br1 has no native XDP", "mode: generic"]);
    live.assert_nothing_attached().await;

    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: br1\n    mode: generic"));
    live.attach().prints(&["attached to br1"]);
    live.director("status").succeeded().prints(&["br1 (generic, up)"]);
    for vip in VIPS {
        let answers = live.spread(vip, 100);
        assert_eq!(answers.len(), 3, "{vip}: {answers:?}");
    }
    let verdicts = live.verdicts();
    assert!(verdicts["tx"] > 2 * 100 * 4, "{verdicts:?}");

    // An unsupported mode leaves the interface in its current mode.
    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: br1"));
    live.director("attach -c director.yaml").refused(1).reports(&["br1 has no native XDP"]);
    live.director("status").succeeded().prints(&["br1 (generic, up)"]);
    assert_eq!(live.spread(VIPS[0], 50).len(), 3);
    let attached = live.bpf().await;
    live.detach();
    live.assert_nothing_attached().await;
    attached.wait_until_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_mode_reattaches_the_program() {
    let live = Live::new("mode").await;
    live.attach();
    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: eth0\n    mode: generic"));
    live.attach();
    live.director("status").succeeded().prints(&["attached   eth0 (generic, up)\n"]);
    for vip in VIPS {
        assert_eq!(live.spread(vip, 50).len(), 3, "{vip}");
    }
    live.write(DEFAULT_CONFIG);
    live.attach();
    live.director("status").succeeded().prints(&["attached   eth0 (native, up)\n"]);
    assert_eq!(live.spread(VIPS[0], 50).len(), 3);
    // The interface is free as soon as `detach` returns.
    for _ in 0..3 {
        live.detach();
        live.assert_nothing_attached().await;
        live.attach();
    }
    live.detach();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_next_hops_come_from_the_kernel() {
    let live = Live::new("fib").await;
    let netlink = live.netlink("director");
    netlink.set_sysctl("net/ipv4/ip_forward", "1").expect("sysctl");
    netlink.set_sysctl("net/ipv6/conf/all/forwarding", "1").expect("sysctl");
    live.attach();
    for vip in VIPS {
        assert_eq!(live.spread(vip, 30).values().sum::<usize>(), 30);
    }
    for node in ["b1", "b2", "b3"] {
        change_mac(&live, node).await;
    }
    for vip in VIPS {
        let took = wait_until(vip, Duration::from_secs(10), || {
            let answers = (0..6).map(|_| live.get(vip)).collect::<Result<Vec<_>, _>>();
            answers.is_ok()
        });
        println!("{vip}: {took:?}");
        assert_eq!(live.spread(vip, 30).values().sum::<usize>(), 30);
    }
    live.detach();
}

/// Changes the MAC address of a backend, as a replaced NIC would, and announces it.
async fn change_mac(live: &Live, node: &str) {
    let netlink = live.netlink(node);
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
    let mut mac = eth0.mac;
    mac[1] = 0xee;
    netlink.set_mac(eth0.index, mac).await.expect("another MAC");
    for &own in live.node(node).addresses() {
        netlink.announce(eth0.index, own).await.expect("announced");
    }
}
