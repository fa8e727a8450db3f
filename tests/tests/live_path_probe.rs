//! Health checks through the path: marked sockets to a backend's own address, whose packets go to
//! the VIP by the tunnel or direct route of that backend, and its answers back.
//!
//! Servers here say which of their addresses they were asked by, so an answer that names the VIP
//! came through it.

use std::{
    io::{Error, ErrorKind, Read as _, Result, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use director_tests::live::{Capture, Live, address};
use director_userspace::{
    config::{self, model::Forward},
    datapath::Attached,
    host,
    lab::Node,
    path_probe::{self, PathProbe, PathProbes},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};

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
/// How long a check may take before it has failed.
const CHECK: Duration = Duration::from_millis(900);

/// A way to `b1`, and the protocol number of its tunnel.
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
            forward: if self.tunnel.is_some() { Forward::Tunnel } else { Forward::Direct },
            source: own(backend),
            from: own(vip),
            mac: None,
        }
    }
}

/// A lab with the data plane attached, and servers on both backends that tell where they were asked.
async fn lab(test: &str) -> (Live, Vec<Attached>) {
    let live = Live::with(test, CONFIG).await;
    live.attach();
    for name in ["b1", "b2"] {
        let mut addresses = vec![ip(V4), ip(V6)];
        addresses.extend(live.node(name).addresses());
        for address in addresses {
            serve(live.node(name), name, SocketAddr::new(address, PORT));
        }
    }
    let config = config::parse("test", CONFIG).expect("valid").config;
    let interfaces = host::interfaces(&live.netlink("director"), &config).await.expect("there");
    (live, interfaces)
}

/// Answers requests by TCP and UDP with who was asked, and by which address.
fn serve(node: &Node, name: &'static str, at: SocketAddr) {
    let bind = || Ok::<_, Error>((TcpListener::bind(at)?, UdpSocket::bind(at)?));
    let (tcp, udp) = node.run(bind).expect("enters").expect("a free port");
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            thread::spawn(move || {
                let mut asked = [0; 64 << 10];
                let mut length = 0;
                while !asked[..length].ends_with(b"\r\n\r\n") && length < asked.len() {
                    match stream.read(&mut asked[length..]) {
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
        let mut asked = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut asked) {
            let _ = udp.send_to(format!("{name} {} {length}", at.ip()).as_bytes(), from);
        }
    });
}

/// Asks a server from the director's node, with a mark if one is given: what it says.
async fn ask(live: &Live, server: SocketAddr, mark: Option<u32>) -> Result<String> {
    ask_for(live, server, mark, 0).await
}

/// The same with a request of so many bytes more.
async fn ask_for(
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
        assert_eq!(stream.peer_addr()?, server, "whom the socket sees");
        Ok(answer)
    };
    timeout(CHECK, exchange).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// One datagram and its answer.
fn ask_udp(live: &Live, server: SocketAddr, mark: Option<u32>) -> Result<String> {
    let exchange = || {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        if let Some(mark) = mark {
            path_probe::mark(&socket, mark)?;
        }
        socket.set_read_timeout(Some(CHECK))?;
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

/// Everything that leaves the director, as it arrives at the switch.
async fn leaving(live: &Live) -> Capture {
    let switch = live.netlink("switch");
    let port = switch.link_by_name("director").await.expect("a port").index;
    Capture::start(live.node("switch").netns(), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_socket_reaches_the_backend_through_the_vip() {
    let (live, interfaces) = lab("path").await;
    let probes: Vec<PathProbe> = CASES.iter().map(|case| case.probe(&live)).collect();
    let mut paths = PathProbes::new(live.netlink("director"), live.instance());
    let marks = paths.set(&interfaces, &probes).await.expect("set");
    assert_eq!(marks.len(), CASES.len());

    for (case, probe) in CASES.iter().zip(&probes) {
        let capture = leaving(&live).await;
        let server = SocketAddr::new(probe.backend, PORT);
        let through = format!("b1 {}", case.vip);
        let answer = ask(&live, server, Some(marks[probe])).await;
        assert_eq!(answer.expect(case.name), format!("{through} 18"), "{}", case.name);
        let answer = ask_udp(&live, server, Some(marks[probe]));
        assert_eq!(answer.expect(case.name), format!("{through} 5"), "{} UDP", case.name);
        // More than a segment, so that the kernel sends some that are to be cut.
        let answer = ask_for(&live, server, Some(marks[probe]), 20_000).await;
        assert_eq!(answer.expect(case.name), format!("{through} 20018"), "{} long", case.name);

        let sent = paths.sent(probe).expect("read").expect("has a mark");
        assert!(sent >= 10, "{}: {sent}", case.name);
        let tunnelled = |frame: &[u8]| is_tunnel(frame, case.tunnel.unwrap_or(4));
        let frames = capture.frames(1, Duration::from_millis(300), tunnelled);
        assert_eq!(frames.len() >= 10, case.tunnel.is_some(), "{}: {}", case.name, frames.len());
        assert!(frames.iter().all(|frame| frame.len() <= 14 + 1600), "none too long");

        // The same without a mark goes straight to the backend.
        let plain = ask(&live, server, None).await.expect("answers");
        assert_eq!(plain, format!("b1 {} 18", case.backend));
        assert_eq!(
            ask_udp(&live, server, None).expect("answers"),
            format!("b1 {} 5", case.backend)
        );
    }
    let b2 = PathProbe { backend: ip("10.0.0.12"), ..probes[0].clone() };
    let marks = paths.set(&interfaces, std::slice::from_ref(&b2)).await.expect("set");
    let answer = ask(&live, address("10.0.0.12:8080"), Some(marks[&b2])).await;
    assert_eq!(answer.expect("answers"), format!("b2 {V4} 18"));
    assert!(paths.set(&interfaces, &[]).await.expect("cleared").is_empty());
    live.detach();
}
