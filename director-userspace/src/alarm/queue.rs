//! What waits for one channel: bounded; the oldest goes, and is counted.

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
    news: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<Arc<Message>>,
    lost: u64,
}

/// What somebody may wait for.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Messages that wait or are being delivered.
    outstanding: usize,
    /// Whether the daemon is about to end: nobody rests.
    hurry: bool,
}

impl Queue {
    /// For at most `capacity` messages.
    pub(super) fn new(capacity: usize) -> Self {
        let inner = Mutex::new(Inner::default());
        Self { capacity, inner, news: watch::Sender::new(State::default()) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // What is inside is whole between any two statements.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message at the end. If that is one too many, the oldest is lost.
    pub(super) fn push(&self, message: Arc<Message>) {
        let mut inner = self.inner();
        inner.messages.push_back(message);
        if inner.messages.len() > self.capacity {
            inner.messages.pop_front();
            inner.lost += 1;
        } else {
            self.news.send_modify(|state| state.outstanding += 1);
        }
    }

    /// Up to `most` messages from the front; at least one, which is waited for. They are outstanding
    /// until [`settle`](Self::settle).
    pub(super) async fn next(&self, most: usize) -> Vec<Arc<Message>> {
        let mut news = self.news.subscribe();
        loop {
            let taken = self.take(most);
            if !taken.is_empty() {
                return taken;
            }
            // It fails only if the sender is gone, which is ours.
            let _ = news.changed().await;
        }
    }

    /// Up to `most` messages from the front, none if there are none.
    pub(super) fn take(&self, most: usize) -> Vec<Arc<Message>> {
        let mut inner = self.inner();
        let n = most.min(inner.messages.len());
        inner.messages.drain(..n).collect()
    }

    /// Messages lost since somebody was told.
    pub(super) fn lost(&self) -> u64 {
        self.inner().lost
    }

    /// `n` messages that were taken need nothing more: they were delivered, and with them the number
    /// `told` of those lost before; or they are `lost` too.
    pub(super) fn settle(&self, n: usize, told: u64, lost: u64) {
        let mut inner = self.inner();
        inner.lost = inner.lost.saturating_sub(told) + lost;
        self.news.send_modify(|state| state.outstanding = state.outstanding.saturating_sub(n));
    }

    /// From now on nobody rests.
    pub(super) fn hurry(&self) {
        self.news.send_modify(|state| state.hurry = true);
    }

    /// Rests for `time`, or until there is a hurry. Whether there is.
    pub(super) async fn rest(&self, time: Duration) -> bool {
        let mut news = self.news.subscribe();
        tokio::select! {
            () = sleep(time) => {}
            _ = news.wait_for(|state| state.hurry) => {}
        }
        self.news.borrow().hurry
    }

    /// Waits until nothing is outstanding.
    pub(super) async fn settled(&self) {
        let _ = self.news.subscribe().wait_for(|state| state.outstanding == 0).await;
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
    async fn the_oldest_goes_and_is_counted_until_told() {
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
        queue.settle(2, 7, 0);
        assert_eq!(queue.lost(), 1);
        assert_eq!(queue.next(9).await.len(), 3);
        queue.settle(3, 0, 3);
        assert_eq!(queue.lost(), 4, "those that were given up count too");
        queue.settled().await;
    }

    #[tokio::test]
    async fn one_waits_for_news_and_rests_until_there_is_a_hurry() {
        let queue = Arc::new(Queue::new(3));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next(1).await }
        });
        tokio::task::yield_now().await;
        queue.push(message(1));
        assert_eq!(waiting.await.unwrap()[0].number, 1);
        let resting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.rest(Duration::from_hours(1)).await }
        });
        tokio::task::yield_now().await;
        queue.hurry();
        assert!(resting.await.unwrap());
    }
}
