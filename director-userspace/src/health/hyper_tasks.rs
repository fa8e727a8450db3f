//! What an HTTP conversation does beside the one who waits for its answer.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use super::events::lock;

/// How long a connection may take to notice that it is broken, once a request has failed by that.
const MOMENT: Duration = Duration::from_millis(20);

/// The tasks of one conversation. They end with it, whatever state they are in, so that no peer
/// can keep one alive.
#[derive(Default)]
pub(super) struct Tasks {
    running: Arc<Mutex<JoinSet<()>>>,
    broken: Option<oneshot::Receiver<hyper::Error>>,
}

impl Tasks {
    /// Keeps a connection going.
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

    /// Why there is no answer: what broke the connection, if something did, tells more than
    /// `error`, with which the request ended.
    pub(super) async fn cause(&mut self, error: hyper::Error) -> hyper::Error {
        let Some(broken) = self.broken.take() else { return error };
        match timeout(MOMENT, broken).await {
            Ok(Ok(cause)) => cause,
            _ => error,
        }
    }

    /// Where the conversation itself can put more. Holds nothing: tasks have it too.
    pub(super) fn executor(&self) -> TaskExecutor {
        TaskExecutor(Arc::downgrade(&self.running))
    }

    /// Waits for all to end by themselves.
    pub(super) async fn join(self) {
        let mut tasks = std::mem::take(&mut *lock(&self.running));
        while tasks.join_next().await.is_some() {}
    }
}

/// Puts tasks into [`Tasks`].
#[derive(Clone)]
pub(super) struct TaskExecutor(Weak<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        // Without them the conversation has ended.
        if let Some(tasks) = self.0.upgrade() {
            lock(&tasks).spawn(async {
                task.await;
            });
        }
    }
}
