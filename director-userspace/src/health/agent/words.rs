//! The text of HAProxy's agent-check: words such as `up`, `75%`, `drain`, `down #disk full`.

use super::super::{AgentMode, failure::one_line};

/// What one answer says. Each part may be missing: then what was said before holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Percent, at most 100.
    pub(super) share: Option<u8>,
    /// Whether it works, `up`, or how not.
    pub(super) state: Option<State>,
    /// Whether it wants flows.
    pub(super) wish: Option<Wish>,
}

/// Whether a backend works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Down,
    Stopped,
    Fail,
}

/// Whether a backend wants flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Ready,
    Drain,
    Maint,
}

impl Words {
    /// Reads the first line of `text`. None if it has not one word that means something.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = text.trim_start().lines().next().unwrap_or_default();
        // What follows is for people.
        let line = line.split('#').next().unwrap_or_default();
        let mut words = Self::default();
        let mut known = false;
        for word in line.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()) {
            known |= words.take(&word.to_ascii_lowercase());
        }
        known.then_some(words)
    }

    /// Whether the word means something.
    fn take(&mut self, word: &str) -> bool {
        match word {
            "up" => self.state = Some(State::Up),
            "down" => self.state = Some(State::Down),
            "stopped" => self.state = Some(State::Stopped),
            "fail" | "failed" => self.state = Some(State::Fail),
            "ready" => self.wish = Some(Wish::Ready),
            "drain" => self.wish = Some(Wish::Drain),
            "maint" => self.wish = Some(Wish::Maint),
            // HAProxy knows more: `maxconn:30`.
            _ => match word.strip_suffix('%').map(str::parse::<u32>) {
                Some(Ok(percent)) => self.share = Some(percent.min(100) as u8),
                _ => return false,
            },
        }
        true
    }
}

/// The stricter of both.
pub(super) fn mode(state: State, wish: Wish) -> AgentMode {
    match (state, wish) {
        (_, Wish::Maint) => AgentMode::Maint,
        (State::Down, _) => AgentMode::Down,
        (State::Stopped, _) => AgentMode::Stopped,
        (State::Fail, _) => AgentMode::Fail,
        (State::Up, Wish::Drain) => AgentMode::Drain,
        (State::Up, Wish::Ready) => AgentMode::Up,
    }
}

/// The first line, for people.
pub(super) fn shown(text: &str) -> String {
    one_line(text.trim_start().lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxys_words_are_read() {
        let words = |share, state, wish| Some(Words { share, state, wish });
        for (text, wanted) in [
            ("75%\n", words(Some(75), None, None)),
            ("up 50%\r\n", words(Some(50), Some(State::Up), None)),
            ("drain", words(None, None, Some(Wish::Drain))),
            ("UP,READY,100%", words(Some(100), Some(State::Up), Some(Wish::Ready))),
            ("  \n 0% ready\n50%\n", words(Some(0), None, Some(Wish::Ready))),
            ("down #disk is 90% full", words(None, Some(State::Down), None)),
            ("stopped", words(None, Some(State::Stopped), None)),
            ("fail#x", words(None, Some(State::Fail), None)),
            ("failed", words(None, Some(State::Fail), None)),
            ("maint maxconn:30", words(None, None, Some(Wish::Maint))),
            ("250%", words(Some(100), None, None)),
            ("up\tdown", words(None, Some(State::Down), None)),
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
    fn the_stricter_word_decides() {
        assert_eq!(mode(State::Up, Wish::Ready), AgentMode::Up);
        assert_eq!(mode(State::Up, Wish::Drain), AgentMode::Drain);
        assert_eq!(mode(State::Down, Wish::Drain), AgentMode::Down);
        assert_eq!(mode(State::Fail, Wish::Maint), AgentMode::Maint);
    }
}
