//! Every kind of health check against healthy, failing, hostile and absent servers: the reported
//! reasons.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use director_tests::health::{HERE, check, get, once, reason, runtime, target};
use director_userspace::policy::{
    config::model::{DnsProbe, GrpcProbe, HttpProbe, HttpVersion, Probe, UdpProbe},
    health_policy::HealthState,
};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

/// A port without a listener.
fn closed_port() -> SocketAddr {
    TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap()
}

/// A server that runs `serve` for each connection in a separate thread until the test ends.
fn server(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads the request's head.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("ASCII")
}

/// A server that answers every request with these bytes, and closes.
fn answering(answer: &'static str) -> SocketAddr {
    server(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(answer.as_bytes());
    })
}

/// Sends the same bytes for 5 s, or until the peer closes.
fn send_endlessly(mut stream: TcpStream, bytes: &[u8], pause: Duration) {
    let began = Instant::now();
    while stream.write_all(bytes).is_ok() && began.elapsed() < Duration::from_secs(5) {
        thread::sleep(pause);
    }
}

fn hang(stream: TcpStream) {
    thread::sleep(Duration::from_secs(3));
    drop(stream);
}

fn reset(stream: TcpStream) {
    nix::sys::socket::setsockopt(
        &stream,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )
    .expect("an option");
    // With a linger time of 0, closing sends a RST.
    drop(stream);
}

fn http() -> Probe {
    Probe::Http(get())
}

fn http2() -> Probe {
    Probe::Http(HttpProbe { version: HttpVersion::Http2, ..get() })
}

fn body(expression: &str) -> Probe {
    Probe::Http(HttpProbe { body: Some(expression.into()), ..get() })
}

fn grpc(service: &str) -> Probe {
    Probe::Grpc(GrpcProbe { service: service.into() })
}

#[test]
fn tcp_requires_a_listener() {
    let runtime = runtime();
    let silent = TcpListener::bind((HERE, 0)).unwrap();
    assert_eq!(reason(&runtime, Probe::Tcp, silent.local_addr().unwrap()), "");
    assert_eq!(reason(&runtime, Probe::Tcp, closed_port()), "connection refused");
    // The probe leaves no connection for the application to accept.
    silent.set_nonblocking(true).unwrap();
    let accepted = silent.accept().map(|_| ()).expect_err("nothing to accept");
    assert_eq!(accepted.kind(), std::io::ErrorKind::WouldBlock);
    // And over IPv6.
    let v6 = TcpListener::bind(("::1", 0)).unwrap().local_addr().unwrap();
    assert_eq!(reason(&runtime, Probe::Tcp, v6), "connection refused");
}

#[test]
fn a_listener_with_a_full_queue_fails() {
    let runtime = runtime();
    // A backlog of 0 holds one connection that is not accepted.
    let listener = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let any = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 0);
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &any).unwrap();
    let listener = TcpListener::from(listener);
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    assert_eq!(reason(&runtime, Probe::Tcp, address), "no connection within 500ms");
}

#[test]
fn http_requires_an_expected_status() {
    let runtime = runtime();
    for (server, wanted) in [
        (answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), ""),
        (answering("HTTP/1.1 204 No Content\r\n\r\n"), ""),
        (answering("HTTP/1.0 200 OK\r\n\r\nto the end"), ""),
        (
            answering("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            "",
        ),
        (answering("HTTP/1.1 503 Busy\r\n\r\n"), "answered 503, wanted 200-299"),
        (answering("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"), "answered 301, wanted 200-299"),
        (
            answering("SSH-2.0-OpenSSH_9.2\r\n"),
            "the answer is not HTTP/1.1: invalid HTTP version parsed",
        ),
        (answering("HTTP/1.1 200 OK\r\nContent-Le"), "closed the connection before a whole answer"),
        (answering(""), "closed the connection before a whole answer"),
        (server(drop), "closed the connection before a whole answer"),
        (server(reset), "connection reset"),
        (server(hang), "no answer within 500ms"),
        (closed_port(), "connection refused"),
    ] {
        let reported = reason(&runtime, http(), server);
        // A server that closes without reading its request resets the connection.
        let reset = wanted.starts_with("closed") && reported == "connection reset";
        assert!(reported == wanted || reset, "{reported:?}, wanted {wanted:?}");
    }
}

#[test]
fn http_requests_are_sent_as_configured() {
    let runtime = runtime();
    // Only the expected request gets an expected status.
    let server = server(|mut stream| {
        let head = read_head(&mut stream).to_ascii_lowercase();
        let lines = ["head /healthz?full=1 http/1.1", "host: www.example.com", "x-a: 1", "x-a: 2"];
        let right = lines.iter().all(|line| head.split("\r\n").any(|one| one == *line))
            && head.contains("user-agent: mine")
            && !head.contains("director")
            && head.contains("connection: close");
        let status = if right { 404 } else { 500 };
        let _ = stream.write_all(format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes());
    });
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let probe = HttpProbe {
        method: "HEAD".into(),
        path: "/healthz?full=1".into(),
        host: Some("www.example.com".into()),
        headers: vec![header("X-A", "1"), header("X-A", "2"), header("User-Agent", "mine")],
        status: vec![200..=200, 404..=404, 410..=419],
        ..get()
    };
    assert_eq!(reason(&runtime, Probe::Http(probe.clone()), server), "");
    let other = HttpProbe { path: "/".into(), ..probe };
    let reported = reason(&runtime, Probe::Http(other), server);
    assert_eq!(reported, "answered 500, wanted 200, 404, 410-419");
}

#[test]
fn the_beginning_of_a_body_is_searched() {
    let runtime = runtime();
    let ok = answering("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nstatus: ok\n");
    assert_eq!(reason(&runtime, body("(?m)^status: (ok|fine)$"), ok), "");
    assert_eq!(reason(&runtime, body("^ok"), ok), "the body (11 bytes) does not match \"^ok\"");
    let chunked = answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
    );
    assert_eq!(reason(&runtime, body("^ok$"), chunked), "");
    let cut = answering("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nok");
    assert_eq!(reason(&runtime, body("ok"), cut), "closed the connection before a whole answer");
    let empty = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(reason(&runtime, body("ok"), empty), "the body is empty, and does not match \"ok\"");
    // A body that is not UTF-8.
    let bytes = server(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n\xff\xfeok\xff");
    });
    assert_eq!(reason(&runtime, body("ok"), bytes), "");
}

#[test]
fn endless_answers_are_aborted() {
    let runtime = runtime();
    let endless = server(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        send_endlessly(stream, &[b'x'; 4096], Duration::ZERO);
    });
    assert_eq!(reason(&runtime, http(), endless), "", "its status is good");
    let reported = reason(&runtime, body("ok"), endless);
    assert_eq!(reported, "the first 64 KiB of the body does not match \"ok\"");

    let slow = server(|stream| send_endlessly(stream, b"H", Duration::from_millis(100)));
    let reported = reason(&runtime, http(), slow);
    assert!(
        reported.contains("not HTTP/1.1") || reported == "no answer within 500ms",
        "{reported}"
    );
    let slow = server(|mut stream| {
        read_head(&mut stream);
        for byte in b"HTTP/1.1 200 OK\r\nServer: very slow indeed\r\n\r\n" {
            let _ = stream.write_all(&[*byte]);
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(reason(&runtime, http(), slow), "no answer within 500ms");
    let slow = server(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
        send_endlessly(stream, b"o", Duration::from_millis(100));
    });
    assert_eq!(reason(&runtime, body("o{3}"), slow), "no complete body within 500ms");

    let head = server(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        send_endlessly(stream, b"X-Garbage: and more of it\r\n", Duration::ZERO);
    });
    let reported = reason(&runtime, http(), head);
    assert_eq!(reported, "answered with a head that is too long");
    let informed = server(|mut stream| {
        read_head(&mut stream);
        send_endlessly(stream, b"HTTP/1.1 100 Continue\r\n\r\n", Duration::ZERO);
    });
    assert_eq!(reason(&runtime, http(), informed), "sent more than 256 KiB");
    // A server that sends first, as mail servers do.
    let mail = server(|mut stream| {
        let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n");
        hang(stream);
    });
    let reported = reason(&runtime, http(), mail);
    assert!(reported.contains("not HTTP/1.1"), "{reported}");
    for probe in [http(), http2(), grpc("")] {
        let garbage = server(|stream| send_endlessly(stream, &[0; 4096], Duration::ZERO));
        let reported = reason(&runtime, probe.clone(), garbage);
        let protocol = if matches!(probe, Probe::Http(ref http) if http.version == HttpVersion::Http1)
        {
            "HTTP/1.1"
        } else {
            "HTTP/2"
        };
        let broken = reported == "connection reset" || reported == "connection closed";
        assert!(broken || reported.contains(protocol), "{reported}");
    }
}

#[test]
fn http2_requires_http2() {
    let runtime = runtime();
    let http1 = answering("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    for probe in [http2(), grpc("")] {
        let reported = reason(&runtime, probe.clone(), http1);
        let broken = reported == "connection reset" || reported == "connection closed";
        assert!(broken || reported.contains("HTTP/2"), "{reported}");
        assert_eq!(reason(&runtime, probe.clone(), server(hang)), "no answer within 500ms");
        assert_eq!(reason(&runtime, probe, closed_port()), "connection refused");
    }
}

#[test]
fn tls_requires_tls() {
    let runtime = runtime();
    let https = || Probe::Https(get());
    let plain = answering("HTTP/1.1 400 Bad Request\r\n\r\n");
    // The server waits for the end of an HTTP head, which TLS does not send.
    assert_eq!(reason(&runtime, https(), plain), "no TLS handshake within 500ms");
    let mail = server(|mut stream| {
        let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n");
        hang(stream);
    });
    assert_eq!(reason(&runtime, https(), mail), "the answer is not TLS");
    let closing = server(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    assert_eq!(reason(&runtime, https(), closing), "closed the connection in the TLS handshake");
    assert_eq!(reason(&runtime, https(), server(hang)), "no TLS handshake within 500ms");
    assert_eq!(reason(&runtime, https(), closed_port()), "connection refused");
}

/// A UDP server: `serve` returns the answers to each datagram.
fn responder(serve: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((HERE, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            for answer in serve(&buffer[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    address
}

fn unbound() -> SocketAddr {
    UdpSocket::bind((HERE, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn udp_requires_no_error_and_optionally_an_answer() {
    let runtime = runtime();
    let probe = |send: &str, expect: Option<&str>| {
        Probe::Udp(UdpProbe { send: send.into(), expect: expect.map(Into::into) })
    };
    let silent = responder(|_| Vec::new());
    let echo = responder(|bytes| vec![[b"you said ", bytes].concat()]);
    let refused = "port unreachable: no listener";
    for (server, probe, wanted) in [
        (silent, probe("ping", None), ""),
        (silent, probe("", None), ""),
        (silent, probe("ping", Some("pong")), "no answer within 500ms"),
        (echo, probe("ping", None), ""),
        (echo, probe("ping", Some("^you said p")), ""),
        (echo, probe("", Some("^you said $")), ""),
        (
            echo,
            probe("ping", Some("^pong")),
            "answered \"you said ping\" (13 bytes), which does not match",
        ),
        (unbound(), probe("ping", None), refused),
        (unbound(), probe("", None), refused),
        (unbound(), probe("ping", Some("pong")), refused),
    ] {
        assert_eq!(reason(&runtime, probe, server), wanted);
    }
    // A latency is reported only with an answer.
    let health = runtime.block_on(once(&target(check(probe("ping", None)), silent)));
    assert_eq!((health.state, health.latency), (HealthState::Up, None));
    let health = runtime.block_on(once(&target(check(probe("ping", None)), echo)));
    assert_eq!(health.state, HealthState::Up, "{health:?}");
    assert!(health.latency.unwrap() < Duration::from_millis(100), "{health:?}");
}

/// A name server that applies `change` to each correct answer.
fn name_server(change: impl Fn(&mut Message) + Send + 'static) -> SocketAddr {
    responder(move |bytes| {
        let mut message = Message::from_vec(bytes).expect("a question");
        assert!(message.recursion_desired() && message.queries().len() == 1);
        message.set_message_type(MessageType::Response);
        let name = message.query().unwrap().name().clone();
        if message.query().unwrap().query_type() == RecordType::A {
            let address = RData::A("192.0.2.1".parse().unwrap());
            message.add_answer(Record::from_rdata(name, 60, address));
        }
        change(&mut message);
        vec![message.to_vec().unwrap()]
    })
}

#[test]
fn dns_requires_the_answer_to_its_question() {
    let runtime = runtime();
    let probe = |record: &str, answer| {
        Probe::Dns(DnsProbe { name: "www.example.com".into(), record: record.into(), answer })
    };
    let good = name_server(|_| ());
    let code = |code| {
        name_server(move |message| {
            message.set_response_code(code);
        })
    };
    let forged = name_server(|message| {
        message.set_id(message.id() ^ 1);
    });
    let wrong_question = name_server(|message| {
        message.queries_mut()[0].set_name(Name::from_ascii("example.org.").unwrap());
    });
    let refusing = name_server(|message| {
        message.take_queries();
        message.set_response_code(ResponseCode::Refused);
    });
    let truncated = name_server(|message| {
        message.take_answers();
        message.set_truncated(true);
    });
    let garbage = responder(|_| vec![vec![0xff; 100], Vec::new()]);
    let echoing = responder(|bytes| vec![bytes.to_vec()]);
    let flooding = responder(|_| vec![vec![0; 12]; 200]);
    let late = responder(|bytes| {
        let mut message = Message::from_vec(bytes).unwrap();
        message.set_message_type(MessageType::Response);
        vec![vec![1, 2, 3], message.to_vec().unwrap()]
    });
    let silence = "no answer within 500ms";
    for (server, probe, wanted) in [
        (good, probe("A", false), ""),
        (good, probe("a", true), ""),
        (good, probe("SOA", false), ""),
        (good, probe("SOA", true), "answered without a SOA record"),
        (truncated, probe("A", false), ""),
        (truncated, probe("A", true), "answered without a A record (truncated)"),
        (code(ResponseCode::NXDomain), probe("A", false), "answered NXDOMAIN, wanted NOERROR"),
        (code(ResponseCode::ServFail), probe("A", true), "answered SERVFAIL, wanted NOERROR"),
        (refusing, probe("A", false), "answered REFUSED, wanted NOERROR"),
        (late, probe("A", false), ""),
        (forged, probe("A", false), silence),
        (wrong_question, probe("A", false), silence),
        (garbage, probe("A", false), silence),
        (echoing, probe("A", false), silence),
        (flooding, probe("A", false), "sent only datagrams that do not answer the question"),
        (unbound(), probe("A", false), "port unreachable: no listener"),
    ] {
        assert_eq!(reason(&runtime, probe, server), wanted);
    }
    let root = Probe::Dns(DnsProbe { name: ".".into(), record: "NS".into(), answer: false });
    assert_eq!(reason(&runtime, root, good), "");
}
