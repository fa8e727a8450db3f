//! Background tasks of an HTTP exchange.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use super::events::lock;

/// How long to wait for the connection's error after a request on it failed.
const CAUSE_TIMEOUT: Duration = Duration::from_millis(20);

/// The tasks of one exchange. They end with it in any state, so that no peer can keep one alive.
#[derive(Default)]
pub(super) struct Tasks {
    running: Arc<Mutex<JoinSet<()>>>,
    broken: Option<oneshot::Receiver<hyper::Error>>,
}

impl Tasks {
    /// Drives a connection.
    pub(super) fn connection(
        &mut self,
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) {
        let (breaks, broken) = oneshot::channel();
        self.broken = Some(broken);
        lock(&self.running).spawn(async {
            if let Err(error) = connection.await {
                let _ = breaks.send(error);
            }
        });
    }

    /// Why there is no answer: the connection's error, if there is one, is more specific than
    /// `error`, with which the request ended.
    pub(super) async fn cause(&mut self, error: hyper::Error) -> hyper::Error {
        let Some(broken) = self.broken.take() else { return error };
        match timeout(CAUSE_TIMEOUT, broken).await {
            Ok(Ok(cause)) => cause,
            _ => error,
        }
    }

    /// An executor for further tasks of the exchange. A weak reference, because the tasks hold it
    /// too.
    pub(super) fn executor(&self) -> TaskExecutor {
        TaskExecutor(Arc::downgrade(&self.running))
    }

    /// Waits for all tasks to end by themselves.
    pub(super) async fn join(self) {
        let mut tasks = std::mem::take(&mut *lock(&self.running));
        while tasks.join_next().await.is_some() {}
    }
}

/// Spawns tasks into [`Tasks`].
#[derive(Clone)]
pub(super) struct TaskExecutor(Weak<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        // If they are dropped, the exchange has ended.
        if let Some(tasks) = self.0.upgrade() {
            lock(&tasks).spawn(async {
                task.await;
            });
        }
    }
}
