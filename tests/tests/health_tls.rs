//! HTTPS, HTTP/2 and gRPC health checks against real servers: nginx, hyper and rustls.

use std::{
    convert::Infallible,
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use director_tests::{
    authority::{Authority, Identity},
    health::{HERE, get, reason, runtime},
};
use director_userspace::policy::config::model::{GrpcProbe, HttpProbe, HttpVersion, Probe};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, Response, body::Incoming, header::HeaderValue, server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;

/// A TLS server with this ALPN protocol; `None`: without ALPN.
fn tls_server(runtime: &Runtime, identity: &Identity, alpn: Option<&'static [u8]>) -> SocketAddr {
    let mut config = identity.server();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = runtime.block_on(TcpListener::bind((HERE, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                let serve = service_fn(move |request| answer_with_name(request, name.clone()));
                if alpn == Some(b"h2") {
                    let http = http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(stream), serve).await;
                } else {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), serve).await;
                }
            });
        }
    });
    address
}

/// Replies with the server name of the client's TLS handshake and of its HTTP request.
async fn answer_with_name(
    request: Request<Incoming>,
    name: String,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let host = request.headers().get("host").and_then(|value| value.to_str().ok());
    let host = host.or(request.uri().host()).unwrap_or("none").to_owned();
    let body = format!("{:?} tls={name} host={host}\n", request.version());
    Ok(Response::new(Full::new(Bytes::from(body))))
}

fn https(name: Option<&str>, verify: bool) -> HttpProbe {
    HttpProbe { host: name.map(Into::into), verify, ..get() }
}

#[test]
fn certificates_are_verified() {
    let (ours, unknown) = (Authority::new("ours"), Authority::new("strange"));
    let directory = Directory::new("tls");
    let roots = directory.0.join("roots.pem");
    fs::write(&roots, ours.pem()).unwrap();
    // SAFETY: nothing else in this program changes the environment, or reads it now: this is its
    // only test that needs roots, and its threads start below.
    unsafe { std::env::set_var("SSL_CERT_FILE", &roots) };
    let runtime = runtime();
    let good = ours.sign(&["www.example.com", "127.0.0.1"], 2099);
    let good = tls_server(&runtime, &good, None);
    let expired = tls_server(&runtime, &ours.sign(&["www.example.com"], 2024), None);
    let strange = tls_server(&runtime, &unknown.sign(&["www.example.com"], 2099), None);
    let www = Some("www.example.com");
    for (server, probe, wanted) in [
        (good, https(www, true), ""),
        (good, https(Some("www.example.com:443"), true), ""),
        (good, https(None, true), ""),
        (good, https(Some("127.0.0.1"), true), ""),
        (good, https(Some("example.org"), true), "the certificate is not for example.org"),
        (good, HttpProbe { sni: www.map(Into::into), ..https(Some("example.org"), true) }, ""),
        (expired, https(www, true), "the certificate has expired"),
        (strange, https(www, true), "the certificate's issuer is not trusted by this host"),
        (good, https(Some("example.org"), false), ""),
        (expired, https(None, false), ""),
        (strange, https(None, false), ""),
    ] {
        assert_eq!(reason(&runtime, Probe::Https(probe.clone()), server), wanted, "{probe:?}");
    }
    // The names that are sent.
    for (host, sni, wanted) in [
        (www, None, "tls=www.example.com host=www.example.com"),
        (www, Some("sni.example.com"), "tls=sni.example.com host=www.example.com"),
        (None, None, "tls=none host=127.0.0.1"),
        (Some("192.0.2.1"), None, "tls=none host=192.0.2.1"),
    ] {
        let probe = HttpProbe {
            sni: sni.map(Into::into),
            body: Some(format!("{wanted}\n$")),
            ..https(host, false)
        };
        assert_eq!(reason(&runtime, Probe::Https(probe), good), "");
    }
}

#[test]
fn http2_is_chosen_by_alpn() {
    let runtime = runtime();
    let identity = Authority::new("ours").sign(&["www.example.com"], 2099);
    let probe = HttpProbe {
        version: HttpVersion::Http2,
        body: Some("^HTTP/2.0 tls=www.example.com host=www.example.com\n$".into()),
        ..https(Some("www.example.com"), false)
    };
    let server = tls_server(&runtime, &identity, Some(b"h2"));
    assert_eq!(reason(&runtime, Probe::Https(probe.clone()), server), "");
    let server = tls_server(&runtime, &identity, None);
    assert_eq!(
        reason(&runtime, Probe::Https(probe.clone()), server),
        "does not support HTTP/2 over TLS (ALPN did not select h2)"
    );
    let server = tls_server(&runtime, &identity, Some(b"http/1.1"));
    assert_eq!(
        reason(&runtime, Probe::Https(probe), server),
        "refused the TLS handshake: NoApplicationProtocol"
    );
}

/// How a gRPC server answers a call.
#[derive(Clone, Copy)]
enum Grpc {
    /// By the protocol: "" and "web" are SERVING, "old" is NOT_SERVING, others are unknown.
    Health,
    /// Has no health service.
    Other,
    /// Answers HTML pages.
    Web,
    /// Sends this message, and status 0.
    Message(&'static [u8]),
    /// An endless message.
    Endless,
    /// No trailers.
    Cut,
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn grpc_answer(message: &'static [u8], status: Option<&'static str>) -> Response<Body> {
    let trailers = status.map(|status| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        Ok(trailers)
    });
    let body = Full::new(Bytes::from_static(message));
    grpc_response(body.with_trailers(std::future::ready(trailers)).boxed_unsync())
}

fn grpc_response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    response
}

async fn serve_grpc(kind: Grpc, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    let status_only = |status: &str, message: &str| {
        let mut response = grpc_response(Full::default().boxed_unsync());
        response.headers_mut().insert("grpc-status", status.parse().unwrap());
        response.headers_mut().insert("grpc-message", message.parse().unwrap());
        response
    };
    Ok(match kind {
        Grpc::Health => {
            let question = request.into_body().collect().await.unwrap().to_bytes();
            match question.get(7..).unwrap_or_default() {
                b"" | b"web" => grpc_answer(&[0, 0, 0, 0, 2, 8, 1], Some("0")),
                b"old" => grpc_answer(&[0, 0, 0, 0, 2, 8, 2], Some("0")),
                _ => status_only("5", "unknown service"),
            }
        }
        Grpc::Other => status_only("12", "unknown method"),
        Grpc::Web => Response::new(Full::new(Bytes::from("<html>")).boxed_unsync()),
        Grpc::Message(bytes) => grpc_answer(bytes, Some("0")),
        Grpc::Endless => grpc_answer(&[0; 4096], Some("0")),
        Grpc::Cut => grpc_answer(&[0, 0, 0, 0, 2, 8, 1], None),
    })
}

fn grpc_server(runtime: &Runtime, kind: Grpc) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind((HERE, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let serve = service_fn(move |request| serve_grpc(kind, request));
                let http = http2::Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(TokioIo::new(stream), serve).await;
            });
        }
    });
    address
}

#[test]
fn grpc_requires_serving() {
    let runtime = runtime();
    let health = grpc_server(&runtime, Grpc::Health);
    let serving = &[0, 0, 0, 0, 2, 8, 1];
    for (server, service, wanted) in [
        (health, "", ""),
        (health, "web", ""),
        (health, "old", "reports NOT_SERVING, wanted SERVING"),
        (health, "new", "its health service has no service \"new\""),
        (
            grpc_server(&runtime, Grpc::Other),
            "",
            "gRPC status 12 UNIMPLEMENTED: no health service unknown method",
        ),
        (grpc_server(&runtime, Grpc::Web), "", "the answer is not gRPC"),
        (grpc_server(&runtime, Grpc::Message(serving)), "web", ""),
        (
            grpc_server(&runtime, Grpc::Message(&[0, 0, 0, 0, 0])),
            "",
            "reports UNKNOWN, wanted SERVING",
        ),
        (grpc_server(&runtime, Grpc::Message(b"hello")), "", "the answer is not a health report"),
        (grpc_server(&runtime, Grpc::Endless), "", "the answer is not a health report: too long"),
        (grpc_server(&runtime, Grpc::Cut), "", "answered without a gRPC status"),
    ] {
        let probe = Probe::Grpc(GrpcProbe { service: service.into() });
        assert_eq!(reason(&runtime, probe, server), wanted);
    }
    // Its HTTP/2 without TLS also passes a plain check.
    let probe = HttpProbe {
        version: HttpVersion::Http2,
        path: "/grpc.health.v1.Health/Check".into(),
        ..get()
    };
    let probe = HttpProbe {
        headers: vec![
            ("content-type".into(), "application/grpc".into()),
            ("te".into(), "trailers".into()),
        ],
        ..probe
    };
    assert_eq!(reason(&runtime, Probe::Http(probe), health), "");
}

/// A temporary directory, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(what: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("director-health-{what}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// nginx, killed when dropped.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn nginx_is_healthy_and_logs_no_error() {
    let runtime = runtime();
    let directory = Directory::new("nginx");
    let identity = Authority::new("ours").sign(&["www.example.com"], 2099);
    let [certificate, key] = identity.pems();
    fs::write(directory.0.join("cert.pem"), certificate).unwrap();
    fs::write(directory.0.join("key.pem"), key).unwrap();
    let (plain, tls) = (free_port(), free_port());
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log info;
         events {{ worker_connections 64; }}
         http {{
           access_log access.log;
           client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
           uwsgi_temp_path t4; scgi_temp_path t5;
           server {{
             listen 127.0.0.1:{plain};
             listen 127.0.0.1:{tls} ssl http2;
             ssl_certificate cert.pem; ssl_certificate_key key.pem;
             location = /healthz {{ return 200 \"$server_protocol fine\"; }}
             location = /busy {{ return 503; }}
           }}
         }}"
    );
    fs::write(directory.0.join("nginx.conf"), configuration).unwrap();
    let child = Command::new("nginx")
        .arg("-p")
        .arg(&directory.0)
        .args(["-c", "nginx.conf", "-e", "error.log"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx is installed: `cargo xtask setup`");
    let _nginx = Nginx(child);
    let began = Instant::now();
    while TcpStream::connect((HERE, tls)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(5), "nginx does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    // nginx logs the connections just made.
    std::thread::sleep(Duration::from_millis(200));
    let errors_before = fs::read_to_string(directory.0.join("error.log")).unwrap().len();
    let probe = |path: &str, version, body: Option<&str>| HttpProbe {
        path: path.into(),
        version,
        body: body.map(Into::into),
        ..https(Some("www.example.com"), false)
    };
    let (http1, http2) = (HttpVersion::Http1, HttpVersion::Http2);
    let (plain, tls) = (SocketAddr::new(HERE, plain), SocketAddr::new(HERE, tls));
    assert_eq!(reason(&runtime, Probe::Tcp, plain), "");
    for (server, https, version, protocol) in [
        (plain, false, http1, "HTTP/1.1"),
        (tls, true, http1, "HTTP/1.1"),
        (tls, true, http2, "HTTP/2.0"),
    ] {
        let wrap = |probe: HttpProbe| match https {
            true => Probe::Https(probe),
            false => Probe::Http(probe),
        };
        let body = format!("^{protocol} fine$");
        assert_eq!(reason(&runtime, wrap(probe("/healthz", version, Some(&body))), server), "");
        assert_eq!(reason(&runtime, wrap(probe("/healthz", version, None)), server), "");
        let busy = reason(&runtime, wrap(probe("/busy", version, None)), server);
        assert_eq!(busy, "answered 503, wanted 200-299");
    }
    // Each request was sent once, and nginx logged no error, not even at level "info".
    let log = fs::read_to_string(directory.0.join("access.log")).unwrap();
    assert_eq!(log.matches("/healthz").count(), 6, "{log}");
    assert_eq!(log.lines().count(), 9, "{log}");
    let errors = fs::read_to_string(directory.0.join("error.log")).unwrap();
    let client_errors: Vec<_> =
        errors[errors_before..].lines().filter(|line| line.contains("client")).collect();
    assert!(client_errors.is_empty(), "{errors}");
}
