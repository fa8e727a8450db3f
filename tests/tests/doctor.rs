//! `director doctor` on a test director and a test real server: each test injects one fault, which
//! doctor must report; without a fault it must report nothing.
//!
//! ```text
//! outside: o0 192.0.2.2/24 --- eth0 192.0.2.1/24, VIPs :director: eth1 10.66.0.1/24 --- i0 :inside
//!                                                                    i0: 10.66.0.11, 10.66.0.12
//! ```

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use aya::programs::Xdp;
use director_userspace::{
    inspect::doctor::{
        Finding, Level, RealserverExpectation, Report, examine_director, examine_realserver,
    },
    kernel::net::{LinkEnd, NetNs, Netlink, NewRoute},
    policy::config::{self, Config},
    setup::{
        lab::{DEFAULT_CONFIG, Lab},
        realserver::{self, Forward, Mode, RealServer, Settings},
    },
};

const VIP: &str = "192.0.2.10";
const VIP6: &str = "2001:db8:2::10";
const CONFIG: &str = r#"
interfaces:
  - {name: eth0}
services:
  - name: web
    address: 192.0.2.10
    protocol: tcp
    port: 80
    forward: tunnel
    backends: [{address: 10.66.0.11}, {address: 10.66.0.12}]
  - name: web6
    address: "2001:db8:2::10"
    protocol: tcp
    port: 80
    forward: tunnel
    backends: [{address: 10.66.0.11}]
"#;
/// Findings about this machine's kernel and process, not about the test network.
const OF_THE_HOST: [&str; 5] = ["kernel", "jit", "btf", "bpffs", "capabilities"];

/// A named network namespace, removed when dropped.
struct Host {
    name: String,
    netlink: Netlink,
}

impl Host {
    fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ddoc{}-{number}-{role}", std::process::id());
        let netns = NetNs::create(&name).expect("root can create namespaces");
        let netlink = Netlink::connect_in(&netns).expect("connects");
        for (setting, value) in [("accept_dad", "0"), ("router_solicitations", "0")] {
            for name in ["all", "default"] {
                let path = format!("net/ipv6/conf/{name}/{setting}");
                netlink.set_sysctl(&path, value).expect("sysctl");
            }
        }
        Self { name, netlink }
    }

    async fn index(&self, interface: &str) -> u32 {
        self.netlink.link_by_name(interface).await.expect(interface).index
    }

    async fn up(&self, interface: &str, mtu: u32, addresses: &[&str]) {
        let index = self.index(interface).await;
        self.netlink.set_mtu(index, mtu).await.expect("an MTU");
        self.netlink.set_up(index, true).await.expect("up");
        for address in addresses {
            let (address, bits) = address.split_once('/').expect("a prefix");
            let bits = bits.parse().expect("a length");
            self.netlink.add_address(index, ip(address), bits).await.expect("an address");
        }
    }

    async fn remove(&self, interface: &str, address: &str, bits: u8) {
        let index = self.index(interface).await;
        let removed = self.netlink.remove_address(index, ip(address), bits).await;
        assert!(removed.expect("removes"), "{address} was assigned");
    }

    fn set(&self, path: &str, value: &str) {
        self.netlink.set_sysctl(path, value).expect("sysctl");
    }

    /// Raw frames sent by XDP at the other end arrive only with GRO on.
    fn accept_xdp_frames(&self, interface: &str) {
        self.netlink.set_features(interface, "rx-gro", true).expect("GRO");
    }

    async fn wait_for_carrier(&self, interface: &str) {
        let started = Instant::now();
        while !self.netlink.link_by_name(interface).await.expect("is there").running {
            assert!(started.elapsed() < Duration::from_secs(2), "{interface} has no carrier");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = NetNs::delete(&self.name) {
            eprintln!("{error}");
        }
    }
}

async fn veth_pair(a: (&Host, &str), b: (&Host, &str)) {
    let here = Netlink::connect().expect("connects");
    let end = |(host, name)| LinkEnd { name, netns: Some(Host::netns(host)), mac: None };
    here.create_veth(end(a), end(b)).await.expect("a veth pair");
}

impl Host {
    fn netns(&self) -> &NetNs {
        self.netlink.netns()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn config(yaml: &str) -> Config {
    config::parse("test", yaml).expect("a valid configuration").config
}

struct Network {
    outside: Host,
    director: Host,
    inside: Host,
}

impl Network {
    async fn new() -> Self {
        let (outside, director, inside) =
            (Host::new("outside"), Host::new("director"), Host::new("inside"));
        veth_pair((&outside, "o0"), (&director, "eth0")).await;
        veth_pair((&director, "eth1"), (&inside, "i0")).await;
        outside.up("o0", 1500, &["192.0.2.2/24", "2001:db8:2::2/64"]).await;
        let vips = ["192.0.2.1/24", "192.0.2.10/32", "2001:db8:2::1/64", "2001:db8:2::10/128"];
        director.up("eth0", 1500, &vips).await;
        director.up("eth1", 1600, &["10.66.0.1/24"]).await;
        inside.up("i0", 1600, &["10.66.0.11/24", "10.66.0.12/24"]).await;
        outside.accept_xdp_frames("o0");
        inside.accept_xdp_frames("i0");
        director.wait_for_carrier("eth0").await;
        director.wait_for_carrier("eth1").await;
        Self { outside, director, inside }
    }

    async fn examine(&self, yaml: &str) -> Findings {
        let report = examine_director(&self.director.netlink, &config(yaml)).await;
        Findings::of(report.expect("doctor runs"))
    }
}

/// A report without the findings about the machine that runs the tests.
struct Findings(Vec<Finding>);

impl Findings {
    fn of(report: Report) -> Self {
        Self(report.findings.into_iter().filter(|f| !OF_THE_HOST.contains(&f.check)).collect())
    }

    #[track_caller]
    fn healthy(&self) {
        let bad: Vec<_> = self.0.iter().filter(|f| f.level != Level::Ok).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }

    /// Asserts that exactly this finding is not ok.
    #[track_caller]
    fn only(&self, level: Level, check: &str, subject: &str, words: &[&str]) {
        let bad: Vec<_> = self.0.iter().filter(|f| f.level != Level::Ok).collect();
        assert_eq!(bad.len(), 1, "{bad:#?}");
        self.contains(level, check, subject, words);
    }

    /// Asserts that this finding exists, among any others.
    #[track_caller]
    fn contains(&self, level: Level, check: &str, subject: &str, words: &[&str]) {
        let matches = |f: &&Finding| {
            let text = format!("{} {}", f.message, f.fix.as_deref().unwrap_or_default());
            (f.level, f.check, f.subject.as_str()) == (level, check, subject)
                && words.iter().all(|word| text.contains(word))
        };
        assert!(self.0.iter().any(|f| matches(&f)), "no {words:?} in {:#?}", self.0);
    }
}

#[tokio::test]
async fn a_healthy_director() {
    let network = Network::new().await;
    let findings = network.examine(CONFIG).await;
    findings.healthy();
    findings.contains(Level::Ok, "xdp", "eth0", &["veth", "native"]);
    findings.contains(Level::Ok, "neighbour", "next hops", &["2 next hops resolved"]);
    findings.contains(Level::Ok, "vip", VIP6, &["neighbour discovery"]);
}

#[tokio::test]
async fn an_interface_that_is_down() {
    let network = Network::new().await;
    let index = network.director.index("eth0").await;
    network.director.netlink.set_up(index, false).await.expect("down");
    let findings = network.examine(CONFIG).await;
    findings.contains(Level::Fail, "link", "eth0", &["down", "ip link set eth0 up"]);
}

#[tokio::test]
async fn an_interface_without_carrier() {
    let network = Network::new().await;
    let index = network.outside.index("o0").await;
    network.outside.netlink.set_up(index, false).await.expect("down");
    let started = Instant::now();
    while network.director.netlink.link_by_name("eth0").await.expect("there").running {
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    let findings = network.examine(CONFIG).await;
    findings.contains(Level::Fail, "link", "eth0", &["no carrier"]);
}

#[tokio::test]
async fn an_interface_that_does_not_exist() {
    let network = Network::new().await;
    let findings = network.examine(&CONFIG.replace("name: eth0", "name: eth7")).await;
    findings.only(Level::Fail, "link", "eth7", &["does not exist", "eth0, eth1"]);
}

#[tokio::test]
async fn a_generic_only_driver() {
    let network = Network::new().await;
    let director = &network.director;
    director.netlink.create_bridge("br0").await.expect("a bridge");
    let bridge = director.index("br0").await;
    let eth0 = director.index("eth0").await;
    director.netlink.set_master(eth0, Some(bridge)).await.expect("a port");
    for (address, bits) in [("192.0.2.1", 24), (VIP, 32), ("2001:db8:2::1", 64), (VIP6, 128)] {
        director.remove("eth0", address, bits).await;
    }
    let vips = ["192.0.2.1/24", "192.0.2.10/32", "2001:db8:2::1/64", "2001:db8:2::10/128"];
    director.up("br0", 1500, &vips).await;
    director.wait_for_carrier("br0").await;
    let native = CONFIG.replace("name: eth0", "name: br0");
    let findings = network.examine(&native).await;
    findings.only(Level::Fail, "xdp", "br0", &["no native XDP", "mode: generic"]);
    network.examine(&native.replace("name: br0", "name: br0, mode: generic")).await.healthy();
}

#[tokio::test]
async fn a_foreign_xdp_program() {
    let network = Network::new().await;
    let mut ebpf = realserver::load_pass().expect("loads");
    let program: &mut Xdp = ebpf
        .program_mut(realserver::PASS)
        .expect("is in the object")
        .try_into()
        .expect("is an XDP program");
    let index = network.director.index("eth0").await;
    let fd = program.fd().expect("is loaded").as_fd();
    network.director.netlink.attach_xdp(index, fd).await.expect("attaches");
    let findings = network.examine(CONFIG).await;
    findings.only(
        Level::Fail,
        "program",
        "eth0",
        &["foreign XDP program", "pass (native", "xdp off"],
    );
}

#[tokio::test]
async fn an_mtu_too_small_for_the_tunnel() {
    let network = Network::new().await;
    let index = network.director.index("eth1").await;
    network.director.netlink.set_mtu(index, 1500).await.expect("an MTU");
    let findings = network.examine(CONFIG).await;
    let words = ["1500", "adds 20", "1480", "mtu 1520", "advmss 1440", "10.66.0.11, 10.66.0.12"];
    findings.contains(Level::Warn, "mtu", "eth1", &words);
    // Below the minimum MTU of IPv6, an ICMP error to the sender does not help.
    network.director.netlink.set_mtu(index, 1290).await.expect("an MTU");
    let findings = network.examine(CONFIG).await;
    findings.contains(Level::Fail, "mtu", "eth1", &["1270", "1280"]);
}

#[tokio::test]
async fn a_missing_neighbour() {
    let network = Network::new().await;
    network.inside.remove("i0", "10.66.0.12", 24).await;
    let findings = network.examine(CONFIG).await;
    let words = ["backend 10.66.0.12", "does not answer ARP on eth1", "mac:"];
    findings.only(Level::Fail, "neighbour", "10.66.0.12", &words);
}

#[tokio::test]
async fn a_neighbour_that_has_just_gone_away() {
    let network = Network::new().await;
    network.examine(CONFIG).await.healthy();
    network.inside.remove("i0", "10.66.0.12", 24).await;
    let index = network.director.index("eth1").await;
    let cached = network.director.netlink.neighbour(index, ip("10.66.0.12")).await;
    let cached = cached.expect("looked up").expect("cached");
    assert!(cached.usable_mac().is_some(), "the kernel still caches it: {cached:?}");
    let findings = network.examine(CONFIG).await;
    findings.only(Level::Fail, "neighbour", "10.66.0.12", &["does not answer ARP on eth1"]);
    // A neighbour set by an administrator need not answer.
    network
        .director
        .netlink
        .set_neighbour(index, ip("10.66.0.12"), [2, 0, 0, 0, 0, 9])
        .await
        .expect("sets");
    network.examine(CONFIG).await.healthy();
}

#[tokio::test]
async fn a_backend_without_a_route() {
    let network = Network::new().await;
    let far = CONFIG.replace("{address: 10.66.0.12}", "{address: 203.0.113.9}");
    let findings = network.examine(&far).await;
    findings.only(Level::Fail, "route", "203.0.113.9", &["no route", "ip route add"]);
}

#[tokio::test]
async fn a_direct_backend_behind_a_router() {
    let network = Network::new().await;
    let index = network.director.index("eth1").await;
    let route = NewRoute {
        destination: ip("203.0.113.0"),
        prefix_len: 24,
        gateway: Some(ip("10.66.0.11")),
        link_index: index,
        onlink: false,
        source: None,
    };
    network.director.netlink.add_route(route).await.expect("a route");
    let direct = r#"
interfaces: [{name: eth0}]
services:
  - name: web
    address: 192.0.2.10
    protocol: tcp
    port: 80
    forward: direct
    backends: [{address: 203.0.113.9}]
"#;
    let findings = network.examine(direct).await;
    findings.only(Level::Fail, "route", "203.0.113.9", &["router 10.66.0.11", "tunnel"]);
}

#[tokio::test]
async fn a_vip_that_no_host_answers_for() {
    let network = Network::new().await;
    network.director.remove("eth0", VIP, 32).await;
    network.director.remove("eth0", VIP6, 128).await;
    let findings = network.examine(CONFIG).await;
    let words = ["no host answers ARP", "eth0", "ip address add 192.0.2.10/32 dev eth0"];
    findings.contains(Level::Fail, "vip", VIP, &words);
    findings.contains(Level::Fail, "vip", VIP6, &["no host answers neighbour discovery", "eth0"]);

    // Director adds it with `assign_vips`, and another director may own it.
    let assigns = CONFIG.replace("name: eth0", "name: eth0, assign_vips: true");
    network.examine(&assigns).await.healthy();
    network.outside.up("o0", 1500, &["192.0.2.10/32", "2001:db8:2::10/128"]).await;
    let findings = network.examine(CONFIG).await;
    findings.healthy();
    findings.contains(Level::Ok, "vip", VIP, &["another host"]);
    findings.contains(Level::Ok, "vip", VIP6, &["another host"]);
}

#[tokio::test]
async fn a_vip_that_arp_ignore_hides() {
    let network = Network::new().await;
    let director = &network.director;
    director.remove("eth0", VIP, 32).await;
    director.up("lo", 65536, &["192.0.2.10/32"]).await;
    network.examine(CONFIG).await.healthy();
    director.set("net/ipv4/conf/eth0/arp_ignore", "1");
    let findings = network.examine(CONFIG).await;
    findings.only(Level::Fail, "vip", VIP, &["no host answers ARP", "arp_ignore is 1"]);
}

#[tokio::test]
async fn an_egress_that_accepts_no_xdp_frames() {
    let network = Network::new().await;
    network.inside.netlink.set_features("i0", "rx-gro", false).expect("GRO");
    let findings = network.examine(CONFIG).await;
    findings.only(Level::Fail, "egress", "eth1", &["role: egress", "gro on"]);
    network.outside.netlink.set_features("o0", "rx-gro", false).expect("GRO");
    let findings = network.examine(CONFIG).await;
    findings.contains(Level::Warn, "xdp", "eth0", &["other end", "gro on"]);
}

/// A backend host: `inside`, with the VIP, set up by `director realserver`.
struct Backend {
    network: Network,
    expect: RealserverExpectation,
}

impl Backend {
    async fn new() -> Self {
        let network = Network::new().await;
        let inside = &network.inside;
        inside.up("lo", 65536, &[]).await;
        let server =
            RealServer::new(inside.netlink.clone(), Some(&inside.name)).expect("/proc is mounted");
        let settings = Settings {
            vips: BTreeSet::from([ip(VIP)]),
            from: BTreeSet::from([ip("10.66.0.1").into()]),
            interface: Some("i0".into()),
            mode: Mode::Native,
            forward: Forward::Both,
        };
        server.up(&settings).await.expect("sets up");
        let status = server.status().await.expect("reads");
        let expect = RealserverExpectation::of(&status).expect("is up");
        Self { network, expect }
    }

    async fn examine(&self) -> Findings {
        let netlink = &self.network.inside.netlink;
        let report = examine_realserver(netlink, self.expect.clone()).await;
        Findings::of(report.expect("doctor runs"))
    }

    fn set(&self, path: &str, value: &str) {
        self.network.inside.set(path, value);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Err(error) = realserver::forget(Some(&self.network.inside.name)) {
            eprintln!("{error}");
        }
    }
}

#[tokio::test]
async fn a_healthy_real_server() {
    let backend = Backend::new().await;
    assert_eq!(backend.expect.interface.as_deref(), Some("i0"));
    let findings = backend.examine().await;
    findings.healthy();
    findings.contains(Level::Ok, "decapsulation", "i0", &["Director's"]);
}

#[tokio::test]
async fn a_strict_reverse_path_filter() {
    let backend = Backend::new().await;
    backend.set("net/ipv4/conf/i0/rp_filter", "0");
    backend.set("net/ipv4/conf/all/rp_filter", "1");
    let findings = backend.examine().await;
    let words = ["strict", "sysctl -w net/ipv4/conf/i0/rp_filter=2"];
    findings.only(Level::Fail, "rp_filter", "rp_filter on i0", &words);
    // The reported fix works.
    backend.set("net/ipv4/conf/i0/rp_filter", "2");
    backend.examine().await.healthy();
}

#[tokio::test]
async fn arp_settings() {
    let backend = Backend::new().await;
    for (setting, correct, word) in
        [("arp_ignore", "1", "answers ARP"), ("arp_announce", "2", "claims")]
    {
        for name in ["all", "i0"] {
            backend.set(&format!("net/ipv4/conf/{name}/{setting}"), "0");
        }
        let findings = backend.examine().await;
        findings.only(Level::Fail, "arp", &format!("{setting} on i0"), &["is 0", word]);
        backend.set(&format!("net/ipv4/conf/all/{setting}"), correct);
        backend.examine().await.healthy();
    }
}

#[tokio::test]
async fn a_vip_missing_on_a_real_server() {
    let backend = Backend::new().await;
    backend.network.inside.remove("lo", VIP, 32).await;
    let findings = backend.examine().await;
    let words = ["missing on lo", "ip address add 192.0.2.10/32 dev lo"];
    findings.only(Level::Fail, "vip", VIP, &words);
}

#[tokio::test]
async fn no_decapsulation() {
    let backend = Backend::new().await;
    let detached = backend
        .network
        .inside
        .netns()
        .command("ip")
        .expect("a command")
        .args(["link", "show", "i0"])
        .output()
        .expect("runs");
    assert!(String::from_utf8_lossy(&detached.stdout).contains("xdp"), "it was attached");
    realserver::forget(Some(&backend.network.inside.name)).expect("forgets the pinned link");
    let started = Instant::now();
    let inside = &backend.network.inside;
    while inside.netlink.link_by_name("i0").await.expect("there").xdp.is_some() {
        assert!(started.elapsed() < Duration::from_secs(2), "the program stays attached");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let findings = backend.examine().await;
    findings.only(Level::Fail, "decapsulation", "i0", &["nothing decapsulates tunnels"]);
}

/// The lab, and netlink connections of its director and first backend.
struct InLab {
    lab: Lab,
    director: Netlink,
    backend: Netlink,
}

impl InLab {
    async fn new(role: &str) -> Self {
        let name = format!("ddoc{}-{role}", std::process::id());
        let lab = Lab::builder().name(&name).build().await.expect("builds");
        let connect = |node: &str| {
            Netlink::connect_in(lab.node(node).expect(node).netns()).expect("connects")
        };
        let (director, backend) = (connect("director"), connect("b1"));
        Self { lab, director, backend }
    }

    async fn director(&self, yaml: &str) -> Findings {
        let report = examine_director(&self.director, &config(yaml)).await;
        Findings::of(report.expect("doctor runs"))
    }

    async fn backend(&self) -> Findings {
        let instance = self.lab.realserver_instance("b1");
        let server = RealServer::new(self.backend.clone(), Some(&instance)).expect("/proc");
        let status = server.status().await.expect("reads");
        let expect = RealserverExpectation::of(&status).expect("is up");
        let report = examine_realserver(&self.backend, expect).await;
        Findings::of(report.expect("doctor runs"))
    }
}

#[tokio::test]
async fn the_lab_director() {
    let lab = InLab::new("director").await;
    let netlink = &lab.director;
    lab.director(DEFAULT_CONFIG).await.healthy();
    let eth0 = netlink.link_by_name("eth0").await.expect("there").index;

    netlink.set_mtu(eth0, 1500).await.expect("an MTU");
    let findings = lab.director(DEFAULT_CONFIG).await;
    findings.only(Level::Warn, "mtu", "eth0", &["1480", "mtu 1520"]);
    netlink.set_mtu(eth0, 1600).await.expect("an MTU");

    assert!(netlink.remove_address(eth0, ip(VIP), 32).await.expect("removes"));
    let findings = lab.director(DEFAULT_CONFIG).await;
    findings.only(Level::Fail, "vip", VIP, &["no host answers ARP", "eth0"]);
    netlink.add_address(eth0, ip(VIP), 32).await.expect("adds");

    let b1 = lab.backend.link_by_name("eth0").await.expect("there").index;
    assert!(lab.backend.remove_address(b1, ip("10.0.0.11"), 32).await.expect("removes"));
    let findings = lab.director(DEFAULT_CONFIG).await;
    findings.only(Level::Fail, "neighbour", "10.0.0.11", &["does not answer ARP on eth0"]);
    lab.backend.add_address(b1, ip("10.0.0.11"), 32).await.expect("adds");

    netlink.create_macvlan("mv0", eth0).await.expect("a macvlan");
    let mv0 = netlink.link_by_name("mv0").await.expect("there").index;
    netlink.set_up(mv0, true).await.expect("up");
    let on_macvlan = DEFAULT_CONFIG.replace("name: eth0", "name: mv0");
    let findings = lab.director(&on_macvlan).await;
    findings.contains(Level::Fail, "xdp", "mv0", &["no native XDP", "mode: generic"]);
    netlink.delete_link(mv0).await.expect("goes");

    lab.director(DEFAULT_CONFIG).await.healthy();
    netlink.set_up(eth0, false).await.expect("down");
    let findings = lab.director(DEFAULT_CONFIG).await;
    findings.contains(Level::Fail, "link", "eth0", &["is down", "ip link set eth0 up"]);
}

#[tokio::test]
async fn the_lab_real_server() {
    let lab = InLab::new("realserver").await;
    let netlink = &lab.backend;
    lab.backend().await.healthy();

    let (rp_filter, arp_ignore) = ("net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/all/arp_ignore");
    netlink.set_sysctl(rp_filter, "1").expect("sysctl");
    let findings = lab.backend().await;
    findings.only(Level::Fail, "rp_filter", "rp_filter on eth0", &["strict"]);
    netlink.set_sysctl(rp_filter, "0").expect("sysctl");

    netlink.set_sysctl(arp_ignore, "0").expect("sysctl");
    netlink.set_sysctl("net/ipv4/conf/eth0/arp_ignore", "0").expect("sysctl");
    let findings = lab.backend().await;
    findings.only(Level::Fail, "arp", "arp_ignore on eth0", &["answers ARP"]);
    netlink.set_sysctl(arp_ignore, "1").expect("sysctl");

    let lo = netlink.link_by_name("lo").await.expect("there").index;
    for (vip, bits) in [(VIP, 32), ("2001:db8::10", 128)] {
        assert!(netlink.remove_address(lo, ip(vip), bits).await.expect("removes"));
        let findings = lab.backend().await;
        findings.only(Level::Fail, "vip", vip, &["missing on lo"]);
        netlink.add_address(lo, ip(vip), bits).await.expect("adds");
    }
    lab.backend().await.healthy();
}
