//! Regular expressions of the configuration, compiled by one function, so that an expression that
//! was valid when the file was read compiles again where it is used; and what all of a document's
//! may take together.

use std::collections::HashMap;

use regex::bytes::{Regex, RegexBuilder};

/// Longest expression, in bytes.
pub const MAX_PATTERN: usize = 4096;
/// Most memory that a compiled expression may take, in bytes; its matcher may take as much again.
const MAX_COMPILED: usize = 1 << 20;
/// Most memory that all expressions of a document may take together, in bytes, by their classes.
pub const MAX_COMPILED_IN_ALL: usize = 32 << 20;
/// Compiled sizes that are told apart: an expression counts as the first that it does not exceed.
const CLASSES: [usize; 4] = [8 << 10, 64 << 10, 256 << 10, MAX_COMPILED];
/// A byte of an expression counts as at least so many: malformed ones take time, too.
const PER_BYTE: usize = 64;

/// Compiles an expression that matches bytes, in time linear in their number.
///
/// # Errors
/// The expression is malformed, or would take more memory than allowed.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    if pattern.len() > MAX_PATTERN {
        return Err(regex::Error::CompiledTooBig(MAX_PATTERN));
    }
    compile_within(pattern, MAX_COMPILED)
}

fn compile_within(pattern: &str, bytes: usize) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(bytes).dfa_size_limit(MAX_COMPILED).build()
}

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadPattern {
    /// It alone is too large, or malformed; the rest of a sentence that begins with it.
    Itself(String),
    /// Those of the document before it, and it, take more than [`MAX_COMPILED_IN_ALL`].
    TooManyInAll,
}

/// The expressions of a document. Each is compiled once.
#[derive(Debug)]
pub(super) struct Patterns {
    known: HashMap<String, Result<(), BadPattern>>,
    /// Bytes that further ones may take.
    left: usize,
}

impl Default for Patterns {
    fn default() -> Self {
        Self { known: HashMap::new(), left: MAX_COMPILED_IN_ALL }
    }
}

impl Patterns {
    /// Checks an expression.
    pub(super) fn check(&mut self, pattern: &str) -> Result<(), BadPattern> {
        if let Some(known) = self.known.get(pattern) {
            return known.clone();
        }
        let checked = self.check_new(pattern);
        self.known.insert(pattern.to_owned(), checked.clone());
        checked
    }

    fn check_new(&mut self, pattern: &str) -> Result<(), BadPattern> {
        let too_large = || BadPattern::Itself("is too large once compiled".to_owned());
        if pattern.len() > MAX_PATTERN {
            return Err(too_large());
        }
        let least = pattern.len() * PER_BYTE;
        if self.left < least.max(CLASSES[0]) {
            return Err(BadPattern::TooManyInAll);
        }
        for class in CLASSES.into_iter().filter(|class| *class >= least) {
            if class > self.left {
                return Err(BadPattern::TooManyInAll);
            }
            match compile_within(pattern, class) {
                Ok(_) => {
                    self.left -= class;
                    return Ok(());
                }
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(error) => {
                    self.left -= least.max(CLASSES[0]);
                    let error = error.to_string();
                    let reason = error.lines().last().unwrap_or("").trim_start_matches("error: ");
                    return Err(BadPattern::Itself(format!("is malformed: {reason}")));
                }
            }
        }
        // It took as much time as one that is not too large.
        self.left -= MAX_COMPILED;
        Err(too_large())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_counted_by_what_they_take() {
        let mut patterns = Patterns::default();
        for _ in 0..100_000 {
            assert_eq!(patterns.check(r"^HTTP/\d ok$"), Ok(()), "the same again");
        }
        assert!(patterns.left >= MAX_COMPILED_IN_ALL - CLASSES[1], "{}", patterns.left);
        let ordinary = (0..2_000).map(|n| format!("\"status\": ?\"ok-{n}\""));
        for pattern in ordinary {
            assert_eq!(patterns.check(&pattern), Ok(()), "{pattern}, {} left", patterns.left);
        }
        for (kind, make) in [
            ("large", (|n| format!(r"\w{{18}}x{n}")) as fn(usize) -> String),
            ("too large", |n| format!(r"\w{{400}}x{n}")),
            ("malformed", |n| format!("({}{n}", "a".repeat(4_000))),
            ("nested", |n| format!("{}{n}", r"[\w&&[^\d--\W]]".repeat(200))),
        ] {
            let mut patterns = Patterns { left: 4 * MAX_COMPILED, ..Patterns::default() };
            let last = (0..5_000).map(|n| patterns.check(&make(n))).last();
            assert_eq!(last, Some(Err(BadPattern::TooManyInAll)), "{kind}");
        }
    }
}
