//! Test servers that receive alarms, and fail as configured.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// How a server treats a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// Reads the request and answers.
    Status(u16),
    /// The same, with `Retry-After: 0` and a body without end.
    Endless(u16),
    /// Reads the request and does not answer.
    Hang,
    /// Closes at once.
    Close,
}

/// A request that was answered with success.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) head: String,
    pub(super) body: Value,
}

/// A web server.
pub(super) struct Http {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    tries: Arc<Mutex<Vec<Instant>>>,
    task: AbortHandle,
}

impl Http {
    /// Handles the nth connection, from 0, by `answer`.
    pub(super) async fn start(answer: impl Fn(usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (requests, tries) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (to, times) = (requests.clone(), tries.clone());
        let task = tokio::spawn(async move {
            for n in 0.. {
                let (stream, _) = listener.accept().await.expect("accepts");
                times.lock().unwrap().push(Instant::now());
                tokio::spawn(serve(stream, answer(n), to.clone()));
            }
        });
        Self { address, requests, tries, task: task.abort_handle() }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook/s3cret?a=b", self.address)
    }

    /// Connections so far.
    pub(super) fn tries(&self) -> usize {
        self.tries.lock().unwrap().len()
    }

    /// Times between connections.
    pub(super) fn gaps(&self) -> Vec<Duration> {
        let tries = self.tries.lock().unwrap();
        tries.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect()
    }

    /// The requests that were answered with success.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn bodies(&self) -> Vec<Value> {
        self.requests().into_iter().map(|request| request.body).collect()
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, answer: Answer, to: Arc<Mutex<Vec<Request>>>) {
    if matches!(answer, Answer::Close) {
        return;
    }
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let length = head.to_lowercase();
    let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.expect("a length").parse().expect("a number")];
    stream.read_exact(&mut body).await.expect("a body");
    let body = serde_json::from_slice(&body).expect("JSON");
    let (status, endless) = match answer {
        Answer::Status(status) => (status, false),
        Answer::Endless(status) => (status, true),
        Answer::Hang => return std::future::pending().await,
        Answer::Close => return,
    };
    if (200..300).contains(&status) {
        to.lock().unwrap().push(Request { head, body });
    }
    let head =
        format!("HTTP/1.1 {status} So\r\nContent-Length: 999999999\r\nRetry-After: 0\r\n\r\n");
    let head = if endless { head } else { head.replace("999999999", "0") };
    let _ = stream.write_all(head.as_bytes()).await;
    while endless && stream.write_all(&[b'x'; 1000]).await.is_ok() {}
}

/// How a mail server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Smtp {
    /// Accepts every command.
    Accepts,
    /// Answers MAIL with 451.
    Later,
    /// Answers RCPT with 550.
    Refuses,
    /// Does not answer at all.
    Silent,
}

/// A mail as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Mail {
    pub(super) hello: String,
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) data: String,
}

/// A mail server.
pub(super) struct MailServer {
    pub(super) address: SocketAddr,
    mails: Arc<Mutex<Vec<Mail>>>,
    tries: Arc<Mutex<usize>>,
    task: AbortHandle,
}

impl MailServer {
    /// Handles the nth connection, from 0, by `behaviour`.
    pub(super) async fn start(behaviour: impl Fn(usize) -> Smtp + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (mails, tries) = (Arc::<Mutex<Vec<Mail>>>::default(), Arc::<Mutex<usize>>::default());
        let (to, count) = (mails.clone(), tries.clone());
        let task = tokio::spawn(async move {
            for n in 0.. {
                let (stream, _) = listener.accept().await.expect("accepts");
                *count.lock().unwrap() += 1;
                tokio::spawn(serve_smtp(stream, behaviour(n), to.clone()));
            }
        });
        Self { address, mails, tries, task: task.abort_handle() }
    }

    pub(super) fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }

    pub(super) fn tries(&self) -> usize {
        *self.tries.lock().unwrap()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_smtp(stream: TcpStream, behaviour: Smtp, to: Arc<Mutex<Vec<Mail>>>) {
    if behaviour == Smtp::Silent {
        let _open = stream;
        return std::future::pending().await;
    }
    let mut stream = BufReader::new(stream);
    let mut mail =
        Mail { hello: String::new(), from: String::new(), to: Vec::new(), data: String::new() };
    stream.write_all(b"220 sink\r\n").await.expect("writes");
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_owned();
        let word = line.split([' ', ':']).next().unwrap_or_default().to_uppercase();
        let answer = match word.as_str() {
            "EHLO" => {
                mail.hello = line;
                "250-sink\r\n250 8BITMIME"
            }
            "MAIL" if behaviour == Smtp::Later => "451 come back later",
            "MAIL" => {
                mail.from = line;
                "250 ok"
            }
            "RCPT" if behaviour == Smtp::Refuses => "550 nobody of this name",
            "RCPT" => {
                mail.to.push(line);
                "250 ok"
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.expect("writes");
                while !mail.data.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut mail.data).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                to.lock().unwrap().push(mail.clone());
                "250 taken"
            }
            "QUIT" => "221 bye",
            _ => "250 ok",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await.expect("writes");
    }
}
