//! Clients that detect every loss: connections that keep transferring, numbered datagrams, and new
//! connections at a steady rate.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use director_userspace::setup::lab::Node;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    TIMEOUT,
    echo::{BLOCK, NAME, datagrams, in_namespace_of},
};

/// Interval between datagrams of a flow.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(25);
/// From the answer to a block to the next block.
const BLOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long an answer may take; a lost segment is retransmitted long before.
const STALLED: Duration = Duration::from_secs(10);
/// How long a new connection may take with its one request: a lost SYN is retransmitted after a
/// second.
const REQUEST: Duration = Duration::from_millis(900);
/// Maximum number of flows opened to find one that the wanted backends serve.
const TRIES: usize = 100;

/// The transport of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One connection, block after block; every byte of the answers is compared.
    Tcp,
    /// One socket, a numbered datagram every few milliseconds.
    Udp,
}

/// A flow to be kept active.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its name in messages.
    pub label: String,
    /// Its transport.
    pub transport: Transport,
    /// The destination.
    pub address: SocketAddr,
    /// Backends that may serve it: flows are opened until one of these does. Any backend, if empty.
    pub on: Vec<String>,
}

/// The results of a flow.
#[derive(Clone, Debug, Default)]
pub struct FlowTotals {
    /// The flow's label.
    pub label: String,
    /// The backend that served it first, and should serve it throughout.
    pub backend: String,
    /// Blocks or datagrams sent.
    pub sent: u64,
    /// Correct answers.
    pub answered: u64,
    /// Numbers of datagrams without an answer.
    pub lost: Vec<u64>,
    /// Answers of another backend: number and name.
    pub elsewhere: Vec<(u64, String)>,
    /// Other errors.
    pub errors: Vec<String>,
    /// The longest response time.
    pub longest: Duration,
}

impl FlowTotals {
    /// Whether every request was answered, by the same backend.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty()
            && self.elsewhere.is_empty()
            && self.errors.is_empty()
            && self.sent == self.answered
    }
}

impl fmt::Display for FlowTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, backend, sent, answered, lost, elsewhere, errors, longest } = self;
        write!(f, "{label} on {backend}: {answered} of {sent} answered, longest {longest:?}")?;
        if !self.is_whole() {
            write!(f, "; lost {lost:?}; elsewhere {elsewhere:?}; errors {errors:?}")?;
        }
        Ok(())
    }
}

/// Flows that are kept active in the background until stopped.
pub struct Steady {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    worker: JoinHandle<Vec<FlowTotals>>,
}

impl Steady {
    /// Opens the flows from a node, and returns when each has had its first answer.
    ///
    /// # Panics
    /// If one gets none.
    pub fn start(node: &Node, flows: Vec<Flow>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let (opened, is_open) = mpsc::channel();
        let n_flows = flows.len();
        let shared = (Arc::clone(&stop), Arc::clone(&answers));
        let worker = in_namespace_of(node, async move {
            let keep = |(number, flow): (u64, Flow)| {
                let (stop, answers) = shared.clone();
                let keeper = Keeper { flow, number, stop, answers, opened: opened.clone() };
                tokio::spawn(keeper.keep())
            };
            let all: Vec<_> = (0..).zip(flows).map(keep).collect();
            let mut totals = Vec::new();
            for flow in all {
                totals.push(flow.await.expect("no panic"));
            }
            totals
        });
        for _ in 0..n_flows {
            is_open.recv_timeout(4 * TIMEOUT).expect("a flow is answered");
        }
        Self { stop, answers, worker }
    }

    /// The number of answers so far.
    pub fn answered(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Ends the flows, after everything sent was answered or timed out.
    ///
    /// # Panics
    /// If a client panicked.
    pub fn stop(self) -> Vec<FlowTotals> {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("no panic")
    }
}

struct Keeper {
    flow: Flow,
    number: u64,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    opened: mpsc::Sender<()>,
}

impl Keeper {
    async fn keep(self) -> FlowTotals {
        match self.flow.transport {
            Transport::Tcp => self.keep_tcp().await,
            Transport::Udp => self.keep_udp().await,
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn suits(&self, backend: &str) -> bool {
        self.flow.on.is_empty() || self.flow.on.iter().any(|name| name == backend)
    }

    fn totals(&self, backend: String) -> FlowTotals {
        // The waiting thread may have timed out.
        let _ = self.opened.send(());
        FlowTotals { label: self.flow.label.clone(), backend, ..FlowTotals::default() }
    }

    async fn keep_tcp(self) -> FlowTotals {
        let (mut stream, mut totals) = self.open_tcp().await;
        let mut block = vec![0; BLOCK];
        while !self.is_over() {
            let number = totals.sent;
            fastrand::Rng::with_seed(self.number << 32 | number).fill(&mut block);
            let sent_at = Instant::now();
            totals.sent += 1;
            match timeout(STALLED, exchange(&mut stream, &block)).await {
                Ok(Ok(name)) if name == totals.backend => totals.answered += 1,
                Ok(Ok(name)) => totals.elsewhere.push((number, name)),
                Ok(Err(error)) => {
                    totals.errors.push(format!("block {number}: {error}"));
                    break;
                }
                Err(_) => {
                    totals.errors.push(format!("block {number}: no answer in {STALLED:?}"));
                    break;
                }
            }
            self.answers.fetch_add(1, Ordering::Relaxed);
            totals.longest = totals.longest.max(sent_at.elapsed());
            sleep(BLOCK_PAUSE).await;
        }
        totals
    }

    async fn open_tcp(&self) -> (TcpStream, FlowTotals) {
        for _ in 0..TRIES {
            let Ok(Ok(mut stream)) = timeout(TIMEOUT, TcpStream::connect(self.flow.address)).await
            else {
                continue;
            };
            let answer = timeout(TIMEOUT, exchange(&mut stream, &[7; BLOCK])).await;
            if let Ok(Ok(name)) = answer
                && self.suits(&name)
            {
                return (stream, self.totals(name));
            }
        }
        panic!("{}: none of {TRIES} connections is as wanted", self.flow.label);
    }

    async fn keep_udp(self) -> FlowTotals {
        let (socket, mut totals) = self.open_udp().await;
        let mut sent: Vec<Option<Instant>> = Vec::new();
        let mut buffer = [0; 2 * NAME + 64];
        let mut ticks = interval(DATAGRAM_PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end: Option<Instant> = None;
        while end.is_none() || totals.answered < totals.sent {
            tokio::select! {
                _ = ticks.tick(), if end.is_none() => {
                    if self.is_over() {
                        end = Some(Instant::now() + TIMEOUT / 2);
                        continue;
                    }
                    let number = totals.sent;
                    totals.sent += 1;
                    sent.push(Some(Instant::now()));
                    if let Err(error) = socket.send(&number.to_be_bytes()).await {
                        totals.errors.push(format!("datagram {number}: {error}"));
                    }
                }
                received = socket.recv(&mut buffer) => match received {
                    Ok(length) => {
                        let Some((name, number)) = numbered(&buffer[..length]) else {
                            totals.errors.push(format!("{length} bytes that are no valid answer"));
                            continue;
                        };
                        if name != totals.backend {
                            totals.elsewhere.push((number, name));
                            continue;
                        }
                        let at = usize::try_from(number).ok();
                        match at.and_then(|at| sent.get_mut(at)?.take()) {
                            Some(sent_at) => {
                                totals.answered += 1;
                                totals.longest = totals.longest.max(sent_at.elapsed());
                                self.answers.fetch_add(1, Ordering::Relaxed);
                            }
                            None => totals.errors.push(format!("datagram {number} came twice")),
                        }
                    }
                    Err(error) => totals.errors.push(error.to_string()),
                },
                () = until(end) => break,
            }
        }
        totals.lost =
            (0..).zip(&sent).filter_map(|(n, sent)| sent.is_some().then_some(n)).collect();
        totals
    }

    async fn open_udp(&self) -> (tokio::net::UdpSocket, FlowTotals) {
        let mut buffer = [0; 2 * NAME + 64];
        for _ in 0..TRIES {
            let any = if self.flow.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = datagrams(any.parse().expect("an address")).expect("a socket");
            socket.connect(self.flow.address).await.expect("a route");
            // A number that is not counted.
            if socket.send(&u64::MAX.to_be_bytes()).await.is_err() {
                continue;
            }
            if let Ok(Ok(length)) = timeout(TIMEOUT / 5, socket.recv(&mut buffer)).await
                && let Some((name, _)) = numbered(&buffer[..length])
                && self.suits(&name)
            {
                return (socket, self.totals(name));
            }
        }
        panic!("{}: none of {TRIES} sockets is as wanted", self.flow.label);
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Sends a block, compares the answer and returns the backend that sent it.
async fn exchange(stream: &mut TcpStream, block: &[u8]) -> io::Result<String> {
    stream.write_all(block).await?;
    let mut answer = vec![0; NAME + block.len()];
    stream.read_exact(&mut answer).await?;
    let (name, bytes) = answer.split_at(NAME);
    if bytes != block {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes came back"));
    }
    Ok(String::from_utf8_lossy(name).trim_end().to_owned())
}

/// Name and number in an answer to a datagram.
fn numbered(answer: &[u8]) -> Option<(String, u64)> {
    let (name, number) = answer.split_at_checked(NAME)?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    Some((String::from_utf8_lossy(name).trim_end().to_owned(), number))
}

/// The results of many short connections.
#[derive(Clone, Debug, Default)]
pub struct RequestTotals {
    /// Answers by backend.
    pub answers: BTreeMap<String, usize>,
    /// Failed connections.
    pub errors: Vec<String>,
    /// Time from the first to the last.
    pub took: Duration,
}

impl RequestTotals {
    /// Answers per second.
    pub fn rate(&self) -> f64 {
        self.answers.values().sum::<usize>() as f64 / self.took.as_secs_f64()
    }
}

/// New connections at a steady rate, each with one request, until stopped.
pub struct Requests {
    stop: Arc<AtomicBool>,
    totals: Arc<Mutex<RequestTotals>>,
    worker: JoinHandle<()>,
}

impl Requests {
    /// Starts opening `per_second` connections from a node.
    ///
    /// # Panics
    /// If the node cannot be entered.
    pub fn start(node: &Node, address: SocketAddr, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let totals = Arc::new(Mutex::new(RequestTotals::default()));
        let (ended, counted) = (Arc::clone(&stop), Arc::clone(&totals));
        let worker = in_namespace_of(node, async move {
            let began = Instant::now();
            let mut ticks = interval(Duration::from_secs(1) / per_second);
            let mut open = tokio::task::JoinSet::new();
            while !ended.load(Ordering::Relaxed) {
                ticks.tick().await;
                let counted = Arc::clone(&counted);
                open.spawn(async move {
                    let answer = timeout(REQUEST, one(address)).await;
                    let mut totals = counted.lock().expect("no thread panics");
                    match answer {
                        Ok(Ok(name)) => *totals.answers.entry(name).or_default() += 1,
                        Ok(Err(error)) => totals.errors.push(error.to_string()),
                        Err(_) => totals.errors.push(format!("not answered in {REQUEST:?}")),
                    }
                });
                while open.try_join_next().is_some() {}
            }
            open.join_all().await;
            counted.lock().expect("no thread panics").took = began.elapsed();
        });
        Self { stop, totals, worker }
    }

    /// The results so far.
    ///
    /// # Panics
    /// If the worker panicked.
    pub fn so_far(&self) -> RequestTotals {
        self.totals.lock().expect("no thread panics").clone()
    }

    /// Ends the requests and returns all results.
    ///
    /// # Panics
    /// If the worker panicked.
    pub fn stop(self) -> RequestTotals {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("no panic");
        self.totals.lock().expect("no thread panics").clone()
    }
}

async fn one(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    exchange(&mut stream, &[1; BLOCK]).await
}
