//! A regular expression that an answer must match: compiled at its first use, on the probes' thread,
//! and once however many checks have it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use regex::bytes::Regex;

use crate::{
    health::failure::{Failure, one_line},
    policy::config::pattern,
};

/// Expressions that some check has.
static COMPILED: Mutex<Option<Compiled>> = Mutex::new(None);

#[derive(Default)]
struct Compiled {
    by_text: HashMap<String, Weak<Regex>>,
    /// From this number on, those that no check has any more are removed.
    prune_at: usize,
}

/// An expression on bytes.
pub(super) struct Expression {
    text: String,
    compiled: OnceLock<Result<Arc<Regex>, Failure>>,
}

impl Expression {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), compiled: OnceLock::new() }
    }

    /// Whether it matches somewhere in `bytes`.
    pub(super) fn is_match(&self, bytes: &[u8]) -> Result<bool, Failure> {
        let compiled = self.compiled.get_or_init(|| compile(&self.text)).as_ref();
        let compiled = compiled.map_err(Clone::clone)?;
        // A clone has a cache of its own, which may grow to a mebibyte, and is freed with it.
        Ok(Regex::clone(compiled).is_match(bytes))
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

fn compile(text: &str) -> Result<Arc<Regex>, Failure> {
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = compiled.get_or_insert_default();
    if let Some(known) = compiled.by_text.get(text).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let new = pattern::compile(text).map_err(|error| {
        let error = one_line(&error.to_string());
        Failure::host(format!("not probed: {text:?} is not a regular expression: {error}"))
    })?;
    let new = Arc::new(new);
    if compiled.by_text.len() >= compiled.prune_at {
        compiled.by_text.retain(|_, known| known.strong_count() > 0);
        compiled.prune_at = 64.max(2 * compiled.by_text.len());
    }
    compiled.by_text.insert(text.to_owned(), Arc::downgrade(&new));
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_expressions_are_compiled_once() {
        let all: Vec<Expression> = (0..100).map(|_| Expression::new(r"^o(k|ops-1)$")).collect();
        for one in &all {
            assert_eq!(one.is_match(b"ok").ok(), Some(true));
            assert_eq!(one.is_match(b"not ok").ok(), Some(false));
        }
        let Some(Ok(first)) = all[0].compiled.get() else { panic!("it was compiled") };
        assert_eq!(Arc::strong_count(first), all.len());
        for n in 0..1000 {
            assert_eq!(Expression::new(&format!("gone-{n}")).is_match(b"").ok(), Some(false));
        }
        let known = COMPILED.lock().expect("not poisoned");
        assert!(known.as_ref().expect("used").by_text.len() < 500, "unused ones are removed");
    }
}
