//! Alarms over TLS: webhooks by HTTPS, and mail by STARTTLS. A server with an untrusted certificate
//! receives nothing.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use director_tests::{
    authority::Authority,
    live::{Live, wait_until},
};
use director_userspace::setup::lab::DEFAULT_CONFIG;
use nix::sys::signal::Signal;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Mails are batched for some seconds, and retried after some more.
const DELIVERED: Duration = Duration::from_secs(30);
/// Read timeout of the servers.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server has received, and its certificate.
#[derive(Clone)]
struct Server {
    received: Arc<Mutex<Vec<String>>>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Server {
    /// Listens on this port of the director's host, as long as the test runs.
    fn start(
        live: &Live,
        port: u16,
        config: ServerConfig,
        serve: fn(TcpStream, &Self) -> io::Result<()>,
    ) -> Self {
        let listener = live.node("director").run(|| TcpListener::bind(("127.0.0.1", port)));
        let listener = listener.expect("enters").expect("listens");
        let server =
            Self { received: Arc::default(), config: Arc::new(Mutex::new(Arc::new(config))) };
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that rejects the certificate closes the connection.
                let _ = stream
                    .set_read_timeout(Some(READ_TIMEOUT))
                    .and_then(|()| serve(stream, &serving));
            }
        });
        server
    }

    fn received(&self) -> String {
        self.received.lock().expect("unpoisoned").join("\n")
    }

    fn record(&self, words: String) {
        self.received.lock().expect("unpoisoned").push(words);
    }

    fn secure(&self, stream: TcpStream) -> io::Result<Secure> {
        let config = self.config.lock().expect("unpoisoned").clone();
        let mut stream =
            StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(BufReader::new(stream))
    }
}

type Secure = BufReader<StreamOwned<ServerConnection, TcpStream>>;

/// Receives one request and its body.
fn https(stream: TcpStream, server: &Server) -> io::Result<()> {
    let mut stream = server.secure(stream)?;
    let mut length = 0;
    loop {
        let line = line(&mut stream)?.to_lowercase();
        if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.parse().map_err(io::Error::other)?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    server.record(String::from_utf8_lossy(&body).into_owned());
    send(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n")
}

/// Receives one mail over STARTTLS; records any other command sent in plain text.
fn smtp(stream: TcpStream, server: &Server) -> io::Result<()> {
    let mut open = BufReader::new(stream.try_clone()?);
    let mut answer = stream;
    send(&mut answer, "220 mail.example.net")?;
    loop {
        let word = line(&mut open)?;
        if word.starts_with("EHLO ") {
            send(&mut answer, "250-mail.example.net\r\n250 STARTTLS")?;
        } else if word == "STARTTLS" {
            send(&mut answer, "220 go on")?;
            break;
        } else {
            server.record(format!("plain text: {word}"));
            return Ok(());
        }
    }
    let mut stream = server.secure(answer)?;
    loop {
        let word = line(&mut stream)?;
        if word == "DATA" {
            send(stream.get_mut(), "354 go on")?;
            let mut mail = String::new();
            loop {
                let line = line(&mut stream)?;
                if line == "." {
                    break;
                }
                mail.push_str(&line);
                mail.push('\n');
            }
            server.record(mail);
        }
        send(stream.get_mut(), "250 well")?;
    }
}

fn line(from: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.take(1 << 16).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn send(to: &mut impl Write, words: &str) -> io::Result<()> {
    to.write_all(format!("{words}\r\n").as_bytes())?;
    to.flush()
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_sent_only_to_servers_with_a_trusted_certificate() {
    let (ours, unknown) = (Authority::new("ours"), Authority::new("unknown"));
    let mut live = Live::new("alarmtls").await;
    let roots = live.directory().join("roots.pem");
    fs::write(&roots, ours.pem()).expect("written");
    let [trusted, untrusted] = [&ours, &unknown].map(|by| by.sign(&["127.0.0.1"], 2099));
    let webhook = Server::start(&live, 9443, trusted.server(), https);
    let bad_webhook = Server::start(&live, 9444, untrusted.server(), https);
    let mail = Server::start(&live, 9587, untrusted.server(), smtp);
    let alarms = "alarms:\n  webhooks: ['https://127.0.0.1:9443/a', 'https://127.0.0.1:9444/b']\n  \
                  mail: {server: '127.0.0.1:9587', starttls: true, from: director@example.net, \
                  to: [ops@example.net]}\ndefaults: {health: {type: tcp, interval: 400ms, timeout: \
                  300ms, rise: 2, fall: 2}}\nservices:";
    live.write(&DEFAULT_CONFIG.replace("services:", alarms));
    let daemon = live.spawn_run_trusting(&roots);
    daemon.wait_for("ready", Duration::from_secs(60));
    live.end_server("b3");

    let wanted = "10.0.0.13";
    wait_until("the webhook receives the alarm", DELIVERED, || webhook.received().contains(wanted));
    daemon.wait_for("webhook https://127.0.0.1:9444 failed", DELIVERED);
    daemon.wait_for("mail by 127.0.0.1:9587 failed", DELIVERED);
    let log = daemon.log();
    for name in ["webhook https://127.0.0.1:9444", "mail by 127.0.0.1:9587"] {
        let failure = log.lines().find(|line| line.contains(&format!("{name} failed")));
        assert!(failure.is_some_and(|line| line.contains("certificate")), "{log}");
    }
    assert_eq!((bad_webhook.received(), mail.received()), (String::new(), String::new()), "{log}");

    // With a trusted certificate, the failed mail is sent.
    *mail.config.lock().expect("unpoisoned") = Arc::new(trusted.server());
    wait_until("the mail arrives", DELIVERED, || mail.received().contains(wanted));
    assert!(!mail.received().contains("plain text"), "{}", mail.received());
    assert_eq!(bad_webhook.received(), "");
    daemon.end(Signal::SIGTERM);
    live.detach();
}
