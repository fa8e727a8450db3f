//! Words and blocks.

use super::{
    super::{error::ImportError, report::Note, table::Place},
    lines::{Lines, Word},
};

/// Blocks within blocks.
const MAX_DEPTH: usize = 32;

/// A line, and the block that follows it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    /// At least one.
    pub(super) words: Vec<Word>,
    pub(super) block: Option<Vec<Node>>,
}

impl Node {
    /// The first word.
    pub(super) fn keyword(&self) -> &str {
        self.word(0).unwrap_or_default()
    }

    pub(super) fn word(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(|word| word.text.as_str())
    }

    /// The lines of its block.
    pub(super) fn lines(&self) -> &[Node] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// A whole configuration.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) notes: Vec<Note>,
}

/// A block that has not ended yet.
struct Open {
    /// The line before its brace.
    head: Node,
    lines: Vec<Node>,
}

pub(super) fn parse(lines: Lines) -> Result<Tree, ImportError> {
    let mut open: Vec<Open> = Vec::new();
    let mut nodes: Vec<Node> = Vec::new();
    for line in lines.lines {
        let mut pending: Vec<Word> = Vec::new();
        for word in line.words.into_iter().flat_map(split_braces) {
            let brace = (!word.is_quoted).then_some(word.text.as_str());
            match brace {
                Some("{") => {
                    let head = if pending.is_empty() {
                        // The brace of the line before.
                        let lines = open.last_mut().map_or(&mut nodes, |open| &mut open.lines);
                        lines.pop_if(|node| node.block.is_none())
                    } else {
                        let words = std::mem::take(&mut pending);
                        Some(Node { place: line.place.clone(), words, block: None })
                    };
                    let head = head.ok_or_else(|| {
                        let hint = "a keyword comes before it";
                        ImportError::at(&line.place, "a { without a keyword", hint)
                    })?;
                    if open.len() >= MAX_DEPTH {
                        let hint = "is a } missing before?";
                        return Err(ImportError::at(&line.place, "blocks nested too deep", hint));
                    }
                    open.push(Open { head, lines: Vec::new() });
                }
                Some("}") => {
                    let Some(mut closed) = open.pop() else {
                        let hint = "remove it, or add the { that it closes";
                        return Err(ImportError::at(&line.place, "a } too many", hint));
                    };
                    if !pending.is_empty() {
                        let words = std::mem::take(&mut pending);
                        let place = line.place.clone();
                        closed.lines.push(Node { place, words, block: None });
                    }
                    let node = Node { block: Some(closed.lines), ..closed.head };
                    open.last_mut().map_or(&mut nodes, |open| &mut open.lines).push(node);
                }
                _ => pending.push(word),
            }
        }
        if !pending.is_empty() {
            let node = Node { place: line.place, words: pending, block: None };
            open.last_mut().map_or(&mut nodes, |open| &mut open.lines).push(node);
        }
    }
    match open.last() {
        Some(open) => {
            let message = format!("{} {{ has no }}", open.head.keyword());
            Err(ImportError::at(&open.head.place, message, "add the } at the block's end"))
        }
        None => Ok(Tree { nodes, notes: lines.notes }),
    }
}

/// Splits off a brace that is attached to a word: `TCP_CHECK{`, `1}`.
fn split_braces(word: Word) -> Vec<Word> {
    let plain = |text: &str| Word { text: text.to_owned(), is_quoted: false };
    if word.is_quoted || word.text.len() < 2 {
        return vec![word];
    }
    if let Some(before) = word.text.strip_suffix('{')
        && before.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return vec![plain(before), plain("{")];
    }
    let before = word.text.trim_end_matches('}');
    let n_braces = word.text.len() - before.len();
    if n_braces > 0 && !before.contains('{') {
        let braces = std::iter::repeat_n(plain("}"), n_braces);
        return (!before.is_empty()).then(|| plain(before)).into_iter().chain(braces).collect();
    }
    vec![word]
}
