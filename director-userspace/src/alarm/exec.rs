//! Hooks: programs of the operator, run for each message.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tracing::warn;

use super::{
    message::{Message, Origin, Payload, environment},
    worker::{Channel, Failure},
};
use crate::kernel::unprivileged::{Job, User, run};

/// Most hooks that run concurrently.
pub(super) const MAX_CONCURRENT: usize = 4;
/// How long a hook may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// One program. It runs once per message, in order, one at a time.
pub(super) struct Exec {
    /// The absolute path and the arguments.
    pub(super) command: Vec<String>,
    /// The user that it runs as.
    pub(super) user: String,
    /// The sender of messages.
    pub(super) origin: Arc<Origin>,
    /// Shared by all hooks.
    pub(super) slots: Arc<Semaphore>,
    /// How long it may take.
    pub(super) timeout: Duration,
}

impl Channel for Exec {
    fn name(&self) -> String {
        format!("hook {}", self.command.first().map_or("", String::as_str))
    }

    async fn deliver(&mut self, messages: &[Arc<Message>], lost: u64) -> Result<(), Failure> {
        // Fails only if the semaphore is closed, which never happens.
        let _slot = self.slots.acquire().await;
        let never = |error: &dyn std::fmt::Display| Failure::Never(error.to_string());
        // Looked up each time: the user may have changed, and messages are few.
        let user = User::find(&self.user).await.map_err(|error| never(&error))?;
        for message in messages {
            let json = Payload::new(&self.origin, message, lost).json();
            let text = message.text();
            let variables = environment(&self.origin, message, &text);
            let variables: Vec<_> =
                variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let job = Job {
                command: &self.command,
                user: &user,
                environment: &variables,
                input: json.as_bytes(),
                timeout: self.timeout,
            };
            let outcome = run(&job).await.map_err(|error| never(&error))?;
            if !outcome.status.success() {
                // Delivered: the exit status is the hook's own matter.
                warn!("alarms: {}: {}", self.name(), outcome.describe());
            }
        }
        Ok(())
    }
}
