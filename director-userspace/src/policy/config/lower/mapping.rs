//! Mappings with known keys, and the nearest name for one that isn't.

use std::collections::HashSet;

use crate::policy::config::{
    error::ConfigErrorKind as Kind,
    raw::{Key, Node, Value},
    report::{Item, Path, Report, quote},
};

/// The keys of one kind of mapping.
pub(super) struct Keys {
    /// What this version reads.
    pub(super) known: &'static [&'static str],
    /// What a later version may read, with what this one does instead.
    pub(super) unsupported: &'static [(&'static str, &'static str)],
}

/// A mapping whose keys have been checked.
#[derive(Clone, Copy)]
pub(super) struct Mapping<'a> {
    entries: &'a [(Key<'a>, Node<'a>)],
    item: &'a Item<'a>,
}

impl<'a> Mapping<'a> {
    /// Reads `item` as a mapping, with `what` as its name in errors.
    pub(super) fn open(
        item: &'a Item<'a>,
        what: &str,
        keys: &Keys,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let Value::Map(entries) = untagged(item, report) else {
            let found = describe(item.node);
            let example = keys.known.first().unwrap_or(&"key");
            let message = format!("expected {what} (a mapping), found {found}");
            let hint = format!("write `{example}: ...`; the keys are {}", list(keys.known));
            return report.error(Kind::WrongType, item, message, hint);
        };
        let mapping = Self { entries, item };
        mapping.check_keys(what, keys, report);
        Some(mapping)
    }

    fn check_keys(&self, what: &str, keys: &Keys, report: &mut Report<'_>) {
        // A few keys are compared pairwise; hashing would take longer.
        let is_small = self.entries.len() <= 16;
        let mut seen = HashSet::new();
        for (at, (key, _)) in self.entries.iter().enumerate() {
            let Some(text) = key.text.as_deref() else {
                let hint = format!("the keys of {what} are {}", list(keys.known));
                let message = "a key must be a plain word";
                report.error_at::<()>(Kind::WrongType, key.at, &self.item.path, message, hint);
                continue;
            };
            let path = Path::Key(&self.item.path, text);
            let is_there = if is_small { self.has_before(at, text) } else { !seen.insert(text) };
            if is_there {
                let message = format!("the key {} is here twice", quote(text));
                let hint = "remove one of the two";
                report.error_at::<()>(Kind::DuplicateKey, key.at, &path, message, hint);
            } else if let Some((_, instead)) = keys.unsupported.iter().find(|(k, _)| *k == text) {
                let message = format!("{text} is not supported yet (this version {instead})");
                let hint = format!("remove the key; those of {what} are {}", list(keys.known));
                report.error_at::<()>(Kind::UnsupportedKey, key.at, &path, message, hint);
            } else if !keys.known.contains(&text) {
                let message = format!("{} is no key of {what}", quote(text));
                let every = keys.known.iter().chain(keys.unsupported.iter().map(|(k, _)| k));
                let near = if report.is_full() { None } else { nearest(text, every.copied()) };
                let hint = match near {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("the keys of {what} are {}", list(keys.known)),
                };
                report.error_at::<()>(Kind::UnknownKey, key.at, &path, message, hint);
            }
        }
    }

    /// Whether a key occurs before the entry at `at`.
    fn has_before(&self, at: usize, text: &str) -> bool {
        self.entries[..at].iter().any(|(key, _)| key.text.as_deref() == Some(text))
    }

    /// The value of a key; of the first one, if it is there twice.
    pub(super) fn get(&self, key: &'a str) -> Option<Item<'a>> {
        let (_, node) = self.entries.iter().find(|(k, _)| k.text.as_deref() == Some(key))?;
        Some(Item { node, path: Path::Key(&self.item.path, key) })
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.has_before(self.entries.len(), key)
    }

    /// The value of a key, read by `read`; `Some(None)` if the key is missing.
    pub(super) fn optional<'r, T>(
        &self,
        key: &'a str,
        report: &mut Report<'r>,
        read: impl FnOnce(&Item<'_>, &mut Report<'r>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.get(key) {
            Some(item) => read(&item, report).map(Some),
            None => Some(None),
        }
    }

    /// Reports known keys that are not in `allowed`, the keys of `what`.
    pub(super) fn check_allowed(
        &self,
        what: &str,
        keys: &Keys,
        allowed: &[&str],
        report: &mut Report<'_>,
    ) {
        for (key, _) in self.entries {
            let Some(text) = key.text.as_deref() else { continue };
            if keys.known.contains(&text) && !allowed.contains(&text) {
                let path = Path::Key(&self.item.path, text);
                let message = format!("{text} is no key of {what}");
                let hint = format!("remove it; the keys of {what} are {}", list(allowed));
                report.error_at::<()>(Kind::MisplacedKey, key.at, &path, message, hint);
            }
        }
    }

    /// Reports that a key is missing. `hint` says what to write.
    pub(super) fn missing<T>(&self, key: &str, hint: &str, report: &mut Report<'_>) -> Option<T> {
        let path = Path::Key(&self.item.path, key);
        let message = format!("the key {key} is missing");
        report.error_at(Kind::MissingKey, self.item.node.at, &path, message, hint)
    }

    /// The value of a key that must be there.
    pub(super) fn require(
        &self,
        key: &'a str,
        hint: &str,
        report: &mut Report<'_>,
    ) -> Option<Item<'a>> {
        self.get(key).or_else(|| self.missing(key, hint, report))
    }
}

/// The items of a list.
pub(super) fn items<'a>(
    item: &'a Item<'a>,
    hint: &str,
    report: &mut Report<'_>,
) -> Option<impl ExactSizeIterator<Item = Item<'a>> + use<'a>> {
    let Value::Seq(nodes) = untagged(item, report) else {
        let message = format!("expected a list, found {}", describe(item.node));
        return report.error(Kind::WrongType, item, message, hint);
    };
    let path = &item.path;
    Some(nodes.iter().enumerate().map(|(i, node)| Item { node, path: Path::Index(path, i) }))
}

/// The entries of a mapping with free keys, in file order. A key that is no plain word is reported.
pub(super) fn entries<'a>(
    item: &'a Item<'a>,
    hint: &str,
    report: &mut Report<'_>,
) -> Option<Vec<(&'a str, Item<'a>)>> {
    let Value::Map(entries) = untagged(item, report) else {
        let message = format!("expected a mapping, found {}", describe(item.node));
        return report.error(Kind::WrongType, item, message, hint);
    };
    let mut found = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let Some(text) = key.text.as_deref() else {
            let message = "a key must be a plain word";
            return report.error_at(Kind::WrongType, key.at, &item.path, message, hint);
        };
        found.push((text, Item { node, path: Path::Key(&item.path, text) }));
    }
    Some(found)
}

/// The value of a node, and an error if it has a tag.
pub(super) fn untagged<'a>(item: &Item<'a>, report: &mut Report<'_>) -> &'a Value<'a> {
    if item.node.tagged {
        let hint = "remove the word that starts with `!`; the key determines the type of its value";
        report.error::<()>(Kind::Tag, item, "a YAML tag has no meaning here", hint);
    }
    &item.node.value
}

/// What a node is, for an error.
pub(super) fn describe(node: &Node<'_>) -> String {
    match &node.value {
        Value::Null => "nothing".to_owned(),
        Value::Scalar(text) => quote(text),
        Value::Seq(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

/// `a, b, c`
pub(super) fn list(words: &[&str]) -> String {
    words.join(", ")
}

/// The word that `text` was probably meant to be.
pub(super) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    const LONGEST: usize = 40;
    if text.len() > LONGEST {
        return None;
    }
    let text = text.to_lowercase().replace('-', "_");
    let distance = |word: &str| strsim::damerau_levenshtein(&text, &word.replace('-', "_"));
    let (distance, word) = words.map(|word| (distance(word), word)).min()?;
    // A third of the letters may be wrong; beyond that it is a guess.
    (distance * 3 <= word.len().max(3)).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word_is_near() {
        let keys = ["address", "weight", "mac", "when_empty"];
        for (text, near) in [
            ("adress", Some("address")),
            ("Weight", Some("weight")),
            ("when-empty", Some("when_empty")),
            ("mca", Some("mac")),
            ("x", None),
            ("gateway", None),
        ] {
            assert_eq!(nearest(text, keys.into_iter()), near, "{text}");
        }
    }
}
