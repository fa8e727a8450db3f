//! Checks that run a program on this host.

use std::time::Duration;

use tokio::sync::OnceCell;

use super::{
    super::failure::{Failure, one_line, shown},
    Destination,
};
use crate::{
    kernel::unprivileged::{self, Job, RunError, User},
    policy::config::model::ExecProbe,
};

pub(in super::super) struct Program {
    probe: ExecProbe,
    /// Looked up before the first run, and again until that succeeds.
    user: OnceCell<User>,
}

impl Program {
    pub(in super::super) fn new(probe: &ExecProbe) -> Self {
        Self { probe: probe.clone(), user: OnceCell::new() }
    }

    /// Runs the program. Returns its standard output if it exits with status 0.
    pub(in super::super) async fn check(
        &self,
        to: Destination,
        timeout: Duration,
    ) -> Result<String, Failure> {
        let user = self
            .user
            .get_or_try_init(|| User::find(&self.probe.user))
            .await
            .map_err(|error| not_run(&error.to_string()))?;
        let address = to.address.to_string();
        let port = to.port.map(|port| port.to_string()).unwrap_or_default();
        let environment =
            [("DIRECTOR_ADDRESS", address.as_str()), ("DIRECTOR_PORT", port.as_str())];
        let command = &self.probe.command;
        let job = Job { command, user, environment: &environment, input: b"", timeout };
        match unprivileged::run(&job).await {
            Ok(outcome) if outcome.status.success() => {
                Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
            }
            Ok(outcome) => Err(Failure::Backend(one_line(&describe(&outcome)))),
            Err(RunError::TimedOut { .. }) => Err(Failure::backend(format!(
                "did not end within {}, and was killed",
                shown(timeout)
            ))),
            // A program that is missing on this host says nothing about the backend.
            Err(error @ (RunError::Relative { .. } | RunError::Start { .. })) => {
                Err(not_run(&error.to_string()))
            }
        }
    }
}

fn not_run(why: &str) -> Failure {
    Failure::Host(one_line(&format!("not probed: {why}")))
}

/// How the program ended, and its last line on standard error, or else on standard output.
fn describe(outcome: &unprivileged::Outcome) -> String {
    let described = outcome.describe();
    if described.contains(':') {
        return described;
    }
    let printed = String::from_utf8_lossy(&outcome.stdout);
    match printed.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => format!("{described}: {line}"),
        None => described,
    }
}
