//! Health checks through the data path: marked sockets to a backend's own address, whose packets go
//! to the VIP by the tunnel or direct route of that backend, and the answers back.
//!
//! Servers reply with the address that received the request, so an answer with the VIP came through
//! it.

#[path = "vm/machine.rs"]
mod machine;

use std::{
    io::{Error, ErrorKind, Read as _, Result, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd as _,
    process::Command,
    thread,
    time::Duration,
};

use aya::programs::{ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, loaded_programs};
use director_tests::live::{Capture, Live, address, command, finish};
use director_userspace::{
    kernel::{
        datapath::{Attached, Instance},
        host,
        net::{Filter, NewRoute, Side},
        path_probe::{self, PathProbe, PathProbes},
    },
    policy::config::{self, model::ForwardMode},
    setup::lab::Node,
};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};
use xtask::vm::{KernelVersion, Vm};

const CONFIG: &str = r#"
interfaces: [{name: eth0}]
defaults: {protocol: tcp, forward: tunnel}
services:
  - {name: 4in4, address: 192.0.2.10, port: 44, backends: [{address: 10.0.0.11}, {address: 10.0.0.12}]}
  - {name: 4in6, address: 192.0.2.10, port: 46, backends: [{address: "2001:db8:1::11"}]}
  - {name: 6in4, address: "2001:db8::10", port: 64, backends: [{address: 10.0.0.11}, {address: 10.0.0.12}]}
  - {name: 6in6, address: "2001:db8::10", port: 66, backends: [{address: "2001:db8:1::11"}]}
  - {name: direct4, address: 192.0.2.10, port: 4, forward: direct, backends: [{address: 10.0.0.11}]}
  - name: direct6
    address: "2001:db8::10"
    port: 6
    forward: direct
    backends: [{address: "2001:db8:1::11"}]
"#;
const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::10";
const B1_V4: &str = "10.0.0.11";
const B1_V6: &str = "2001:db8:1::11";
/// Where every server of these tests listens.
const PORT: u16 = 8080;
/// Return values of the programs (linux/pkt_cls.h): continue with the next filter, and drop.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

/// How long a check may take before it has failed.
fn check_time() -> Duration {
    // The machine is emulated, on a busy host.
    if machine::is_inside() { Duration::from_secs(20) } else { Duration::from_millis(900) }
}

/// A path to `b1`, and the protocol number of its tunnel.
struct Case {
    name: &'static str,
    vip: &'static str,
    backend: &'static str,
    tunnel: Option<u8>,
}

const CASES: [Case; 6] = [
    Case { name: "4in4", vip: V4, backend: B1_V4, tunnel: Some(4) },
    Case { name: "4in6", vip: V4, backend: B1_V6, tunnel: Some(4) },
    Case { name: "6in4", vip: V6, backend: B1_V4, tunnel: Some(41) },
    Case { name: "6in6", vip: V6, backend: B1_V6, tunnel: Some(41) },
    Case { name: "direct4", vip: V4, backend: B1_V4, tunnel: None },
    Case { name: "direct6", vip: V6, backend: B1_V6, tunnel: None },
];

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

impl Case {
    fn probe(&self, live: &Live) -> PathProbe {
        let (vip, backend) = (ip(self.vip), ip(self.backend));
        let own = |like: IpAddr| {
            let director = live.node("director");
            if like.is_ipv4() { director.ipv4() } else { director.ipv6() }
        };
        PathProbe {
            vip,
            backend,
            forward: if self.tunnel.is_some() { ForwardMode::Tunnel } else { ForwardMode::Direct },
            source: own(backend),
            from: own(vip),
            mac: None,
        }
    }
}

/// A lab with the data plane attached, and servers on both backends that return their address.
async fn lab(test: &str) -> (Live, Vec<Attached>) {
    let live = Live::with(test, CONFIG).await;
    if machine::is_inside() {
        // The verifier of an emulated machine takes longer than a command may.
        let daemon = live.spawn_run();
        daemon.wait_for("running with", Duration::from_secs(150));
        daemon.end(Signal::SIGKILL);
    } else {
        live.attach();
    }
    for name in ["b1", "b2"] {
        let mut addresses = vec![ip(V4), ip(V6)];
        addresses.extend(live.node(name).addresses());
        for address in addresses {
            serve(live.node(name), name, SocketAddr::new(address, PORT));
        }
    }
    let config = config::parse("test", CONFIG).expect("valid").config;
    let netlink = live.netlink("director");
    let links = netlink.links().await.expect("listed");
    let interfaces = host::interfaces(&netlink, &links, &config).expect("known");
    (live, interfaces)
}

/// Answers requests over TCP and UDP with the server's name and address, and the request's length.
fn serve(node: &Node, name: &'static str, at: SocketAddr) {
    let bind = || Ok::<_, Error>((TcpListener::bind(at)?, UdpSocket::bind(at)?));
    let (tcp, udp) = node.run(bind).expect("enters").expect("a free port");
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            thread::spawn(move || {
                let mut request = [0; 64 << 10];
                let mut length = 0;
                while !request[..length].ends_with(b"\r\n\r\n") && length < request.len() {
                    match stream.read(&mut request[length..]) {
                        Ok(more) if more > 0 => length += more,
                        _ => return,
                    }
                }
                let answer = format!("{name} {} {length}", at.ip());
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    thread::spawn(move || {
        let mut request = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut request) {
            let _ = udp.send_to(format!("{name} {} {length}", at.ip()).as_bytes(), from);
        }
    });
}

/// Sends a request to a server from the director's node, with a mark if given, and returns the
/// answer.
async fn request(live: &Live, server: SocketAddr, mark: Option<u32>) -> Result<String> {
    request_of(live, server, mark, 0).await
}

/// As [`request`], with this many more bytes.
async fn request_of(
    live: &Live,
    server: SocketAddr,
    mark: Option<u32>,
    more: usize,
) -> Result<String> {
    let socket = live.node("director").run(|| {
        let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(mark) = mark {
            path_probe::mark(&socket, mark)?;
        }
        Ok::<_, Error>(socket)
    });
    let socket = socket.expect("enters")?;
    let exchange = async {
        let mut stream = socket.connect(server).await?;
        let request = [&vec![b'x'; more], b"GET / HTTP/1.0\r\n\r\n".as_slice()].concat();
        stream.write_all(&request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert_eq!(stream.peer_addr()?, server, "the peer of the socket");
        Ok(answer)
    };
    timeout(check_time(), exchange).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// One datagram and its answer.
fn request_udp(live: &Live, server: SocketAddr, mark: Option<u32>) -> Result<String> {
    let exchange = || {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        if let Some(mark) = mark {
            path_probe::mark(&socket, mark)?;
        }
        socket.set_read_timeout(Some(check_time()))?;
        socket.connect(server)?;
        socket.send(b"hello")?;
        let mut answer = [0; 100];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    live.node("director").run(exchange).expect("enters")
}

/// Whether a frame is a tunnel's of this protocol.
fn is_tunnel(frame: &[u8], protocol: u8) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&protocol),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&protocol),
        _ => false,
    }
}

/// Captures everything that the director sends, at the switch.
async fn capture_sent(live: &Live) -> Capture {
    let switch = live.netlink("switch");
    let port = switch.link_by_name("director").await.expect("a port").index;
    Capture::start(live.node("switch").netns(), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_socket_reaches_the_backend_through_the_vip() {
    probe_every_path().await;
}

#[test]
fn linux_6_1_sends_probes_on_every_path() {
    every_path_on(KernelVersion::V6_1, "linux_6_1_sends_probes_on_every_path");
}

#[test]
fn linux_6_12_sends_probes_on_every_path() {
    every_path_on(KernelVersion::V6_12, "linux_6_12_sends_probes_on_every_path");
}

fn every_path_on(kernel: KernelVersion, test: &str) {
    let equip = |vm: Vm| vm.modules(["sch_ingress", "cls_bpf"]);
    machine::within(kernel, test, equip, || {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(probe_every_path());
    });
}

async fn probe_every_path() {
    let (live, interfaces) = lab("path").await;
    let probes: Vec<PathProbe> = CASES.iter().map(|case| case.probe(&live)).collect();
    let mut paths = PathProbes::new(live.netlink("director"), live.instance());
    let marks = paths.set(&interfaces, &probes).await.expect("set");
    assert_eq!(marks.len(), CASES.len());

    for (case, probe) in CASES.iter().zip(&probes) {
        let capture = capture_sent(&live).await;
        let server = SocketAddr::new(probe.backend, PORT);
        let through = format!("b1 {}", case.vip);
        let answer = request(&live, server, Some(marks[probe])).await;
        assert_eq!(answer.expect(case.name), format!("{through} 18"), "{}", case.name);
        let answer = request_udp(&live, server, Some(marks[probe]));
        assert_eq!(answer.expect(case.name), format!("{through} 5"), "{} UDP", case.name);
        // More than a segment, so that the kernel sends packets to be segmented.
        let answer = request_of(&live, server, Some(marks[probe]), 20_000).await;
        assert_eq!(answer.expect(case.name), format!("{through} 20018"), "{} long", case.name);

        let sent = paths.sent(probe).expect("read").expect("has a mark");
        assert!(sent >= 10, "{}: {sent}", case.name);
        let tunnelled = |frame: &[u8]| is_tunnel(frame, case.tunnel.unwrap_or(4));
        let frames = capture.frames(1, Duration::from_millis(300), tunnelled);
        assert_eq!(frames.len() >= 10, case.tunnel.is_some(), "{}: {}", case.name, frames.len());
        assert!(frames.iter().all(|frame| frame.len() <= 14 + 1600), "none too long");

        // A request without a mark goes directly to the backend.
        let plain = request(&live, server, None).await.expect("answers");
        assert_eq!(plain, format!("b1 {} 18", case.backend));
        assert_eq!(
            request_udp(&live, server, None).expect("answers"),
            format!("b1 {} 5", case.backend)
        );
    }
    let b2 = PathProbe { backend: ip("10.0.0.12"), ..probes[0].clone() };
    let marks = paths.set(&interfaces, std::slice::from_ref(&b2)).await.expect("set");
    let answer = request(&live, address("10.0.0.12:8080"), Some(marks[&b2])).await;
    assert_eq!(answer.expect("answers"), format!("b2 {V4} 18"));
    assert!(paths.set(&interfaces, &[]).await.expect("cleared").is_empty());
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_fails_when_the_path_is_broken_although_the_backend_answers() {
    let (live, interfaces) = lab("broken").await;
    let probes: Vec<PathProbe> = CASES.iter().map(|case| case.probe(&live)).collect();
    let mut paths = PathProbes::new(live.netlink("director"), live.instance());
    let marks = paths.set(&interfaces, &probes).await.expect("set");
    let outcomes = async || {
        let mut outcomes = Vec::new();
        for (case, probe) in CASES.iter().zip(&probes) {
            let server = SocketAddr::new(probe.backend, PORT);
            let mark = Some(marks[probe]);
            // Checks of both protocols agree, and the backend's own address always answers.
            let tcp = request(&live, server, mark).await.is_ok();
            assert_eq!(request_udp(&live, server, mark).is_ok(), tcp, "{}", case.name);
            assert_eq!(
                request(&live, server, None).await.expect(case.name),
                format!("b1 {} 18", case.backend)
            );
            outcomes.push((case.name, tcp));
        }
        outcomes
    };
    let expected = |works: fn(&Case) -> bool| {
        CASES.iter().map(|case| (case.name, works(case))).collect::<Vec<_>>()
    };
    assert_eq!(outcomes().await, expected(|_| true));

    // The backend loses a VIP.
    let backend = live.netlink("b1");
    let lo = backend.link_by_name("lo").await.expect("lo").index;
    backend.remove_address(lo, ip(V4), 32).await.expect("removed");
    assert_eq!(outcomes().await, expected(|case| case.vip != V4));
    backend.add_address(lo, ip(V4), 32).await.expect("added");
    assert_eq!(outcomes().await, expected(|_| true));

    // The backend no longer decapsulates.
    let arguments = ["realserver", "--vip", "192.0.2.10,2001:db8::10", "--forward", "direct"];
    let mut realserver = command(&arguments);
    realserver.args(["--instance", &live.lab.realserver_instance("b1")]);
    live.node("b1").place(&mut realserver).expect("placed");
    finish(realserver).succeeded().prints(&["detach XDP decapsulation"]);
    assert_eq!(outcomes().await, expected(|case| case.tunnel.is_none()));

    paths.set(&interfaces, &[]).await.expect("cleared");
    live.detach();
}

/// The numbers of path probe filters, and of all filters, on the director's interface.
async fn filters(live: &Live, index: u32) -> (usize, usize) {
    let netlink = live.netlink("director");
    let (mut of_probes, mut all) = (0, 0);
    if netlink.clsacts().await.expect("listed").contains(&index) {
        for side in Side::ALL {
            let filters = netlink.filters(index, side).await.expect("listed");
            let is_probe_filter = |filter: &&Filter| {
                filter.name.as_ref().is_some_and(|name| name.starts_with("director-path:"))
            };
            of_probes += filters.iter().filter(is_probe_filter).count();
            all += filters.len();
        }
    }
    (of_probes, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_do_not_interfere_and_leave_nothing_behind() {
    let (live, interfaces) = lab("two").await;
    let index = interfaces[0].ifindex;
    let other = Instance::new(&format!("{}-other", live.instance().name())).expect("a name");
    let tc = |arguments: &str| {
        let mut tc = Command::new("tc");
        tc.args(arguments.split(' '));
        live.node("director").place(&mut tc).expect("placed");
        finish(tc).succeeded()
    };

    // The two have the same backend under two VIPs.
    let [first, second] = [&CASES[0], &CASES[2]].map(|case| case.probe(&live));
    let server = SocketAddr::new(first.backend, PORT);
    let mut one = PathProbes::new(live.netlink("director"), live.instance());
    let mut two = PathProbes::new(live.netlink("director"), &other);
    let ones = one.set(&interfaces, std::slice::from_ref(&first)).await.expect("set");
    let twos = two.set(&interfaces, std::slice::from_ref(&second)).await.expect("set");
    assert_ne!(ones[&first] >> 16, twos[&second] >> 16);
    assert_eq!(filters(&live, index).await, (4, 4));
    let [through_v4, through_v6] = [V4, V6].map(|vip| format!("b1 {vip} 18"));
    assert_eq!(request(&live, server, Some(ones[&first])).await.expect("answers"), through_v4);
    assert_eq!(request(&live, server, Some(twos[&second])).await.expect("answers"), through_v6);

    // Packets with a mark of this instance but without a probe are dropped; other marks are
    // ignored.
    let unknown = ones[&first] & 0xffff_0000 | (ones[&first] + 1) & 0x3fff;
    assert!(request(&live, server, Some(unknown)).await.is_err());
    let plain = format!("b1 {B1_V4} 18");
    assert_eq!(request(&live, server, Some(0x4000)).await.expect("answers"), plain);
    // A mark is valid only for its own backend.
    assert!(request(&live, address("10.0.0.12:8080"), Some(ones[&first])).await.is_err());

    // A process that was killed leaves its programs; the next one replaces them.
    drop(one);
    assert_eq!(filters(&live, index).await, (4, 4));
    let mut one = PathProbes::new(live.netlink("director"), live.instance());
    let ones = one.set(&interfaces, &[first.clone(), second.clone()]).await.expect("set");
    assert_eq!(filters(&live, index).await, (4, 4));
    assert_eq!(request(&live, server, Some(ones[&first])).await.expect("answers"), through_v4);
    assert_eq!(request(&live, server, Some(ones[&second])).await.expect("answers"), through_v6);

    // Filters removed by another process are detected and restored.
    tc("filter del dev eth0 egress");
    let sent = one.sent(&first).expect("read");
    assert_eq!(request(&live, server, Some(ones[&first])).await.expect("answers"), plain);
    assert_eq!(one.sent(&first).expect("read"), sent, "the probe bypassed the filter");
    let again = one.set(&interfaces, &[first.clone(), second.clone()]).await.expect("set");
    assert_eq!(again, ones);
    assert_eq!(request(&live, server, Some(ones[&first])).await.expect("answers"), through_v4);
    assert!(one.sent(&first).expect("read") > sent);

    // The first instance is removed; the second keeps its filters and the qdisc that the first
    // created.
    two.set(&interfaces, std::slice::from_ref(&second)).await.expect("restored");
    path_probe::remove(&live.netlink("director"), live.instance(), &[]).await.expect("removed");
    assert_eq!(filters(&live, index).await, (2, 2));
    assert_eq!(request(&live, server, Some(twos[&second])).await.expect("answers"), through_v6);
    // A foreign filter keeps the qdisc.
    let netlink = live.netlink("director");
    let listed = netlink.filters(index, Side::Ingress).await.expect("listed");
    let program = program(listed[0].program.expect("a program")).fd().expect("open");
    let foreign = Filter { priority: 9, handle: 1, name: Some("foreign".into()), program: None };
    let put = netlink.put_classifier(index, Side::Ingress, &foreign, program.as_fd()).await;
    put.expect("put");
    let gone = path_probe::remove(&live.netlink("director"), &other, &[]).await.expect("removed");
    assert_eq!(gone, [index]);
    assert_eq!(filters(&live, index).await, (0, 1));
    let _ = std::fs::remove_dir_all(other.run_dir());
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_qdisc_is_removed_with_the_last_probe_and_an_ingress_qdisc_is_reported() {
    let (live, interfaces) = lab("qdisc").await;
    let index = interfaces[0].ifindex;
    let probe = CASES[0].probe(&live);
    let netlink = live.netlink("director");
    let mut paths = PathProbes::new(netlink.clone(), live.instance());
    paths.set(&interfaces, std::slice::from_ref(&probe)).await.expect("set");
    assert_eq!(filters(&live, index).await, (2, 2));
    paths.set(&interfaces, &[]).await.expect("cleared");
    assert!(!netlink.clsacts().await.expect("listed").contains(&index));

    // Killed, and then detached by command.
    paths.set(&interfaces, std::slice::from_ref(&probe)).await.expect("set");
    drop(paths);
    live.detach();
    assert!(!netlink.clsacts().await.expect("listed").contains(&index));

    let mut tc = Command::new("tc");
    tc.args(["qdisc", "add", "dev", "eth0", "ingress"]);
    live.node("director").place(&mut tc).expect("placed");
    finish(tc).succeeded();
    let mut paths = PathProbes::new(netlink, live.instance());
    let refused = paths.set(&interfaces, std::slice::from_ref(&probe)).await;
    let error = refused.expect_err("occupied").to_string();
    assert!(error.contains("eth0 has an `ingress` qdisc"), "{error}");
    path_probe::remove(&live.netlink("director"), live.instance(), &[]).await.expect("removed");
}

/// The director's host connects to a VIP from a port that a check uses for the backend at the same
/// time: each gets its own answers.
#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_own_connections_to_a_vip_are_unaffected() {
    let (live, interfaces) = lab("own").await;
    let netlink = live.netlink("director");
    let probe = CASES[4].probe(&live);
    // Here the VIP is not local: the kernel routes it to the backend.
    let eth0 = interfaces[0].ifindex;
    netlink.remove_address(eth0, probe.vip, 32).await.expect("removed");
    let route = NewRoute {
        destination: probe.vip,
        prefix_len: 32,
        gateway: Some(probe.backend),
        link_index: eth0,
        onlink: true,
        source: probe.from,
    };
    netlink.add_route(route).await.expect("added");
    let mut paths = PathProbes::new(netlink, live.instance());
    let marks = paths.set(&interfaces, std::slice::from_ref(&probe)).await.expect("set");

    let from = SocketAddr::new(probe.from.expect("given"), 40_001);
    let open = |to: IpAddr, mark: Option<u32>| {
        let socket = live.node("director").run(|| {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.set_reuseport(true)?;
            socket.bind(from)?;
            if let Some(mark) = mark {
                path_probe::mark(&socket, mark)?;
            }
            Ok::<_, Error>(socket)
        });
        let socket = socket.expect("enters").expect("a socket");
        async move { timeout(check_time(), socket.connect(SocketAddr::new(to, PORT))).await }
    };
    let exchange = async |stream: &mut tokio::net::TcpStream| {
        let answer = async {
            stream.write_all(b"hello\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, Error>(answer)
        };
        timeout(check_time(), answer).await.expect("in time").expect("answers")
    };
    let mut own = open(probe.vip, None).await.expect("in time").expect("connects");
    // For the backend, both would be one connection: the check must fail, and the host's connection
    // must not.
    let probing = open(probe.backend, Some(marks[&probe])).await;
    assert!(!matches!(probing, Ok(Ok(_))), "{probing:?}");
    assert_eq!(exchange(&mut own).await, format!("b1 {V4} 9"));
    drop(own);
    let mut through =
        request(&live, SocketAddr::new(probe.backend, PORT), Some(marks[&probe])).await;
    assert_eq!(through.as_mut().expect("answers"), &format!("b1 {V4} 18"));
    paths.set(&interfaces, &[]).await.expect("cleared");
    live.detach();
}

/// A loaded program.
fn program(id: u32) -> ProgramInfo {
    loaded_programs().flatten().find(|program| program.id() == id).expect("loaded")
}

/// A SYN between these addresses and ports.
fn frame_v4(source: IpAddr, destination: IpAddr, ports: [u16; 2]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        panic!("IPv4 only")
    };
    let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &[0x45, 0, 0, 40]].concat();
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(ports.map(u16::to_be_bytes).concat());
    frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    frame
}

/// The cost of a packet, in nanoseconds; for `docs/decisions/0013-path-probes.md`. Other packets
/// cost one comparison on egress, and one load on ingress.
#[tokio::test(flavor = "multi_thread")]
async fn other_packets_cost_next_to_nothing() {
    let (live, interfaces) = lab("price").await;
    let probes: Vec<PathProbe> = CASES.iter().map(|case| case.probe(&live)).collect();
    let mut paths = PathProbes::new(live.netlink("director"), live.instance());
    let marks = paths.set(&interfaces, &probes).await.expect("set");
    let mut programs = Vec::new();
    for side in Side::ALL {
        let filters = live.netlink("director").filters(interfaces[0].ifindex, side).await;
        let id = filters.expect("listed")[0].program.expect("a program");
        let program = SchedClassifier::from_program_info(program(id), "path".into());
        programs.push(program.expect("a tc program"));
    }
    let [ingress, egress] = &programs[..] else { panic!("two sides") };
    let run = |program: &SchedClassifier, frame: &[u8], mark: u32, repeat: u32| {
        // `struct __sk_buff`: the mark is the third field.
        let context: Vec<u8> = [0, 0, mark].map(u32::to_ne_bytes).concat();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.repeat = repeat;
        let result = program.test_run(options).expect("runs");
        (result.return_value.cast_signed(), result.duration.as_nanos() as u64)
    };
    // The minimum of several runs: the host also runs other work.
    let least = |program: &SchedClassifier, frame: &[u8]| {
        let runs = (0..10).map(|_| run(program, frame, 0, 100_000));
        runs.min_by_key(|(_, took)| *took).expect("ran")
    };
    let other = frame_v4(ip("198.51.100.7"), ip("198.51.100.8"), [4000, 80]);
    let [(unmarked, egress_ns), (foreign, ingress_ns)] =
        [least(egress, &other), least(ingress, &other)];
    assert_eq!((unmarked, foreign), (TC_ACT_UNSPEC, TC_ACT_UNSPEC));
    println!("unmarked, egress: {egress_ns} ns; other traffic, ingress: {ingress_ns} ns");

    let from_vip = frame_v4(ip(V4), ip("198.51.100.8"), [80, 4000]);
    println!("from a VIP, not to a probe: {} ns", least(ingress, &from_vip).1);
    // A rewritten packet differs afterwards, so each run is a single one. Its fixed cost is
    // measured with an unrelated packet.
    let median = |program: &SchedClassifier, frame: &[u8], mark: u32| {
        let mut runs: Vec<u64> = (0..2001).map(|_| run(program, frame, mark, 1).1).collect();
        runs.sort_unstable();
        runs[runs.len() / 2]
    };
    let floor = median(egress, &other, 0);
    let mut highest = 0;
    for (case, probe) in CASES.iter().zip(&probes).filter(|(_, probe)| probe.backend.is_ipv4()) {
        let own = live.node("director").ipv4().expect("both families");
        let request = frame_v4(own, probe.backend, [4000, 80]);
        assert_eq!(run(egress, &request, marks[probe], 1).0, TC_ACT_UNSPEC, "{}", case.name);
        let sending = median(egress, &request, marks[probe]).saturating_sub(floor);
        println!("{}: sending {sending} ns", case.name);
        highest = highest.max(sending);
        if let (Some(from), IpAddr::V4(_)) = (probe.from, probe.vip) {
            let answer = frame_v4(probe.vip, from, [80, 4000]);
            let back = median(ingress, &answer, 0).saturating_sub(floor);
            println!("{}: its answer {back} ns", case.name);
        }
    }
    assert_eq!(run(egress, &other, marks[&probes[0]], 1).0, TC_ACT_SHOT, "not to its backend");
    // Compared with the cost of a rewrite on this host at this time.
    assert!(
        egress_ns * 4 < highest && ingress_ns * 3 < highest,
        "{egress_ns}, {ingress_ns}, {highest} ns"
    );
    paths.set(&interfaces, &[]).await.expect("cleared");
    live.detach();
}
