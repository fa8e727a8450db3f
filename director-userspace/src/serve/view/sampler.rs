//! Snapshots for watchers: one task takes them, one a second while there are watchers, however
//! many, and none otherwise.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};

use super::{Reader, Snapshot, status::Status};
use crate::kernel::datapath::Instance;

/// How often watchers get a new sample.
const INTERVAL: Duration = Duration::from_secs(1);
/// A younger sample is reused for a single request.
const FRESH: Duration = Duration::from_millis(900);
/// Timeout of a single request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most watchers at once.
const MAX_WATCHERS: usize = 32;
/// Most queued requests.
const QUEUE: usize = 16;

/// One snapshot of a director, which all watchers share.
#[derive(Debug)]
pub struct Sample {
    /// The snapshot, or why there is none.
    pub snapshot: Result<Snapshot, String>,
    encoded: OnceLock<Bytes>,
}

impl Sample {
    fn new(snapshot: Result<Snapshot, String>) -> Arc<Self> {
        Arc::new(Self { snapshot, encoded: OnceLock::new() })
    }

    /// The sample as it is sent to each watcher; encoded once, by the first caller.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(self)).clone()
    }
}

/// Why there is no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// There are too many watchers or requests.
    #[error("too many watchers: close some of the pages that show this director")]
    Busy,
    /// The daemon is ending, or the kernel is slow.
    #[error("no sample within {} s", TIMEOUT.as_secs())]
    Late,
}

type Latest = Option<Arc<Sample>>;
type Read = dyn FnMut() -> Result<Snapshot, String> + Send;

/// Takes samples on demand. Clones share one task, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Sampler {
    requests: mpsc::Sender<Request>,
    latest: watch::Receiver<Latest>,
    permits: Arc<Semaphore>,
}

enum Request {
    /// There is a new watcher.
    Watch,
    /// Send one sample.
    Sample(oneshot::Sender<Arc<Sample>>),
}

/// A watcher; counted until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    latest: watch::Receiver<Latest>,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    /// Waits for a sample that this watcher has not got yet, and returns the newest; `None` when
    /// there will be no more. A slow watcher misses those in between.
    pub async fn next(&mut self) -> Option<Arc<Sample>> {
        loop {
            self.latest.changed().await.ok()?;
            let latest = self.latest.borrow_and_update().clone();
            if latest.is_some() {
                return latest;
            }
        }
    }
}

impl Sampler {
    /// A sampler of an instance's maps and the daemon's status. Needs a tokio runtime.
    pub fn of(instance: &Instance, status: watch::Receiver<Arc<Status>>) -> Self {
        let mut reader = Reader::new(instance);
        Self::new(move || reader.read().map_err(|error| error.to_string()), status)
    }

    /// A sampler of the results of `read`, which may block. Needs a tokio runtime.
    pub fn new(
        read: impl FnMut() -> Result<Snapshot, String> + Send + 'static,
        status: watch::Receiver<Arc<Status>>,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let (publish, latest) = watch::channel(None);
        let permits = Arc::new(Semaphore::new(MAX_WATCHERS));
        let task = Task {
            read: Arc::new(Mutex::new(read)),
            status,
            publish,
            permits: permits.clone(),
            before: None,
            last: None,
        };
        tokio::spawn(task.run(receiver));
        Self { requests, latest, permits }
    }

    /// Adds a watcher, which gets every sample.
    ///
    /// # Errors
    ///
    /// [`SamplerError::Busy`] if all permits are taken.
    pub fn watch(&self) -> Result<Watcher, SamplerError> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| SamplerError::Busy)?;
        let mut latest = self.latest.clone();
        // A sample from before is old.
        latest.mark_unchanged();
        // A full queue wakes the task as well.
        let _ = self.requests.try_send(Request::Watch);
        Ok(Watcher { latest, _permit: permit })
    }

    /// One sample, at most a second old.
    ///
    /// # Errors
    ///
    /// If there are too many requests, or it takes too long.
    pub async fn sample(&self) -> Result<Arc<Sample>, SamplerError> {
        let (reply, sample) = oneshot::channel();
        self.requests.try_send(Request::Sample(reply)).map_err(|_| SamplerError::Busy)?;
        match timeout(TIMEOUT, sample).await {
            Ok(Ok(sample)) => Ok(sample),
            Ok(Err(_)) | Err(_) => Err(SamplerError::Late),
        }
    }
}

struct Task {
    read: Arc<Mutex<Read>>,
    status: watch::Receiver<Arc<Status>>,
    publish: watch::Sender<Latest>,
    permits: Arc<Semaphore>,
    /// The snapshot that rates are computed from.
    before: Option<Snapshot>,
    /// The last snapshot and its time, without status.
    last: Option<(Instant, Arc<Result<Snapshot, String>>)>,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut status_ended = false;
        let mut due = Instant::now();
        loop {
            let is_watched = self.permits.available_permits() < MAX_WATCHERS;
            tokio::select! {
                request = requests.recv() => match request {
                    None => return,
                    Some(Request::Watch) => due = self.refresh(FRESH).await + INTERVAL,
                    Some(Request::Sample(reply)) => {
                        self.refresh(FRESH).await;
                        // The receiver may be gone.
                        if let Some(sample) = self.publish.borrow().clone() {
                            let _ = reply.send(sample);
                        }
                    }
                },
                () = sleep_until(due), if is_watched => {
                    due = self.refresh(Duration::ZERO).await + INTERVAL;
                }
                changed = self.status.changed(), if is_watched && !status_ended => {
                    status_ended = changed.is_err();
                    // The same maps with the new status.
                    self.publish().await;
                }
            }
        }
    }

    /// Reads the maps, unless that was done within `fresh`, and publishes. Returns the time of the
    /// read.
    async fn refresh(&mut self, fresh: Duration) -> Instant {
        match self.last {
            Some((at, ref last)) if last.is_ok() && at.elapsed() < fresh => {}
            _ => {
                let (read, before) = (self.read.clone(), self.before.take());
                let result = spawn_blocking(move || {
                    // A reader that panicked once may succeed now.
                    let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
                    let result = read();
                    let shown = match (&result, &before) {
                        (Ok(now), Some(before)) if now.taken - before.taken < 5 * INTERVAL => {
                            Ok(now.clone().since(before))
                        }
                        (result, _) => result.clone(),
                    };
                    (result.ok(), Arc::new(shown))
                });
                let failed = |_| (None, Arc::new(Err("reading the maps failed".to_owned())));
                let (before, shown) = result.await.unwrap_or_else(failed);
                self.before = before;
                self.last = Some((Instant::now(), shown));
            }
        }
        self.publish().await;
        self.last.as_ref().map_or_else(Instant::now, |(at, _)| *at)
    }

    async fn publish(&mut self) {
        let Some((_, last)) = &self.last else { return };
        let last = last.clone();
        let status = self.status.borrow_and_update().clone();
        // Hundreds of thousands of backends take their time.
        let sample = spawn_blocking(move || {
            last.as_ref().clone().map(|snapshot| snapshot.with(Some(status)))
        });
        let failed = |_| Err("adding the daemon's status failed".to_owned());
        let sample = sample.await.unwrap_or_else(failed);
        self.publish.send_replace(Some(Sample::new(sample)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::serve::view::fixture::snapshot;

    fn counting() -> (Sampler, Arc<AtomicU32>, watch::Sender<Arc<Status>>) {
        let reads = Arc::new(AtomicU32::new(0));
        let counted = reads.clone();
        let (sender, status) = watch::channel(Arc::new(Status::default()));
        let read = move || {
            let packets = counted.fetch_add(1, Ordering::Relaxed) + 1;
            Ok(snapshot(u64::from(packets) * 1000))
        };
        (Sampler::new(read, status), reads, sender)
    }

    #[tokio::test]
    async fn nothing_is_read_without_watchers() {
        let (sampler, reads, _status) = counting();
        tokio::time::sleep(INTERVAL + FRESH).await;
        assert_eq!(reads.load(Ordering::Relaxed), 0);
        let mut watcher = sampler.watch().unwrap();
        watcher.next().await.unwrap();
        drop(watcher);
        tokio::time::sleep(2 * INTERVAL + FRESH).await;
        let read = reads.load(Ordering::Relaxed);
        assert!((1..=2).contains(&read), "{read} reads");
    }

    #[tokio::test]
    async fn all_watchers_share_one_read_and_get_rates() {
        let (sampler, reads, _status) = counting();
        let mut all: Vec<_> = (0..MAX_WATCHERS).map(|_| sampler.watch().unwrap()).collect();
        assert_eq!(sampler.watch().unwrap_err(), SamplerError::Busy);
        let first = all[0].next().await.unwrap();
        assert_eq!(first.snapshot.as_ref().unwrap().packet_rate(|_| true), None);
        let second = loop {
            let sample = all[0].next().await.unwrap();
            if sample.snapshot.as_ref().unwrap().services[0].rate.is_some() {
                break sample;
            }
        };
        let rate = second.snapshot.as_ref().unwrap().services[0].rate.unwrap();
        assert!((50.0..110.0).contains(&rate.packets), "{rate:?}");
        for watcher in &mut all[1..] {
            watcher.next().await.unwrap();
        }
        assert!(reads.load(Ordering::Relaxed) <= 3, "{reads:?}");
        all.pop();
        sampler.watch().unwrap();
    }

    #[tokio::test]
    async fn a_change_of_status_is_published_at_once() {
        let (sampler, _reads, status) = counting();
        let mut watcher = sampler.watch().unwrap();
        watcher.next().await.unwrap();
        let began = Instant::now();
        status.send_replace(Arc::new(Status { revision: 7, ..Status::default() }));
        loop {
            let sample = watcher.next().await.unwrap();
            let shown = sample.snapshot.as_ref().unwrap().status.clone().unwrap();
            if shown.revision == 7 {
                break;
            }
        }
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn frequent_requests_share_a_sample_and_a_panicking_read_does_not_end_the_task() {
        let (sampler, reads, status) = counting();
        for _ in 0..20 {
            sampler.sample().await.unwrap().snapshot.as_ref().unwrap();
        }
        assert!(reads.load(Ordering::Relaxed) <= 2);
        let panicking = Sampler::new(|| panic!("no maps"), status.subscribe());
        for _ in 0..2 {
            let sample = panicking.sample().await.unwrap();
            assert_eq!(sample.snapshot.as_ref().unwrap_err(), "reading the maps failed");
        }
    }
}
