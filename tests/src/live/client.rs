//! Clients: one request, one persistent connection, many requests until stopped.

use std::{
    collections::BTreeMap,
    io::{Error, ErrorKind, Read as _, Result, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use director_userspace::setup::lab::Node;

/// How long anything that should happen immediately may take on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take. A lost SYN is sent again after a second.
const REQUEST: Duration = Duration::from_millis(900);

/// Sends one request on a new connection and returns the name of the backend that answered.
///
/// # Errors
/// Those of the socket; `InvalidData` if the answer is no `200`.
///
/// # Panics
/// If the node cannot be entered.
pub fn get(node: &Node, address: SocketAddr) -> Result<String> {
    node.run(|| get_here(address)).expect("enters")
}

/// As [`get`], in the namespace of the calling thread.
pub(super) fn get_here(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, REQUEST)?;
    stream.set_read_timeout(Some(REQUEST))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    body(&answer)
}

fn body(answer: &str) -> Result<String> {
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim_end().to_owned()),
        _ => Err(Error::new(ErrorKind::InvalidData, format!("{answer:?}"))),
    }
}

/// A persistent connection for many requests.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Opens it.
    ///
    /// # Panics
    /// If that fails.
    pub fn open(node: &Node, address: SocketAddr) -> Self {
        let connect = || TcpStream::connect_timeout(&address, TIMEOUT);
        let stream = node.run(connect).expect("enters").expect("connects");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        Self { stream }
    }

    /// Sends one request and returns the name of the backend that answered.
    ///
    /// # Errors
    /// Those of the socket; `UnexpectedEof` if the other end closed.
    pub fn request(&mut self) -> Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        // The body is a line.
        while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
            match self.stream.read(&mut piece)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => answer.extend_from_slice(&piece[..length]),
            }
        }
        body(&String::from_utf8_lossy(&answer))
    }
}

/// The results of many requests.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Answers by backend.
    pub answers: BTreeMap<String, usize>,
    /// Failed requests.
    pub errors: Vec<String>,
}

impl Totals {
    /// The number of answers.
    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }
}

/// Requests without a pause, in the background, until stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    totals: Arc<Mutex<Totals>>,
    worker: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts requests to `address` from a node.
    ///
    /// # Panics
    /// If the node cannot be entered.
    pub fn start(node: &Node, address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let totals = Arc::new(Mutex::new(Totals::default()));
        let path = format!("/run/netns/{}", node.netns().label());
        let netns = director_userspace::kernel::net::NetNs::open(&path).expect("is there");
        let (ended, counted) = (Arc::clone(&stop), Arc::clone(&totals));
        let worker = thread::spawn(move || {
            netns.enter().expect("enters");
            while !ended.load(Ordering::Relaxed) {
                let answer = get_here(address);
                let mut totals = counted.lock().expect("no thread panics");
                match answer {
                    Ok(name) => *totals.answers.entry(name).or_default() += 1,
                    Err(error) => totals.errors.push(error.to_string()),
                }
            }
        });
        Self { stop, totals, worker: Some(worker) }
    }

    /// The results so far.
    ///
    /// # Panics
    /// If the worker panicked.
    pub fn so_far(&self) -> Totals {
        self.totals.lock().expect("no thread panics").clone()
    }

    /// Ends the requests and returns all results.
    ///
    /// # Panics
    /// If the worker panicked.
    pub fn stop(mut self) -> Totals {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            worker.join().expect("no panic");
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
