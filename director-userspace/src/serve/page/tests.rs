use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use super::{Names, router};
use crate::serve::view::{
    Sampler,
    fixture::{snapshot, status},
    serve,
    status::Status,
};

struct Server {
    address: std::net::SocketAddr,
    status: watch::Sender<Arc<Status>>,
}

async fn server() -> Server {
    let (sender, receiver) = watch::channel(status(&[]));
    let sampler = Sampler::new(|| Ok(snapshot(1000)), receiver);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router(sampler, Names::default())));
    Server { address, status: sender }
}

impl Server {
    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Head and body of a response.
    async fn request(&self, line: &str, host: &str) -> (String, String) {
        let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        self.send(&request).await.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }
}

/// Reads until `words` are received.
async fn read_until(stream: &mut TcpStream, words: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    let read = async {
        while !String::from_utf8_lossy(&all).contains(words) {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "ended before {words:?}");
            all.extend_from_slice(&buffer[..count]);
        }
    };
    timeout(Duration::from_secs(5), read).await.unwrap_or_else(|_| panic!("no {words:?}"));
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn the_page_permits_only_its_own_script_and_is_not_cached() {
    let server = server().await;
    let (head, body) = server.request("GET /", "127.0.0.1").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for header in [
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "default-src 'none'",
        "frame-ancestors 'none'",
        "connect-src 'self'",
    ] {
        assert!(head.contains(header), "no {header} in {head}");
    }
    let nonce = head.split_once("'nonce-").unwrap().1.split('\'').next().unwrap();
    assert_eq!(nonce.len(), 32);
    assert!(body.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(!body.contains("{{nonce}}"));
    let (again, _) = server.request("GET /", "127.0.0.1").await;
    assert!(!again.contains(nonce), "each response has its own nonce");
}

/// The page is complete without a network.
#[test]
fn the_page_has_no_external_references() {
    for word in ["http://", "https://", "src=", "@import", "url("] {
        let page = super::PAGE.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(word), "{word}");
    }
}

#[tokio::test]
async fn other_methods_paths_and_hosts_are_refused() {
    let server = server().await;
    for (line, host, status) in [
        ("POST /", "127.0.0.1", "405"),
        ("DELETE /events", "127.0.0.1", "405"),
        ("GET /index.html", "127.0.0.1", "404"),
        ("GET /../etc/passwd", "127.0.0.1", "404"),
        ("GET /", "attacker.example", "421"),
        ("GET /events", "attacker.example:80", "421"),
    ] {
        let (head, body) = server.request(line, host).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{line} {host}: {head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert!(body.is_empty() || body.ends_with('\n'), "{body}");
    }
}

#[tokio::test]
async fn metrics_answer_to_own_names_only() {
    let sampler = Sampler::new(|| Ok(snapshot(1000)), watch::channel(status(&[])).1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let names: Names = ["lb1.example.net".to_owned()].into();
    tokio::spawn(serve(listener, crate::serve::metrics::router(sampler, names)));
    for (host, status) in [
        ("127.0.0.1:9815", "200"),
        ("localhost", "200"),
        ("lb1.example.net:9815", "200"),
        ("evil.example", "421"),
        ("evil.example:9815", "421"),
        ("lb1.example.net.evil.example", "421"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
        assert_eq!(answer.contains("director_"), status == "200", "{host}: {answer}");
    }
}

#[tokio::test]
async fn events_follow_the_daemon_s_status() {
    let server = server().await;
    let mut stream = server.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let first = read_until(&mut stream, "\n\n").await;
    assert!(first.to_lowercase().contains("content-type: text/event-stream"), "{first}");
    assert!(!first.contains("connection refused"), "{first}");
    server.status.send_replace(status(&["10.0.0.12"]));
    read_until(&mut stream, "connection refused").await;
}

#[tokio::test]
async fn watchers_are_limited_and_released() {
    let server = server().await;
    let request = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut watchers = Vec::new();
    for _ in 0..32 {
        let mut stream = server.send(request).await;
        read_until(&mut stream, "data: ").await;
        watchers.push(stream);
    }
    let refused = read_until(&mut server.send(request).await, "too many watchers").await;
    assert!(refused.contains("503"), "{refused}");
    // The page itself is still served.
    assert!(server.request("GET /", "localhost").await.0.contains("200 ok"));
    watchers.clear();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let mut stream = server.send(request).await;
        let answer = read_until(&mut stream, "\n").await;
        if answer.contains("200 OK") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no watcher is released");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
