use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use super::router;
use crate::serve::view::{
    Sampler,
    fixture::{conditions, snapshot},
    serve,
    status::Status,
};

struct Server {
    address: std::net::SocketAddr,
    conditions: watch::Sender<Arc<Status>>,
}

async fn server() -> Server {
    let (sender, receiver) = watch::channel(conditions(&[]));
    let sampler = Sampler::new(|| Ok(snapshot(1000)), receiver);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router(sampler)));
    Server { address, conditions: sender }
}

impl Server {
    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Head and body of an answer.
    async fn ask(&self, line: &str, host: &str) -> (String, String) {
        let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        self.send(&request).await.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }
}

/// Reads until `words` are there.
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
async fn the_page_lets_only_its_own_script_run_and_is_not_kept() {
    let server = server().await;
    let (head, body) = server.ask("GET /", "127.0.0.1").await;
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
    let (again, _) = server.ask("GET /", "127.0.0.1").await;
    assert!(!again.contains(nonce), "each answer has its own");
}

/// Without the network the page is complete.
#[test]
fn the_page_refers_to_nothing_outside() {
    for word in ["http://", "https://", "src=", "@import", "url("] {
        let page = super::PAGE.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(word), "{word}");
    }
}

#[tokio::test]
async fn others_methods_paths_and_names_are_refused() {
    let server = server().await;
    for (line, host, status) in [
        ("POST /", "127.0.0.1", "405"),
        ("DELETE /events", "127.0.0.1", "405"),
        ("GET /index.html", "127.0.0.1", "404"),
        ("GET /../etc/passwd", "127.0.0.1", "404"),
        ("GET /", "attacker.example", "421"),
        ("GET /events", "attacker.example:80", "421"),
    ] {
        let (head, body) = server.ask(line, host).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{line} {host}: {head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert!(body.is_empty() || body.ends_with('\n'), "{body}");
    }
}

#[tokio::test]
async fn events_follow_the_daemon_s_conditions() {
    let server = server().await;
    let mut stream = server.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let first = read_until(&mut stream, "\n\n").await;
    assert!(first.to_lowercase().contains("content-type: text/event-stream"), "{first}");
    assert!(!first.contains("connection refused"), "{first}");
    server.conditions.send_replace(conditions(&["10.0.0.12"]));
    read_until(&mut stream, "connection refused").await;
}

#[tokio::test]
async fn seats_are_limited_and_given_back() {
    let server = server().await;
    let request = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut watching = Vec::new();
    for _ in 0..32 {
        let mut stream = server.send(request).await;
        read_until(&mut stream, "data: ").await;
        watching.push(stream);
    }
    let refused = read_until(&mut server.send(request).await, "too many are watching").await;
    assert!(refused.contains("503"), "{refused}");
    // The page itself still comes.
    assert!(server.ask("GET /", "localhost").await.0.contains("200 ok"));
    watching.clear();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let mut stream = server.send(request).await;
        let answer = read_until(&mut stream, "\n").await;
        if answer.contains("200 OK") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no seat is given back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
