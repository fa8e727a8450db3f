//! Adds up what the test binaries report.

use std::fmt;

/// Counts of tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// The names of the failed tests.
    pub(super) failures: Vec<String>,
}

impl Tally {
    /// Adds a line of output: a result (`test a::b ... FAILED`), or a binary's summary (`test
    /// result: ok. 3 passed; 0 failed; 1 ignored; ...`); any other line is ignored.
    pub(super) fn add(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.passed += count(summary, "passed");
            self.failed += count(summary, "failed");
            self.skipped += count(summary, "ignored");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    /// Whether no test was executed.
    pub(super) fn is_empty(&self) -> bool {
        self.passed + self.failed == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The number before `word`.
fn count(summary: &str, word: &str) -> u64 {
    let mut words = summary.split([' ', ';', '.']).filter(|word| !word.is_empty());
    let mut previous = "";
    words
        .find_map(|this| {
            let number = (this == word).then(|| previous.parse().ok()).flatten();
            previous = this;
            number
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_several_binaries_add_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; \
             finished in 0.00s",
            "test wire::tcp::b ... FAILED",
            "test result: FAILED. 10 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; \
             finished in 1.50s",
        ] {
            tally.add(line);
        }
        assert_eq!(tally.to_string(), "12 passed, 1 failed, 1 skipped");
        assert_eq!(tally.failures, ["wire::tcp::b"]);
        assert!(!tally.is_empty());
    }

    #[test]
    fn filtered_and_skipped_tests_are_not_executed() {
        let mut tally = Tally::default();
        tally.add("test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 9 filtered out");
        assert!(tally.is_empty());
    }
}
