//! The queue of one channel: bounded; if full, the oldest message is dropped and counted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use super::message::Message;

/// Messages for one channel.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    inner: Mutex<Inner>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<Arc<Message>>,
    lost: u64,
}

/// The state that tasks wait for.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Messages that wait or are being delivered.
    outstanding: usize,
    /// Whether the daemon is about to end: no pauses between deliveries.
    flushing: bool,
}

impl Queue {
    /// A queue of at most `capacity` messages.
    pub(super) fn new(capacity: usize) -> Self {
        let inner = Mutex::new(Inner::default());
        Self { capacity, inner, state: watch::Sender::new(State::default()) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave the state half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a message. If the queue is full, the oldest is lost.
    pub(super) fn push(&self, message: Arc<Message>) {
        let mut inner = self.inner();
        inner.messages.push_back(message);
        if inner.messages.len() > self.capacity {
            inner.messages.pop_front();
            inner.lost += 1;
        } else {
            self.state.send_modify(|state| state.outstanding += 1);
        }
    }

    /// Waits for a message, and takes up to `most` from the front. They are outstanding until
    /// [`complete`](Self::complete).
    pub(super) async fn next(&self, most: usize) -> Vec<Arc<Message>> {
        let mut state = self.state.subscribe();
        loop {
            let taken = self.take(most);
            if !taken.is_empty() {
                return taken;
            }
            // Fails only if the sender is dropped, which `self` owns.
            let _ = state.changed().await;
        }
    }

    /// Takes up to `most` messages from the front; none if the queue is empty.
    pub(super) fn take(&self, most: usize) -> Vec<Arc<Message>> {
        let mut inner = self.inner();
        let n = most.min(inner.messages.len());
        inner.messages.drain(..n).collect()
    }

    /// Messages lost since the last reported number.
    pub(super) fn lost(&self) -> u64 {
        self.inner().lost
    }

    /// Completes `n` taken messages: they were delivered together with the number `reported` of
    /// those lost before, or are `lost` too.
    pub(super) fn complete(&self, n: usize, reported: u64, lost: u64) {
        let mut inner = self.inner();
        inner.lost = inner.lost.saturating_sub(reported) + lost;
        self.state.send_modify(|state| state.outstanding = state.outstanding.saturating_sub(n));
    }

    /// Ends all pauses from now on.
    pub(super) fn start_flush(&self) {
        self.state.send_modify(|state| state.flushing = true);
    }

    /// Pauses for `time`, or until a flush starts. Returns whether one has started.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        let mut state = self.state.subscribe();
        tokio::select! {
            () = sleep(time) => {}
            _ = state.wait_for(|state| state.flushing) => {}
        }
        self.state.borrow().flushing
    }

    /// Waits until nothing is outstanding.
    pub(super) async fn drained(&self) {
        let _ = self.state.subscribe().wait_for(|state| state.outstanding == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::alarm::{Subject, Transition, message::Event};

    fn message(number: u64) -> Arc<Message> {
        let event = Event::Transition(Transition::now(Subject::Director, "a", "b", ""));
        Arc::new(Message { number, at: SystemTime::UNIX_EPOCH, event, missed: 0 })
    }

    #[tokio::test]
    async fn the_oldest_is_dropped_and_counted_until_reported() {
        let queue = Queue::new(3);
        for n in 0..10 {
            queue.push(message(n));
        }
        let taken = queue.next(2).await;
        assert_eq!(taken.iter().map(|m| m.number).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(queue.lost(), 7);
        // One more is lost while those two are being delivered.
        for n in 10..13 {
            queue.push(message(n));
        }
        queue.complete(2, 7, 0);
        assert_eq!(queue.lost(), 1);
        assert_eq!(queue.next(9).await.len(), 3);
        queue.complete(3, 0, 3);
        assert_eq!(queue.lost(), 4, "undeliverable ones count too");
        queue.drained().await;
    }

    #[tokio::test]
    async fn a_task_waits_for_a_message_and_pauses_until_a_flush() {
        let queue = Arc::new(Queue::new(3));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next(1).await }
        });
        tokio::task::yield_now().await;
        queue.push(message(1));
        assert_eq!(waiting.await.unwrap()[0].number, 1);
        let pausing = tokio::spawn({
            let queue = queue.clone();
            async move { queue.pause(Duration::from_hours(1)).await }
        });
        tokio::task::yield_now().await;
        queue.start_flush();
        assert!(pausing.await.unwrap());
    }
}
