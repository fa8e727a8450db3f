//! Clients: one connection per request, so that each has another source port.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use ureq::Agent;

use super::{
    scene::Service,
    servers::{LARGE_FILE, SERVED_BY, large_file_byte, large_file_len},
    tally::{Phase, Tally},
};

/// The number of clients.
pub(super) const CLIENTS: usize = 4;
/// Concurrent requests of one client, per service.
const CONCURRENT: usize = 6;
/// Requests per second and service. Enough for significant counts in a short time, few enough not
/// to saturate a small machine: answers must not be late for lack of CPU time.
const RATE: f64 = 1000.0;
/// How long a request may take in each of its steps.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a request that only tests whether the service answers yet.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
/// How many connections are tried to find one through a certain backend.
const TRIES: usize = 200;

/// What worker threads share.
struct Shared {
    phase: AtomicU8,
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        let number = self.phase.load(Ordering::Acquire);
        Phase::ALL[usize::from(number)]
    }
}

/// Requests, until this is dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts requests to every service from every client of the lab.
    pub(super) fn start(lab: &str, services: &[Service]) -> Result<Self> {
        let shared = Arc::new(Shared {
            phase: AtomicU8::new(Phase::Steady as u8),
            stop: AtomicBool::new(false),
            tally: Mutex::new(Tally::new(services)),
        });
        let mut load = Self { shared, threads: Vec::new() };
        let interval = Duration::from_secs_f64((CLIENTS * CONCURRENT) as f64 / RATE);
        for client in 1..=CLIENTS {
            for (number, service) in services.iter().enumerate() {
                for turn in 0..CONCURRENT {
                    let namespace = namespace(lab, client)?;
                    let (shared, url) = (Arc::clone(&load.shared), service.url("/"));
                    // Spread, so that requests are not sent all at once.
                    let index = (client - 1) * CONCURRENT + turn;
                    let delay = interval.mul_f64(index as f64 / (CLIENTS * CONCURRENT) as f64);
                    load.threads.push(thread::spawn(move || {
                        let entered = enter(&namespace);
                        thread::sleep(delay);
                        match entered {
                            Ok(()) => send_requests(&shared, number, &url, interval),
                            Err(error) => {
                                let phase = shared.phase();
                                shared.tally().failed(number, phase, format!("{error:#}"));
                            }
                        }
                    }));
                }
            }
        }
        Ok(load)
    }

    /// Requests sent from now on belong to `phase`.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::Release);
    }

    /// The counts so far.
    pub(super) fn tally(&self) -> Tally {
        self.shared.tally().snapshot()
    }

    /// Waits for pending requests and returns the results of all.
    pub(super) fn finish(mut self) -> Tally {
        self.end();
        std::mem::take(&mut self.shared.tally())
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// One user of a client: sends a request per interval.
fn send_requests(shared: &Shared, service: usize, url: &str, interval: Duration) {
    let agent = agent(TIMEOUT);
    let mut turn = Instant::now();
    while !shared.stop.load(Ordering::Acquire) {
        // A request belongs to the phase in which it is sent, whenever it is answered.
        let phase = shared.phase();
        match get(&agent, url) {
            Ok(answer) => shared.tally().answered(service, phase, &answer),
            Err(error) => shared.tally().failed(service, phase, format!("{url}: {error}")),
        }
        // A late request is not caught up.
        turn = (turn + interval).max(Instant::now());
        thread::sleep(turn.saturating_duration_since(Instant::now()));
    }
}

/// Sends one request from the first client and returns whether it was answered.
pub(super) fn is_answered(lab: &str, service: &Service) -> Result<bool> {
    let namespace = namespace(lab, 1)?;
    let url = service.url("/");
    let request = thread::spawn(move || {
        enter(&namespace)?;
        Ok(get(&agent(PROBE_TIMEOUT), &url).is_ok())
    });
    request.join().map_err(|_| anyhow!("the client panicked"))?
}

/// A client that opens a new connection for every request.
fn agent(timeout: Duration) -> Agent {
    let config = Agent::config_builder()
        .proxy(None)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .timeout_connect(Some(timeout))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(timeout));
    config.build().new_agent()
}

fn get(agent: &Agent, url: &str) -> Result<String, ureq::Error> {
    agent.get(url).header("Connection", "close").call()?.body_mut().read_to_string()
}

/// A slow download that lasts while the configuration changes.
pub(super) struct Transfer {
    /// Its service, by number.
    pub(super) service: usize,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Transfer {
    /// Starts a download through the backend `node`.
    pub(super) fn through(
        lab: &str,
        services: &[Service],
        service: usize,
        node: &'static str,
    ) -> Result<Self> {
        let namespace = namespace(lab, 1)?;
        let url = services[service].url(&format!("/{LARGE_FILE}"));
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (begun, has_begun) = mpsc::channel();
        let (count, end) = (Arc::clone(&received), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            enter(&namespace)?;
            let response = open_through(&url, node)?;
            let _ = begun.send(());
            download(response, &count, &end).with_context(|| format!("{url} through {node}"))
        });
        let mut transfer = Self { service, received, stop, thread: Some(thread) };
        match has_begun.recv() {
            Ok(()) => Ok(transfer),
            // The thread ended before the download began, and returns the reason.
            Err(mpsc::RecvError) => match transfer.outcome() {
                Err(error) => Err(error),
                Ok(()) => bail!("the transfer through {node} did not begin"),
            },
        }
    }

    /// The fraction that has arrived.
    pub(super) fn progress(&self) -> f64 {
        self.received.load(Ordering::Relaxed) as f64 / large_file_len() as f64
    }

    /// Whether it has ended, successfully or not.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end, and returns whether everything arrived intact.
    pub(super) fn outcome(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { bail!("outcome read twice") };
        thread.join().map_err(|_| anyhow!("the transfer's thread panicked"))?
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Response = ureq::http::Response<ureq::Body>;

/// Opens connections until one is scheduled to `node`.
fn open_through(url: &str, node: &str) -> Result<Response> {
    let agent = agent(TIMEOUT);
    for _ in 0..TRIES {
        let response = agent.get(url).header("Connection", "close").call();
        let response = response.with_context(|| format!("cannot get {url}"))?;
        if response.headers().get(SERVED_BY).is_some_and(|name| name == node) {
            return Ok(response);
        }
    }
    bail!("none of {TRIES} connections to {url} was scheduled to {node}")
}

fn download(mut response: Response, received: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let mut reader = response.body_mut().as_reader();
    let mut buffer = [0; 16 * 1024];
    let mut offset = 0;
    while !stop.load(Ordering::Acquire) {
        let n =
            reader.read(&mut buffer).with_context(|| format!("broke off after {offset} bytes"))?;
        if n == 0 {
            ensure!(offset == large_file_len(), "ended after {offset} bytes");
            return Ok(());
        }
        let intact = (offset..).zip(&buffer[..n]).all(|(at, &byte)| byte == large_file_byte(at));
        ensure!(intact, "wrong bytes after {offset}");
        offset += n as u64;
        received.store(offset, Ordering::Relaxed);
    }
    bail!("stopped")
}

fn namespace(lab: &str, client: usize) -> Result<File> {
    let path = Path::new("/run/netns").join(format!("{lab}-client{client}"));
    File::open(&path).with_context(|| format!("cannot open {}", path.display()))
}

/// Moves the calling thread; the process's other threads stay where they are.
fn enter(namespace: &File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the client's namespace")
}
