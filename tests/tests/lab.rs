//! The lab: built fast, connected, and removed completely.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use director_userspace::{
    kernel::net::{NetNs, Netlink},
    setup::lab::{Builder, DEFAULT_CONFIG, HttpServer, Lab, LabError, Node},
};

const TIMEOUT: Duration = Duration::from_secs(2);
const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];

fn name(test: &str) -> String {
    format!("tlab-{}-{test}", std::process::id())
}

fn builder(test: &str) -> Builder {
    Lab::builder().name(&name(test))
}

/// Whether a host answers at the address, even with a refusal: ARP or neighbour discovery and both
/// directions work.
fn reaches(node: &Node, address: IpAddr) -> bool {
    let target = SocketAddr::new(address, 9);
    match node.run(|| TcpStream::connect_timeout(&target, TIMEOUT)).expect("enters") {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}

fn get(node: &Node, address: SocketAddr) -> String {
    let request = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    node.run(request).expect("enters").unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// All objects on this host whose name contains that of the lab.
fn leftovers(lab: &str) -> Vec<String> {
    let mut found: Vec<String> = NetNs::names().expect("listed");
    for directory in ["/run/director", "/sys/fs/bpf"] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    let temporary = fs::read_dir(std::env::temp_dir()).expect("listed").flatten();
    found.extend(temporary.map(|entry| entry.path().display().to_string()));
    found.retain(|name| name.contains(lab));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_lab_is_up_fast_and_connected() {
    let began = Instant::now();
    let lab = builder("up").clients(2).build().await.expect("a lab");
    let took = began.elapsed();
    // An idle host takes 0.2 s; tests run in parallel.
    assert!(took < Duration::from_secs(5), "{took:?}");

    let names: Vec<_> = lab.nodes().iter().map(Node::name).collect();
    assert_eq!(names, ["switch", "director", "client1", "client2", "b1", "b2", "b3"]);
    let nodes: Vec<_> = lab.nodes().iter().skip(1).collect();
    for from in &nodes {
        for to in &nodes {
            for address in [to.ipv4(), to.ipv6()] {
                let address = address.expect("both families");
                assert!(reaches(from, address), "{} to {address}", from.name());
            }
        }
    }
    assert_eq!(lab.backends().len(), 6, "{:?}", lab.backends());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_director_answers_for_the_vips() {
    let lab = builder("arp").build().await.expect("a lab");
    let client = lab.node("client1").expect("exists");
    let director = lab.node("director").expect("exists");
    let there = Netlink::connect_in(director.netns()).expect("connects");
    let mac = there.link_by_name("eth0").await.expect("eth0").mac;
    let here = Netlink::connect_in(client.netns()).expect("connects");
    let eth0 = here.link_by_name("eth0").await.expect("eth0").index;
    for vip in VIPS {
        let vip: IpAddr = vip.parse().expect(vip);
        // Resolved three times: a backend that also answered would win eventually.
        for _ in 0..3 {
            here.remove_neighbour(eth0, vip).await.expect("removed");
            assert!(reaches(client, vip), "{vip}");
            let all = here.neighbours().await.expect("listed");
            let neighbour = all.iter().find(|n| n.ip == vip).expect("resolved");
            assert_eq!(neighbour.mac, Some(mac), "{vip}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_serve_their_vips_and_return_their_names() {
    let lab = builder("http").build().await.expect("a lab");
    let servers: Vec<_> =
        ["b1", "b2", "b3"].map(|node| lab.serve_http(node).expect("serves")).into();
    for server in &servers {
        let node = lab.node(server.node()).expect("exists");
        assert_eq!(server.listen().len(), 2, "a VIP of each family");
        for &address in server.listen() {
            let answer = get(node, address);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{}\n", node.name())), "{answer}");
        }
    }
    let pids: Vec<_> = servers.iter().map(HttpServer::pid).collect();
    drop(servers);
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is alive");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_size_packets_and_their_tunnels_fit() {
    let lab = builder("mtu").build().await.expect("a lab");
    for (node, mtu) in [("client1", 1500), ("director", 1600), ("b1", 1600)] {
        let netlink = Netlink::connect_in(lab.node(node).expect("exists").netns()).expect("in");
        assert_eq!(netlink.link_by_name("eth0").await.expect("eth0").mtu, mtu, "{node}");
    }
    // The requirements of XDP on veth (see wiring.rs).
    let switch = Netlink::connect_in(lab.node("switch").expect("exists").netns()).expect("in");
    let port = switch.link_by_name("director").await.expect("a port");
    assert!(port.xdp.is_some(), "frames of the director's XDP_TX would be lost");
    let client = Netlink::connect_in(lab.node("client1").expect("exists").netns()).expect("in");
    for (netlink, interface) in [(&client, "eth0"), (&switch, "director"), (&switch, "b1")] {
        let features = netlink.features(interface).expect("listed");
        let on: Vec<_> = features
            .iter()
            .filter(|feature| feature.active && feature.name.starts_with("tx-checksum-"))
            .collect();
        assert!(on.is_empty(), "{interface}: {on:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_lab_leaves_nothing_and_ends_its_processes() {
    let lab = builder("drop").build().await.expect("a lab");
    let name = lab.name().to_owned();
    let _server = lab.serve_http("b1").expect("serves");
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let mut child = lab.node("client1").expect("exists").spawn(sleep).expect("runs");
    assert!(!leftovers(&name).is_empty());
    drop(lab);
    let status = child.wait().expect("ended");
    assert_eq!(status.signal(), Some(15), "{status:?}");
    drop(_server);
    assert_eq!(leftovers(&name), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_lab_of_a_name_exists_at_a_time() {
    let lab = builder("twice").build().await.expect("a lab");
    let again = builder("twice").build().await;
    assert!(matches!(again, Err(LabError::Exists { creator: Some(_), .. })), "{again:?}");
    assert!(reaches(lab.node("client1").expect("exists"), "198.18.0.1".parse().expect("ok")));
    let taken = Lab::remove(lab.name(), false);
    assert!(matches!(taken, Err(LabError::Exists { .. })), "in use by a running process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_lab_can_be_opened_used_and_removed() {
    let mut lab = builder("persist").build().await.expect("a lab");
    let name = lab.name().to_owned();
    lab.persist().expect("recorded");
    drop(lab);
    let opened = Lab::open(&name).expect("still there");
    assert!(Lab::names().expect("listed").contains(&name));
    assert!(reaches(opened.node("client1").expect("exists"), VIPS[0].parse().expect("ok")));
    let missing = opened.node("b9").expect_err("no such node").to_string();
    assert!(missing.contains("b1, b2, b3"), "{missing}");
    drop(opened);
    let again = builder("persist").build().await;
    assert!(matches!(again, Err(LabError::Exists { creator: None, .. })), "{again:?}");
    Lab::remove(&name, false).expect("removed");
    assert_eq!(leftovers(&name), Vec::<String>::new());
    assert!(matches!(Lab::open(&name), Err(LabError::NoSuchLab { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_killed_process_are_removed() {
    let lab = builder("crash").build().await.expect("a lab");
    let name = lab.name().to_owned();
    // Simulates a creator that was killed midway: another start time, some namespaces gone, a
    // pinned program left.
    std::mem::forget(lab);
    let path = format!("/run/director/lab-{name}.json");
    let mut record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a record")).expect("JSON");
    record["creator"]["started"] = 1.into();
    fs::write(&path, record.to_string()).expect("writable");
    NetNs::delete(&format!("{name}-b3")).expect("deleted");
    assert!(leftovers(&name).iter().any(|trace| trace.starts_with("/sys/fs/bpf/")));

    let lab = builder("crash").build().await.expect("the leftovers are removed");
    drop(lab);
    assert_eq!(leftovers(&name), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_decides_names_and_interfaces() {
    let yaml = DEFAULT_CONFIG.replace("eth0", "wan0");
    let config = director_userspace::policy::config::parse("test", &yaml).expect("valid").config;
    let lab = builder("config").config(&config).clients(0).build().await.expect("a lab");
    // The configuration does not group addresses into hosts.
    let names: Vec<_> = lab.nodes().iter().map(Node::name).collect();
    assert_eq!(names, ["switch", "director", "b1", "b2", "b3", "b4", "b5", "b6"]);
    assert_eq!(lab.node("director").expect("exists").interface(), "wan0");
    let director = Netlink::connect_in(lab.node("director").expect("exists").netns());
    director.expect("connects").link_by_name("wan0").await.expect("wan0");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_names_and_missing_labs_are_refused() {
    let refused = Lab::builder().name("../etc").build().await;
    assert!(matches!(refused, Err(LabError::BadName { .. })), "{refused:?}");
    let missing = Lab::remove("no-such-lab-anywhere", true);
    assert!(matches!(missing, Err(LabError::NoSuchLab { .. })), "{missing:?}");
}
