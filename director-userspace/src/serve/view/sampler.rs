//! Snapshots for those who watch: one task takes them, one a second while somebody watches and none
//! otherwise, however many there are.

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

/// How often somebody who watches gets a new sample.
const INTERVAL: Duration = Duration::from_secs(1);
/// A sample that is younger need not be taken again for who asks once.
const FRESH: Duration = Duration::from_millis(900);
/// How long who asks once waits for a sample.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most who watch at once.
const MAX_WATCHERS: usize = 32;
/// Most who wait for a sample at once.
const QUEUE: usize = 16;

/// One look at a director, which all who watch share.
#[derive(Debug)]
pub struct Sample {
    /// What was seen, or why nothing was.
    pub snapshot: Result<Snapshot, String>,
    encoded: OnceLock<Bytes>,
}

impl Sample {
    fn new(snapshot: Result<Snapshot, String>) -> Arc<Self> {
        Arc::new(Self { snapshot, encoded: OnceLock::new() })
    }

    /// The sample as it is sent to each who watches; made by the first who asks.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(self)).clone()
    }
}

/// Why there is no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// Too many ask or watch.
    #[error("too many are watching: close some of the pages that show this director")]
    Busy,
    /// The daemon ends, or the kernel takes its time.
    #[error("no sample was to be had within {} s", TIMEOUT.as_secs())]
    Late,
}

type Latest = Option<Arc<Sample>>;
type Read = dyn FnMut() -> Result<Snapshot, String> + Send;

/// Takes samples when they are wanted. Clones share one task, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Sampler {
    requests: mpsc::Sender<Request>,
    latest: watch::Receiver<Latest>,
    permits: Arc<Semaphore>,
}

enum Request {
    /// Somebody has begun to watch.
    Watch,
    /// Somebody wants one sample.
    One(oneshot::Sender<Arc<Sample>>),
}

/// A seat among those who watch; free again when dropped.
#[derive(Debug)]
pub struct Watching {
    latest: watch::Receiver<Latest>,
    _seat: OwnedSemaphorePermit,
}

impl Watching {
    /// The newest sample, once there is one that this has not been given; `None` when there will be
    /// no more. Who is slow misses those in between.
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
    /// Samples of an instance's maps, with what the daemon knows. Wants a tokio runtime.
    pub fn of(instance: &Instance, conditions: watch::Receiver<Arc<Status>>) -> Self {
        let mut reader = Reader::new(instance);
        Self::new(move || reader.read().map_err(|error| error.to_string()), conditions)
    }

    /// Samples of what `read` says, which may block. Wants a tokio runtime.
    pub fn new(
        read: impl FnMut() -> Result<Snapshot, String> + Send + 'static,
        conditions: watch::Receiver<Arc<Status>>,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let (publish, latest) = watch::channel(None);
        let permits = Arc::new(Semaphore::new(MAX_WATCHERS));
        let task = Task {
            read: Arc::new(Mutex::new(read)),
            conditions,
            publish,
            permits: permits.clone(),
            before: None,
            last: None,
        };
        tokio::spawn(task.run(receiver));
        Self { requests, latest, permits }
    }

    /// Takes a seat among those who get every sample.
    ///
    /// # Errors
    ///
    /// [`SamplerError::Busy`] if all permits are taken.
    pub fn watch(&self) -> Result<Watching, SamplerError> {
        let seat = self.permits.clone().try_acquire_owned().map_err(|_| SamplerError::Busy)?;
        let mut latest = self.latest.clone();
        // What was seen while nobody watched is old.
        latest.mark_unchanged();
        // A full queue wakes the task as well.
        let _ = self.requests.try_send(Request::Watch);
        Ok(Watching { latest, _seat: seat })
    }

    /// One sample, at most a second old.
    ///
    /// # Errors
    ///
    /// If too many ask, or it takes too long.
    pub async fn one(&self) -> Result<Arc<Sample>, SamplerError> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request::One(reply)).map_err(|_| SamplerError::Busy)?;
        match timeout(TIMEOUT, answer).await {
            Ok(Ok(sample)) => Ok(sample),
            Ok(Err(_)) | Err(_) => Err(SamplerError::Late),
        }
    }
}

struct Task {
    read: Arc<Mutex<Read>>,
    conditions: watch::Receiver<Arc<Status>>,
    publish: watch::Sender<Latest>,
    permits: Arc<Semaphore>,
    /// What rates are counted from.
    before: Option<Snapshot>,
    /// The last look at the maps, without conditions.
    last: Option<(Instant, Result<Snapshot, String>)>,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut ends = false;
        let mut due = Instant::now();
        loop {
            let is_watched = self.permits.available_permits() < MAX_WATCHERS;
            let conditions_last = !ends;
            tokio::select! {
                request = requests.recv() => match request {
                    None => return,
                    Some(Request::Watch) => due = self.look(FRESH).await + INTERVAL,
                    Some(Request::One(reply)) => {
                        self.look(FRESH).await;
                        // Who asked may have gone.
                        if let Some(sample) = self.publish.borrow().clone() {
                            let _ = reply.send(sample);
                        }
                    }
                },
                () = sleep_until(due), if is_watched => {
                    due = self.look(Duration::ZERO).await + INTERVAL;
                }
                changed = self.conditions.changed(), if is_watched && conditions_last => {
                    ends = changed.is_err();
                    // The same maps, shown in another light.
                    self.publish();
                }
            }
        }
    }

    /// Looks at the maps, unless that was done within `fresh`, and publishes; when that was done.
    async fn look(&mut self, fresh: Duration) -> Instant {
        match self.last {
            Some((at, Ok(_))) if at.elapsed() < fresh => {}
            _ => {
                let read = self.read.clone();
                let result = spawn_blocking(move || {
                    // A reader that panicked once may do better now.
                    let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
                    read()
                });
                let result = result.await.unwrap_or_else(|_| Err("reading the maps failed".into()));
                let shown = match (&result, &self.before) {
                    (Ok(now), Some(before)) if now.taken - before.taken < 5 * INTERVAL => {
                        Ok(now.clone().since(before))
                    }
                    (result, _) => result.clone(),
                };
                self.before = result.ok();
                self.last = Some((Instant::now(), shown));
            }
        }
        self.publish();
        self.last.as_ref().map_or_else(Instant::now, |(at, _)| *at)
    }

    fn publish(&mut self) {
        let Some((_, last)) = &self.last else { return };
        let conditions = self.conditions.borrow_and_update().clone();
        let sample = last.clone().map(|snapshot| snapshot.with(Some(conditions)));
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
        let (sender, conditions) = watch::channel(Arc::new(Status::default()));
        let read = move || {
            let packets = counted.fetch_add(1, Ordering::Relaxed) + 1;
            Ok(snapshot(u64::from(packets) * 1000))
        };
        (Sampler::new(read, conditions), reads, sender)
    }

    #[tokio::test]
    async fn nothing_is_read_while_nobody_watches() {
        let (sampler, reads, _conditions) = counting();
        tokio::time::sleep(INTERVAL + FRESH).await;
        assert_eq!(reads.load(Ordering::Relaxed), 0);
        let mut watching = sampler.watch().unwrap();
        watching.next().await.unwrap();
        drop(watching);
        tokio::time::sleep(2 * INTERVAL + FRESH).await;
        let read = reads.load(Ordering::Relaxed);
        assert!((1..=2).contains(&read), "{read} reads");
    }

    #[tokio::test]
    async fn all_who_watch_share_one_look_and_get_rates() {
        let (sampler, reads, _conditions) = counting();
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
        for watching in &mut all[1..] {
            watching.next().await.unwrap();
        }
        assert!(reads.load(Ordering::Relaxed) <= 3, "{reads:?}");
        all.pop();
        sampler.watch().unwrap();
    }

    #[tokio::test]
    async fn a_change_of_conditions_is_shown_at_once() {
        let (sampler, _reads, conditions) = counting();
        let mut watching = sampler.watch().unwrap();
        watching.next().await.unwrap();
        let began = Instant::now();
        conditions.send_replace(Arc::new(Status { revision: 7, ..Status::default() }));
        loop {
            let sample = watching.next().await.unwrap();
            let shown = sample.snapshot.as_ref().unwrap().conditions.clone().unwrap();
            if shown.revision == 7 {
                break;
            }
        }
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn who_asks_often_gets_the_same_sample_and_no_look_that_panics_ends_it() {
        let (sampler, reads, conditions) = counting();
        for _ in 0..20 {
            sampler.one().await.unwrap().snapshot.as_ref().unwrap();
        }
        assert!(reads.load(Ordering::Relaxed) <= 2);
        let panicking = Sampler::new(|| panic!("no maps"), conditions.subscribe());
        for _ in 0..2 {
            let sample = panicking.one().await.unwrap();
            assert_eq!(sample.snapshot.as_ref().unwrap_err(), "reading the maps failed");
        }
    }
}
