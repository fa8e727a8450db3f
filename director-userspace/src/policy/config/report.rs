//! Where errors and warnings are collected while a file is read.

use std::{collections::HashSet, fmt};

use super::{
    error::{
        ConfigError, ConfigErrorKind as Kind, ConfigErrors, Diagnostic, MAX_REPORTED, Position,
        Warning, WarningKind,
    },
    pattern::Patterns,
    raw::Node,
};

/// The path from the document to a node. It is on the stack, and becomes text only for an error.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) => {
                if !matches!(parent, Self::Root) {
                    write!(f, "{parent}.")?;
                }
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
                if !key.is_empty() && key.len() <= 40 && key.chars().all(plain) {
                    f.write_str(key)
                } else {
                    quote(key).fmt(f)
                }
            }
        }
    }
}

/// A node and its path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) node: &'a Node<'a>,
    pub(super) path: Path<'a>,
}

/// A text of the file for an error message: in quotes, escaped, cut.
pub(super) fn quote(text: &str) -> String {
    const MAX: usize = 60;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("\"{}...\"", text[..end].escape_debug()),
        None => format!("\"{}\"", text.escape_debug()),
    }
}

/// Collects the errors and warnings of one file.
pub(super) struct Report<'a> {
    source_name: &'a str,
    text: &'a str,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
    omitted: usize,
    /// The document's regular expressions.
    pub(super) patterns: Patterns,
    /// What was reported: a node of `defaults` is read once per service, an alias's once per use.
    reported: HashSet<(Kind, Position, String)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(source_name: &'a str, text: &'a str) -> Self {
        Self {
            source_name,
            text,
            errors: Vec::new(),
            warnings: Vec::new(),
            omitted: 0,
            patterns: Patterns::default(),
            reported: HashSet::new(),
        }
    }

    /// An error about a node. `None`, to be returned in place of what the node should have become.
    pub(super) fn error<T>(
        &mut self,
        kind: Kind,
        item: &Item<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.error_at(kind, item.node.at, &item.path, message, hint)
    }

    /// An error that is reported for the first node that has it only.
    pub(super) fn error_once<T>(
        &mut self,
        kind: Kind,
        item: &Item<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        if self.errors.iter().any(|error| error.kind == kind) {
            return None;
        }
        self.error(kind, item, message, hint)
    }

    /// An error about a place that is no node: a key, or a key that is missing.
    pub(super) fn error_at<T>(
        &mut self,
        kind: Kind,
        at: Position,
        path: &Path<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        if self.is_full() {
            self.omitted += 1;
            return None;
        }
        let path = path.to_string();
        if self.reported.insert((kind, at, path.clone())) {
            self.errors.push(self.diagnostic(kind, at, path, message.into(), hint.into()));
        }
        None
    }

    /// Whether further errors are only counted, so that their texts are not needed.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_REPORTED
    }

    /// A warning about a node.
    pub(super) fn warning(
        &mut self,
        kind: WarningKind,
        item: &Item<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.warnings.len() < MAX_REPORTED {
            let path = item.path.to_string();
            let (message, hint) = (message.into(), hint.into());
            self.warnings.push(self.diagnostic(kind, item.node.at, path, message, hint));
        }
    }

    fn diagnostic<K>(
        &self,
        kind: K,
        at: Position,
        path: String,
        message: String,
        hint: String,
    ) -> Diagnostic<K> {
        let file = self.source_name.to_owned();
        Diagnostic { file, kind, position: Some(at), path, message, hint, source_line: None }
    }

    /// `value` and the warnings if there was no error, else the errors.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Warning>), ConfigErrors> {
        let lines = line_starts(self.text, self.errors.is_empty() && self.warnings.is_empty());
        self.errors.sort_by_key(|error| error.position);
        self.warnings.sort_by_key(|warning| warning.position);
        let line_of = |position: Option<Position>| {
            let line = position?.line as usize;
            let from = *lines.get(line.checked_sub(1)?)?;
            let to = lines.get(line).copied().unwrap_or(self.text.len());
            let line = self.text[from..to].trim_end();
            // A longer line is unreadable, and may have a thousand errors.
            (line.len() <= 4096).then(|| line.to_owned())
        };
        for error in &mut self.errors {
            error.source_line = line_of(error.position);
        }
        for warning in &mut self.warnings {
            warning.source_line = line_of(warning.position);
        }
        match value {
            Some(value) if self.errors.is_empty() => Ok((value, self.warnings)),
            _ => Err(ConfigErrors {
                source_name: self.source_name.to_owned(),
                errors: self.errors,
                omitted: self.omitted,
            }),
        }
    }
}

/// Byte offsets of the lines, which end as in YAML: in LF, CR or both.
fn line_starts(text: &str, unused: bool) -> Vec<usize> {
    if unused {
        return Vec::new();
    }
    let bytes = text.as_bytes();
    let ends = bytes.iter().enumerate().filter(|&(i, byte)| match byte {
        b'\n' => true,
        b'\r' => bytes.get(i + 1) != Some(&b'\n'),
        _ => false,
    });
    [0].into_iter().chain(ends.map(|(i, _)| i + 1)).collect()
}
