//! Hooks: programs of the operator's, run with each message.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tracing::warn;

use super::{
    message::{Message, Origin, Payload, environment},
    worker::{Channel, Failure},
};
use crate::kernel::unprivileged::{Job, User, run};

/// Most hooks that run at a time.
pub(super) const AT_ONCE: usize = 4;
/// How long a hook may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// One program. Its messages come to it one after the other, in their order.
pub(super) struct Exec {
    /// Its absolute path, and its arguments.
    pub(super) command: Vec<String>,
    /// Who runs it.
    pub(super) user: String,
    /// Where messages come from.
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
        // Fails only when it is closed, which nobody does.
        let _slot = self.slots.acquire().await;
        let never = |error: &dyn std::fmt::Display| Failure::Never(error.to_string());
        // Each time: the user may be another by now, and few messages come.
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
                // It has been told; what it makes of that is its own affair.
                warn!("alarms: {}: {}", self.name(), outcome.describe());
            }
        }
        Ok(())
    }
}
