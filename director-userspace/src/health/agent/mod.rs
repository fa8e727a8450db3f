//! Agents: programs that report a backend's load.

mod share;
mod words;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::io::AsyncReadExt as _;

use self::{
    share::Share,
    words::{AdminState, OperState, Words, mode},
};
use super::{
    AgentMode, AgentReport, AgentTarget,
    events::{QueueEntry, lock},
    failure::Failure,
    probe::{Common, Destination, Stage, exec::Program, http::HttpCheck, within},
    socket,
};
use crate::policy::config::model::{Agent, AgentSource};

/// Longest line that is read, bytes.
const MAX_LINE: usize = 1024;

/// An agent, prepared once for all its targets.
pub(super) enum PreparedAgent {
    Line,
    Header(HttpCheck, String),
    Exec(Program),
}

impl PreparedAgent {
    pub(super) fn new(agent: &Agent) -> Self {
        match &agent.source {
            AgentSource::Agent { .. } => Self::Line,
            AgentSource::Http { path, header, .. } => {
                Self::Header(HttpCheck::get(path), header.clone())
            }
            AgentSource::Exec(probe) => Self::Exec(Program::new(probe)),
        }
    }

    /// The agent's answer. Ends at the timeout at the latest.
    pub(super) async fn query(
        &self,
        target: &AgentTarget,
        common: &Arc<Common>,
    ) -> Result<String, Failure> {
        let limit = target.agent.timeout;
        let to = Destination { address: target.address, port: target.port, mark: None };
        if let Self::Exec(program) = self {
            return program.check(to, limit).await;
        }
        within(limit, async |stage| match self {
            Self::Line => read_line(to, stage).await,
            Self::Header(check, name) => Box::pin(check.header(to, common, stage, name)).await,
            Self::Exec(_) => unreachable!("handled above"),
        })
        .await
    }
}

/// Connects, and reads to the end of the first line that is not empty.
async fn read_line(to: Destination, stage: &Stage) -> Result<String, Failure> {
    let address = to.socket()?;
    stage.enter(Stage::CONNECT);
    let mut stream = socket::connect(address, to.mark).await?;
    stage.enter(Stage::ANSWER);
    let mut text = Vec::new();
    let mut buffer = [0; 256];
    loop {
        let length = stream.read(&mut buffer).await?;
        text.extend_from_slice(&buffer[..length]);
        let line = text.trim_ascii_start();
        if length == 0 || line.contains(&b'\n') {
            break;
        }
        if text.len() > MAX_LINE {
            return Err(Failure::backend(format!("sent no end of line in {MAX_LINE} bytes")));
        }
    }
    if text.trim_ascii().is_empty() {
        return Err(Failure::backend("closed the connection without an answer"));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// An agent and its state.
pub(super) struct AgentCell {
    pub(super) target: Arc<AgentTarget>,
    pub(super) queue_entry: QueueEntry,
    state: Mutex<AgentState>,
    queried: AtomicBool,
}

struct AgentState {
    share: Share,
    oper: OperState,
    admin: AdminState,
    report: AgentReport,
}

impl AgentCell {
    pub(super) fn new(target: Arc<AgentTarget>) -> Self {
        let report = AgentReport {
            share: None,
            reported: None,
            mode: AgentMode::Up,
            text: String::new(),
            failed: None,
            last_answer: None,
        };
        let state = AgentState {
            share: Share::default(),
            oper: OperState::Up,
            admin: AdminState::Ready,
            report,
        };
        Self {
            target,
            queue_entry: QueueEntry::default(),
            state: Mutex::new(state),
            queried: AtomicBool::new(false),
        }
    }

    pub(super) fn report(&self) -> AgentReport {
        lock(&self.state).report.clone()
    }

    /// Whether a query has ended.
    pub(super) fn is_queried(&self) -> bool {
        self.queried.load(Ordering::Relaxed)
    }

    /// Evaluates an answer. Returns whether to emit an event.
    pub(super) fn record(&self, answer: Result<String, Failure>) -> bool {
        let changed = lock(&self.state).record(&self.target.agent, answer, SystemTime::now());
        !self.queried.swap(true, Ordering::Relaxed) || changed
    }
}

impl AgentState {
    fn record(&mut self, agent: &Agent, answer: Result<String, Failure>, now: SystemTime) -> bool {
        let before = (self.report.share, self.report.mode, self.report.failed.clone());
        let words = answer.and_then(|text| match Words::parse(&text) {
            Some(words) => Ok((words, text)),
            None => {
                Err(Failure::Backend(format!("not an agent's answer: {:?}", words::shown(&text))))
            }
        });
        match words {
            Ok((words, text)) => {
                self.oper = words.oper.unwrap_or(self.oper);
                self.admin = words.admin.unwrap_or(self.admin);
                if let Some(percent) = words.share {
                    self.share.report(percent, agent);
                }
                self.report = AgentReport {
                    share: self.share.percent(agent.min),
                    reported: words.share.or(self.report.reported),
                    mode: mode(self.oper, self.admin),
                    text: words::shown(&text),
                    failed: None,
                    last_answer: Some(now),
                };
            }
            Err(Failure::Backend(reason) | Failure::Host(reason)) => {
                self.report.failed = Some(reason);
            }
        }
        before != (self.report.share, self.report.mode, self.report.failed.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::model::Percent;

    fn cell() -> AgentCell {
        let agent = Agent {
            source: AgentSource::Agent { port: 1.try_into().unwrap() },
            interval: std::time::Duration::from_secs(1),
            timeout: std::time::Duration::from_secs(1),
            min: Percent(0),
            smoothing: Percent(80),
        };
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let target = AgentTarget { agent: Arc::new(agent), address, port: Some(1) };
        AgentCell::new(Arc::new(target))
    }

    /// Records an answer, and shows (whether an event is emitted, share, mode, failed).
    fn record(cell: &AgentCell, text: &str) -> (bool, Option<u8>, AgentMode, Option<String>) {
        let changed = cell.record(Ok(text.to_owned()));
        let report = cell.report();
        (changed, report.share, report.mode, report.failed)
    }

    #[test]
    fn parts_missing_from_an_answer_keep_their_last_value() {
        let cell = cell();
        assert_eq!(record(&cell, "100%"), (true, Some(100), AgentMode::Up, None));
        assert_eq!(record(&cell, "100%"), (false, Some(100), AgentMode::Up, None));
        assert_eq!(record(&cell, "drain"), (true, Some(100), AgentMode::Drain, None));
        assert_eq!(record(&cell, "down #oops"), (true, Some(100), AgentMode::Down, None));
        assert_eq!(cell.report().text, "down #oops");
        assert_eq!(record(&cell, "up"), (true, Some(100), AgentMode::Drain, None));
        assert_eq!(record(&cell, "ready 25%"), (true, Some(40), AgentMode::Up, None));
        assert_eq!(record(&cell, "25%"), (true, Some(25), AgentMode::Up, None));
    }

    #[test]
    fn a_failed_query_keeps_the_last_report_and_is_reported() {
        let cell = cell();
        record(&cell, "30% drain");
        assert!(cell.record(Err(Failure::backend("connection refused"))));
        assert!(!cell.record(Err(Failure::backend("connection refused"))), "one event");
        let report = cell.report();
        assert_eq!((report.share, report.mode), (Some(30), AgentMode::Drain));
        assert_eq!(report.failed.as_deref(), Some("connection refused"));
        let garbage = record(&cell, "<html>\u{1b}[2J</html>");
        assert_eq!(garbage.3.as_deref(), Some("not an agent's answer: \"<html>?[2J</html>\""));
        assert_eq!((garbage.1, garbage.2), (Some(30), AgentMode::Drain));
        assert_eq!(record(&cell, "30%"), (true, Some(30), AgentMode::Drain, None));
    }
}
