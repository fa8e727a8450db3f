//! Lines of words out of files: comments, conditions, definitions and includes are resolved.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    super::{
        Options,
        error::{ImportError, ImportErrors},
        report::{Effect, Note},
        source::{self, MAX_BYTES, MAX_INCLUDED, MAX_LINE},
        table::Place,
    },
    define::Definitions,
    glob,
};

/// Includes within includes.
const MAX_DEPTH: usize = 16;
/// Lines of all files with definitions expanded.
const MAX_LINES: usize = 4 << 20;

/// A word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Between quotes: never a brace.
    pub(super) is_quoted: bool,
}

/// A line with something in it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) words: Vec<Word>,
}

/// The contents of all files.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    pub(super) notes: Vec<Note>,
}

/// Reads files.
pub(super) struct Reader<'a> {
    options: &'a Options,
    /// Where relative includes start from; none: nothing is included.
    directory: Option<PathBuf>,
    definitions: Definitions,
    lines: Vec<Line>,
    notes: Vec<Note>,
    /// Files that are being read, from the first to the innermost.
    open: Vec<PathBuf>,
    n_included: usize,
    n_bytes: usize,
    /// Conditions whose lines were skipped because it is unknown whether they hold.
    skipped: HashSet<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(options: &'a Options, directory: Option<PathBuf>) -> Self {
        Self {
            options,
            directory,
            definitions: Definitions::default(),
            lines: Vec::new(),
            notes: Vec::new(),
            open: Vec::new(),
            n_included: 0,
            n_bytes: 0,
            skipped: HashSet::new(),
        }
    }

    /// Reads everything. `path` is where `bytes` are from.
    pub(super) fn read(
        mut self,
        name: &Arc<str>,
        path: &Path,
        bytes: &[u8],
    ) -> Result<Lines, ImportErrors> {
        self.open.extend(fs::canonicalize(path).ok());
        self.file(name, bytes)?;
        Ok(Lines { lines: self.lines, notes: self.notes })
    }

    fn file(&mut self, name: &Arc<str>, bytes: &[u8]) -> Result<(), ImportError> {
        self.n_bytes = self.n_bytes.saturating_add(bytes.len());
        if self.n_bytes > MAX_BYTES && self.n_included > 0 {
            let message = format!("all files together are longer than {} MiB", MAX_BYTES >> 20);
            return Err(ImportError::of_file(name, message, "does an include match too much?"));
        }
        let text = source::text(name, bytes)?;
        let mut numbered = text.lines().zip(1u32..);
        while let Some((line, number)) = numbered.next() {
            let place = Place { file: Arc::clone(name), line: number };
            if !line.trim_start().starts_with('$') {
                self.line(&place, line)?;
                continue;
            }
            // A definition goes on after a backslash.
            let mut whole = line.to_owned();
            while whole.ends_with('\\') {
                whole.pop();
                let Some((next, _)) = numbered.next() else { break };
                whole.push('\n');
                whole.push_str(next.trim_start());
                if whole.len() > MAX_LINE {
                    let message = "a definition without an end";
                    let hint = "a backslash at the end of a line adds the next one";
                    return Err(ImportError::at(&place, message, hint));
                }
            }
            if !self.definitions.define(whole.trim_start()) {
                for line in whole.split('\n') {
                    self.line(&place, line)?;
                }
            }
        }
        Ok(())
    }

    /// One line, or more if its definitions expand to more.
    fn line(&mut self, place: &Place, line: &str) -> Result<(), ImportError> {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with(['#', '!']) {
            return Ok(());
        }
        if trimmed.starts_with('~') {
            let hint = "write the lines out; keepalived itself expands them when it starts";
            return Err(ImportError::at(place, "~SEQ and ~LST are not supported", hint));
        }
        let expanded = self.definitions.expand(line).map_err(|message| {
            ImportError::at(place, message, "does a definition contain itself?")
        })?;
        for line in expanded.split('\n') {
            let Some(line) = self.condition(place, line) else { continue };
            let words = words(place, line)?;
            match words.first().map(|word| word.text.as_str()) {
                None => {}
                Some(
                    "include" | "includer" | "includem" | "includew" | "includeb" | "includea",
                ) => {
                    self.include(place, &words[1..])?;
                }
                Some("include_check") => {}
                Some(_) => {
                    if self.lines.len() >= MAX_LINES {
                        let hint = "does a definition or an include multiply?";
                        return Err(ImportError::at(place, "too many lines", hint));
                    }
                    self.lines.push(Line { place: place.clone(), words });
                }
            }
        }
        Ok(())
    }

    /// The line without its condition (`@ID`, `@^ID`), if that holds.
    fn condition<'l>(&mut self, place: &Place, line: &'l str) -> Option<&'l str> {
        let Some(condition) = line.trim_start().strip_prefix('@') else { return Some(line) };
        let (id, rest) = condition.split_once(char::is_whitespace).unwrap_or((condition, ""));
        let (is_not, id) = id.strip_prefix('^').map_or((false, id), |id| (true, id));
        let holds = self.options.config_id.as_deref().map(|own| (own == id) != is_not);
        if holds.is_none() && self.skipped.insert(id.to_owned()) {
            self.notes.push(Note {
                place: place.clone(),
                subject: format!("lines with @{id}"),
                what: "condition",
                effect: Effect::NotCarried,
                why: "they apply to some hosts only, and the ID of this one is unknown".into(),
                instead: "pass --config-id ID, as -i ID to keepalived".into(),
            });
        }
        holds.unwrap_or(false).then_some(rest)
    }

    fn include(&mut self, place: &Place, words: &[Word]) -> Result<(), ImportError> {
        let [pattern] = words else {
            return Err(ImportError::at(place, "include names one file", "write one per line"));
        };
        let pattern = pattern.text.as_str();
        let Some(directory) = self.directory.clone() else {
            let hint = "name the file instead of reading it from standard input";
            return Err(ImportError::at(place, format!("cannot include {pattern}"), hint));
        };
        if self.open.len() >= MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} includes within one another");
            return Err(ImportError::at(place, message, "do files include each other?"));
        }
        let paths = glob::find(&directory, pattern).map_err(|message| {
            ImportError::at(place, format!("include {pattern}: {message}"), "name the files")
        })?;
        if paths.is_empty() {
            self.notes.push(Note {
                place: place.clone(),
                subject: format!("include {pattern}"),
                what: "include",
                effect: Effect::NotCarried,
                why: "no file has this name".into(),
                instead: "check the path; it is taken from the including file's directory".into(),
            });
        }
        for path in paths {
            self.included(place, &path)?;
        }
        Ok(())
    }

    fn included(&mut self, place: &Place, path: &Path) -> Result<(), ImportError> {
        let shown = path.display().to_string();
        let failed = |message: String, hint: &str| ImportError::at(place, message, hint);
        self.n_included += 1;
        if self.n_included > MAX_INCLUDED {
            let message = format!("more than {MAX_INCLUDED} included files");
            return Err(failed(message, "does an include match too much?"));
        }
        let cannot = |error| failed(format!("cannot include {shown}: {error}"), "check the path");
        // Reading a pipe would block.
        if !fs::metadata(path).map_err(cannot)?.is_file() {
            return Err(failed(format!("cannot include {shown}: no file"), "name files only"));
        }
        let real = fs::canonicalize(path).map_err(cannot)?;
        if self.open.contains(&real) {
            return Err(failed(format!("{shown} includes itself"), "remove one of the includes"));
        }
        let bytes = source::read(path).map_err(|error| failed(error.message, &error.hint))?;
        let inside = path.parent().map(Path::to_owned);
        let outside = std::mem::replace(&mut self.directory, inside);
        self.open.push(real);
        self.file(&Arc::from(shown.as_str()), &bytes)?;
        self.open.pop();
        self.directory = outside;
        Ok(())
    }
}

/// Splits a line: words between blanks or quotes; `#` and `!` begin a comment.
fn words(place: &Place, line: &str) -> Result<Vec<Word>, ImportError> {
    let mut words = Vec::new();
    let mut characters = line.chars().peekable();
    while let Some(&first) = characters.peek() {
        if first.is_whitespace() {
            characters.next();
            continue;
        }
        if first == '#' || first == '!' {
            break;
        }
        let mut text = String::new();
        let mut is_quoted = false;
        while let Some(&next) = characters.peek() {
            match next {
                c if c.is_whitespace() || c == '#' || c == '!' => break,
                '"' | '\'' => {
                    is_quoted = true;
                    characters.next();
                    quoted(next, &mut characters, &mut text).ok_or_else(|| {
                        let message = format!("no closing {next}");
                        ImportError::at(place, message, "quotes end in the line they begin in")
                    })?;
                }
                _ => {
                    text.push(next);
                    characters.next();
                }
            }
        }
        words.push(Word { text, is_quoted });
    }
    Ok(words)
}

/// The rest of a quoted text; none if it does not end.
fn quoted(
    quote: char,
    characters: &mut impl Iterator<Item = char>,
    text: &mut String,
) -> Option<()> {
    loop {
        match characters.next()? {
            c if c == quote => return Some(()),
            // Only the quote itself can be escaped; a regular expression keeps its backslashes.
            '\\' => match characters.next()? {
                c if c == quote => text.push(c),
                c => text.extend(['\\', c]),
            },
            c => text.push(c),
        }
    }
}
