//! What the daemon published last: it answers questions while the daemon's loop is in a long change.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::types::History;
use crate::serve::view::Status;

/// Shared by the daemon, which sets it, and the API's server.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<Mutex<Answers>>);

#[derive(Debug, Default)]
struct Answers {
    status: Option<Arc<Status>>,
    configuration: Option<(Arc<str>, Arc<History>)>,
}

impl Published {
    /// Sets the status.
    pub fn set_status(&self, status: Arc<Status>) {
        self.answers().status = Some(status);
    }

    /// Sets the text of the configuration in effect, and the revisions.
    pub fn set_configuration(&self, text: &str, history: History) {
        self.answers().configuration = Some((text.into(), Arc::new(history)));
    }

    /// The last status.
    pub(super) fn status(&self) -> Option<Status> {
        let status = self.answers().status.clone();
        status.map(|status| Status::clone(&status))
    }

    /// The text of the configuration in effect.
    pub(super) fn text(&self) -> Option<String> {
        self.answers().configuration.as_ref().map(|(text, _)| text.to_string())
    }

    /// The revisions.
    pub(super) fn history(&self) -> Option<History> {
        let history = self.answers().configuration.as_ref().map(|(_, history)| history.clone());
        history.map(|history| History { revisions: history.revisions.clone() })
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
