//! Agents: who tell a backend's load.

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
    words::{State, Wish, Words, mode},
};
use super::{
    AgentMode, AgentReport, AgentTarget,
    events::{Place, lock},
    failure::Failure,
    probe::{Common, Destination, Stage, exec::Program, http::Ask, within},
    socket,
};
use crate::policy::config::model::{Agent, AgentSource};

/// Longest line that is read. Bytes.
const LINE: usize = 1024;

/// An agent, made ready once for all its targets.
pub(super) enum PreparedAgent {
    Line,
    Header(Ask, String),
    Exec(Program),
}

impl PreparedAgent {
    pub(super) fn new(agent: &Agent) -> Self {
        match &agent.source {
            AgentSource::Agent { .. } => Self::Line,
            AgentSource::Http { path, header, .. } => Self::Header(Ask::get(path), header.clone()),
            AgentSource::Exec(probe) => Self::Exec(Program::new(probe)),
        }
    }

    /// Its text. Ends at the timeout at the latest.
    pub(super) async fn ask(
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
            Self::Header(ask, name) => Box::pin(ask.header(to, common, stage, name)).await,
            Self::Exec(_) => unreachable!("done above"),
        })
        .await
    }
}

/// Connects, and reads to the end of the first line that is not empty.
async fn read_line(to: Destination, stage: &Stage) -> Result<String, Failure> {
    let place = to.socket()?;
    stage.enter(Stage::CONNECT);
    let mut stream = socket::connect(place, to.mark).await?;
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
        if text.len() > LINE {
            return Err(Failure::backend(format!("sent no end of line in {LINE} bytes")));
        }
    }
    if text.trim_ascii().is_empty() {
        return Err(Failure::backend("closed the connection without a word"));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// An agent and what is known of it.
pub(super) struct AgentCell {
    pub(super) target: Arc<AgentTarget>,
    pub(super) place: Place,
    known: Mutex<Known>,
    asked: AtomicBool,
}

struct Known {
    share: Share,
    state: State,
    wish: Wish,
    report: AgentReport,
}

impl AgentCell {
    pub(super) fn new(target: Arc<AgentTarget>) -> Self {
        let report = AgentReport {
            share: None,
            said: None,
            mode: AgentMode::Up,
            text: String::new(),
            failed: None,
            last_answer: None,
        };
        let known = Known { share: Share::default(), state: State::Up, wish: Wish::Ready, report };
        Self {
            target,
            place: Place::default(),
            known: Mutex::new(known),
            asked: AtomicBool::new(false),
        }
    }

    pub(super) fn report(&self) -> AgentReport {
        lock(&self.known).report.clone()
    }

    /// Whether it has been asked.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Takes in an answer. Whether somebody should know.
    pub(super) fn record(&self, answer: Result<String, Failure>) -> bool {
        let changed = lock(&self.known).record(&self.target.agent, answer, SystemTime::now());
        !self.asked.swap(true, Ordering::Relaxed) || changed
    }
}

impl Known {
    fn record(&mut self, agent: &Agent, answer: Result<String, Failure>, now: SystemTime) -> bool {
        let before = (self.report.share, self.report.mode, self.report.failed.clone());
        let words = answer.and_then(|text| match Words::parse(&text) {
            Some(words) => Ok((words, text)),
            None => {
                Err(Failure::Backend(format!("cannot be understood: {:?}", words::shown(&text))))
            }
        });
        match words {
            Ok((words, text)) => {
                self.state = words.state.unwrap_or(self.state);
                self.wish = words.wish.unwrap_or(self.wish);
                if let Some(said) = words.share {
                    self.share.report(said, agent);
                }
                self.report = AgentReport {
                    share: self.share.percent(agent.min),
                    said: words.share.or(self.report.said),
                    mode: mode(self.state, self.wish),
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

    /// Says it, and shows (whether somebody should know, share, mode, failed).
    fn say(cell: &AgentCell, text: &str) -> (bool, Option<u8>, AgentMode, Option<String>) {
        let news = cell.record(Ok(text.to_owned()));
        let report = cell.report();
        (news, report.share, report.mode, report.failed)
    }

    #[test]
    fn what_is_not_said_again_holds() {
        let cell = cell();
        assert_eq!(say(&cell, "100%"), (true, Some(100), AgentMode::Up, None));
        assert_eq!(say(&cell, "100%"), (false, Some(100), AgentMode::Up, None));
        assert_eq!(say(&cell, "drain"), (true, Some(100), AgentMode::Drain, None));
        assert_eq!(say(&cell, "down #oops"), (true, Some(100), AgentMode::Down, None));
        assert_eq!(cell.report().text, "down #oops");
        assert_eq!(say(&cell, "up"), (true, Some(100), AgentMode::Drain, None));
        assert_eq!(say(&cell, "ready 25%"), (true, Some(40), AgentMode::Up, None));
        assert_eq!(say(&cell, "25%"), (true, Some(25), AgentMode::Up, None));
    }

    #[test]
    fn a_silent_agent_keeps_what_it_said_and_says_so() {
        let cell = cell();
        say(&cell, "30% drain");
        assert!(cell.record(Err(Failure::backend("connection refused"))));
        assert!(!cell.record(Err(Failure::backend("connection refused"))), "said once");
        let report = cell.report();
        assert_eq!((report.share, report.mode), (Some(30), AgentMode::Drain));
        assert_eq!(report.failed.as_deref(), Some("connection refused"));
        let garbage = say(&cell, "<html>\u{1b}[2J</html>");
        assert_eq!(garbage.3.as_deref(), Some("cannot be understood: \"<html>?[2J</html>\""));
        assert_eq!((garbage.1, garbage.2), (Some(30), AgentMode::Drain));
        assert_eq!(say(&cell, "30%"), (true, Some(30), AgentMode::Drain, None));
    }
}
