//! The text of HAProxy's agent-check: words such as `up`, `75%`, `drain`, `down #disk full`.

use super::super::{AgentMode, failure::one_line};

/// One parsed answer. A missing part keeps its last value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Percent, at most 100.
    pub(super) share: Option<u8>,
    /// The operational state.
    pub(super) oper: Option<OperState>,
    /// The administrative state.
    pub(super) admin: Option<AdminState>,
}

/// The operational state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OperState {
    Up,
    Down,
    Stopped,
    Fail,
}

/// The administrative state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminState {
    Ready,
    Drain,
    Maint,
}

impl Words {
    /// Parses the first line of `text`. None if it has no known word.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = text.trim_start().lines().next().unwrap_or_default();
        // The rest is a comment.
        let line = line.split('#').next().unwrap_or_default();
        let mut words = Self::default();
        let mut known = false;
        for word in line.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()) {
            known |= words.take(&word.to_ascii_lowercase());
        }
        known.then_some(words)
    }

    /// Applies a word. Returns whether it is known.
    fn take(&mut self, word: &str) -> bool {
        match word {
            "up" => self.oper = Some(OperState::Up),
            "down" => self.oper = Some(OperState::Down),
            "stopped" => self.oper = Some(OperState::Stopped),
            "fail" | "failed" => self.oper = Some(OperState::Fail),
            "ready" => self.admin = Some(AdminState::Ready),
            "drain" => self.admin = Some(AdminState::Drain),
            "maint" => self.admin = Some(AdminState::Maint),
            // HAProxy has more words: `maxconn:30`.
            _ => match word.strip_suffix('%').map(str::parse::<u32>) {
                Some(Ok(percent)) => self.share = Some(percent.min(100) as u8),
                _ => return false,
            },
        }
        true
    }
}

/// The stricter of the two states.
pub(super) fn mode(oper: OperState, admin: AdminState) -> AgentMode {
    match (oper, admin) {
        (_, AdminState::Maint) => AgentMode::Maint,
        (OperState::Down, _) => AgentMode::Down,
        (OperState::Stopped, _) => AgentMode::Stopped,
        (OperState::Fail, _) => AgentMode::Fail,
        (OperState::Up, AdminState::Drain) => AgentMode::Drain,
        (OperState::Up, AdminState::Ready) => AgentMode::Up,
    }
}

/// The first line, for display.
pub(super) fn shown(text: &str) -> String {
    one_line(text.trim_start().lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxys_words_are_read() {
        let words = |share, oper, admin| Some(Words { share, oper, admin });
        for (text, wanted) in [
            ("75%\n", words(Some(75), None, None)),
            ("up 50%\r\n", words(Some(50), Some(OperState::Up), None)),
            ("drain", words(None, None, Some(AdminState::Drain))),
            ("UP,READY,100%", words(Some(100), Some(OperState::Up), Some(AdminState::Ready))),
            ("  \n 0% ready\n50%\n", words(Some(0), None, Some(AdminState::Ready))),
            ("down #disk is 90% full", words(None, Some(OperState::Down), None)),
            ("stopped", words(None, Some(OperState::Stopped), None)),
            ("fail#x", words(None, Some(OperState::Fail), None)),
            ("failed", words(None, Some(OperState::Fail), None)),
            ("maint maxconn:30", words(None, None, Some(AdminState::Maint))),
            ("250%", words(Some(100), None, None)),
            ("up\tdown", words(None, Some(OperState::Down), None)),
            ("maxconn:30", None),
            ("", None),
            ("# up", None),
            ("-5%", None),
            ("5 %", None),
            ("99999999999999%", None),
            ("<html>up</html>", None),
            ("\u{0}\u{1}\u{2}", None),
        ] {
            assert_eq!(Words::parse(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn the_stricter_state_decides() {
        assert_eq!(mode(OperState::Up, AdminState::Ready), AgentMode::Up);
        assert_eq!(mode(OperState::Up, AdminState::Drain), AgentMode::Drain);
        assert_eq!(mode(OperState::Down, AdminState::Drain), AgentMode::Down);
        assert_eq!(mode(OperState::Fail, AdminState::Maint), AgentMode::Maint);
    }
}
