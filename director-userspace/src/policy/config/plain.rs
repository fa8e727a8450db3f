//! The plain subset of YAML, read directly: what programs and most people write.
//!
//! Keys and values of letters, digits and a few signs, strings in double quotes without escapes,
//! lists and mappings by indentation, or within one line. Everything else, valid or not, is left to
//! the parser ([`raw`](super::raw)), which takes ten times as long: a file of a hundred thousand
//! backends is read in a few dozen milliseconds instead of most of a second. The result is the same
//! as the parser's, positions included.

use std::borrow::Cow;

use super::{
    error::Position,
    raw::{Key, MAX_DEPTH, MAX_NODES, NULLS, Node, Value},
};

/// YAML limits keys to 1,024 characters.
const LONGEST_KEY: usize = 1000;

/// Reads a document; `None` if it is not plain.
pub(super) fn parse(text: &str) -> Option<Node<'_>> {
    if !text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)) {
        return None;
    }
    let lines: Vec<Line<'_>> = (1..).zip(text.split('\n')).filter_map(Line::of).collect();
    let mut reader = Reader { lines, at: 0, n_nodes: 0 };
    let root = reader.node(0, reader.lines.first().filter(|line| line.indent == 0)?.indent)?;
    let is_document = matches!(root.value, Value::Map(_) | Value::Seq(_));
    (is_document && reader.at == reader.lines.len()).then_some(root)
}

/// A line, or what is left of it.
#[derive(Clone, Copy)]
struct Line<'s> {
    number: usize,
    /// Characters before `rest`.
    indent: usize,
    rest: &'s str,
}

impl<'s> Line<'s> {
    /// A line with more than spaces and a comment.
    fn of((number, line): (usize, &'s str)) -> Option<Self> {
        let rest = line.trim_start_matches(' ');
        let indent = line.len() - rest.len();
        (!rest.is_empty() && !rest.starts_with('#')).then_some(Self { number, indent, rest })
    }

    fn position(&self) -> Position {
        Position::new(self.number, self.indent)
    }

    /// What follows after `length` characters and the spaces there.
    fn after(&self, length: usize) -> Self {
        let rest = self.rest[length..].trim_start_matches(' ');
        Self { indent: self.indent + self.rest.len() - rest.len(), rest, ..*self }
    }

    fn is_item(&self) -> bool {
        self.rest.starts_with("- ")
    }

    /// The length of the plain word that this starts with.
    fn word(&self) -> usize {
        let is_plain = |(n, byte): (usize, u8)| {
            matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'.' | b'/')
                || (matches!(byte, b'-' | b'%' | b'@') && n > 0)
        };
        self.rest.bytes().enumerate().take_while(|one| is_plain(*one)).count()
    }

    /// The key that this starts with, and what follows its colon.
    fn key(&self) -> Option<(Key<'s>, Self)> {
        let length = self.word();
        let text = &self.rest[..length];
        let after = &self.rest[length..];
        let is_key = (1..LONGEST_KEY).contains(&length)
            && (after == ":" || after.starts_with(": "))
            && !NULLS.contains(&text)
            // Marks the start or the end of a document where it stands alone.
            && text != "...";
        is_key.then(|| {
            let key = Key { at: self.position(), text: Some(Cow::Borrowed(text)) };
            (key, self.after(length + 1))
        })
    }

    /// Whether nothing but a comment is left. A comment starts after a space.
    fn is_at_end(&self) -> bool {
        let end = self.after(0);
        end.rest.is_empty() || (end.rest.starts_with('#') && end.indent > self.indent)
    }
}

struct Reader<'s> {
    lines: Vec<Line<'s>>,
    at: usize,
    n_nodes: usize,
}

impl<'s> Reader<'s> {
    fn line(&self) -> Option<Line<'s>> {
        self.lines.get(self.at).copied()
    }

    /// Counts a node, as the parser does.
    fn count(&mut self, text: &str) -> Option<()> {
        self.n_nodes += 1 + text.len() / super::raw::BYTES_PER_NODE;
        (self.n_nodes < MAX_NODES).then_some(())
    }

    /// The value that starts at the current line, indented by `indent`, `depth` levels down.
    fn node(&mut self, depth: usize, indent: usize) -> Option<Node<'s>> {
        let line = self.line()?;
        if depth >= MAX_DEPTH {
            return None;
        }
        if line.is_item() {
            self.list(depth, indent)
        } else if line.key().is_some() {
            self.mapping(depth, indent)
        } else {
            self.at += 1;
            self.rest_of(depth, line)
        }
    }

    fn list(&mut self, depth: usize, indent: usize) -> Option<Node<'s>> {
        let at = self.line()?.position();
        self.count("")?;
        let mut items = Vec::new();
        while let Some(line) = self.line().filter(|line| line.indent == indent && line.is_item()) {
            let item = line.after(1);
            if item.rest.is_empty() || item.rest.starts_with('#') {
                return None;
            }
            // What is in the item is indented as if the dash were a space.
            self.lines[self.at] = item;
            items.push(self.node(depth + 1, item.indent)?);
        }
        self.ends(indent)?;
        Some(Node { at, value: Value::Seq(items), tagged: false })
    }

    fn mapping(&mut self, depth: usize, indent: usize) -> Option<Node<'s>> {
        let at = self.line()?.position();
        self.count("")?;
        let mut entries = Vec::new();
        while let Some(line) = self.line().filter(|line| line.indent == indent) {
            let Some((key, value)) = line.key() else {
                if line.is_item() {
                    break;
                }
                return None;
            };
            self.count(key.text.as_deref()?)?;
            self.at += 1;
            let value = if value.rest.is_empty() {
                let next = self.line()?;
                // A list may have the same indentation as its key.
                let is_inside = next.indent > indent || (next.indent == indent && next.is_item());
                let mut value = is_inside.then(|| self.node(depth + 1, next.indent))??;
                // The parser places such a list at its first item.
                if let (Value::Seq(items), true) = (&value.value, next.indent == indent) {
                    value.at = items.first()?.at;
                }
                value
            } else {
                self.rest_of(depth + 1, value)?
            };
            entries.push((key, value));
        }
        self.ends(indent)?;
        Some(Node { at, value: Value::Map(entries), tagged: false })
    }

    /// A list or mapping with this indentation ends here: what follows is not indented further.
    fn ends(&self, indent: usize) -> Option<()> {
        self.line().is_none_or(|line| line.indent <= indent).then_some(())
    }

    /// The rest of a line, as a value.
    fn rest_of(&mut self, depth: usize, line: Line<'s>) -> Option<Node<'s>> {
        let (node, after) = self.inline(depth, line)?;
        after.is_at_end().then_some(node)
    }

    /// A value within a line, and what follows it directly.
    fn inline(&mut self, depth: usize, line: Line<'s>) -> Option<(Node<'s>, Line<'s>)> {
        let at = line.position();
        let cut = |length: usize| Line {
            indent: line.indent + length,
            rest: &line.rest[length..],
            ..line
        };
        let (value, after) = match line.rest.bytes().next()? {
            b'{' | b'[' if depth >= MAX_DEPTH => return None,
            b'{' => {
                self.count("")?;
                let (entries, after) = self.within(line, '}', |reader, line| {
                    let (key, value) = line.key()?;
                    reader.count(key.text.as_deref()?)?;
                    let (value, after) = reader.inline(depth + 1, value)?;
                    Some(((key, value), after))
                })?;
                (Value::Map(entries), after)
            }
            b'[' => {
                self.count("")?;
                let (items, after) =
                    self.within(line, ']', |reader, line| reader.inline(depth + 1, line))?;
                (Value::Seq(items), after)
            }
            b'"' => {
                let length = line.rest[1..].find('"')?;
                let text = &line.rest[1..=length];
                self.count(text)?;
                if text.contains('\\') {
                    return None;
                }
                (Value::Scalar(Cow::Borrowed(text)), cut(length + 2))
            }
            _ => {
                let length = line.word();
                let text = &line.rest[..length];
                self.count(text)?;
                let after = cut(length);
                let ends = after.rest.bytes().next().is_none_or(|byte| b" ,]}".contains(&byte));
                if length == 0 || !ends || text == "..." {
                    return None;
                }
                let is_null = NULLS.contains(&text);
                let value = if is_null { Value::Null } else { Value::Scalar(Cow::Borrowed(text)) };
                (value, after)
            }
        };
        Some((Node { at, value, tagged: false }, after))
    }

    /// What stands between brackets, with commas between.
    fn within<T>(
        &mut self,
        line: Line<'s>,
        end: char,
        mut one: impl FnMut(&mut Self, Line<'s>) -> Option<(T, Line<'s>)>,
    ) -> Option<(Vec<T>, Line<'s>)> {
        let close =
            |line: Line<'s>| Line { indent: line.indent + 1, rest: &line.rest[1..], ..line };
        let mut found = Vec::new();
        let mut left = line.after(1);
        if left.rest.starts_with(end) {
            return Some((found, close(left)));
        }
        loop {
            let (item, after) = one(self, left)?;
            found.push(item);
            left = after.after(0);
            if left.rest.starts_with(end) {
                return Some((found, close(left)));
            }
            left = left.rest.starts_with(',').then(|| left.after(1))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::raw, *};

    /// The result is the parser's.
    #[track_caller]
    fn same(text: &str) -> bool {
        let Some(plain) = parse(text) else { return false };
        match raw::parse_all(text) {
            Ok(Some(node)) => assert_eq!(format!("{plain:?}"), format!("{node:?}"), "{text}"),
            other => panic!("{text}\nthe parser returns {other:?}"),
        }
        true
    }

    #[test]
    fn machine_written_yaml_is_plain() {
        for text in [
            crate::setup::lab::DEFAULT_CONFIG,
            "a: 1\n",
            "a: 1",
            "# one\n\nlist:\n  - {address: 10.0.0.1, weight: 2} # two\n  - {address: \"::1\"}\n",
            "list:\n- a\n- b-c\nother: {}\nthird: [ 1, [2, 3] , {a: null} ]\n",
            "-   name: x\n    port: 80\n-   - a\n    - b\n- \"q # r: s\"   \n",
            "a:\n    b:\n      c: 1\n    d: 2\ne: 3\n",
            "defaults: {when_empty: drop}\nservices: []\n",
        ] {
            assert!(same(text), "not plain:\n{text}");
        }
    }

    #[test]
    fn other_yaml_is_left_to_the_parser() {
        for text in [
            "",
            "a",
            "null",
            "\ta: 1",
            "a: b c",
            "a: 'b'",
            "a: \"b\\n\"",
            "a:",
            "a: &x 1",
            "a: *x",
            "--- \na: 1",
            "a: 1\n  b: 2",
            "a: 1\n b",
            "a: |\n  b",
            "a: {b: 1,\n c: 2}",
            "a: [1,]",
            "a: {b}",
            "a: {b:1}",
            "- a\nb: 1",
            "a: 1\n- b",
            "? a\n: b",
            "a: b:c",
            "a: !!str b",
            "a: - b",
            "null: 1",
            "...: 1",
            "a: 1\n...",
            "  a: 1",
            "a: b#c",
            "a: {b: c}d",
            "a: \"b\"c",
            "a: \"b\"#c",
            "a: -1",
            "a: [b: c]",
            "a: 1\r\nb: 2",
            "\u{e4}: 1",
            "a: ~",
            "-",
            "- ",
            "a: 1\n\n  # c\n   d",
            "- a\n  - b",
        ] {
            assert!(parse(text).is_none(), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn plain_yaml_reads_as_with_the_parser(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "a", "b-c", "name", "1", "0x1", "10.0.0.1", "null", "true", "10%", "a@b", "%", "@", "\"q: r\"", "\"\"", ": ", ":",
                "- ", "-", "{", "}", "[", "]", ", ", ",", "\n", "\n", "\n  ", "\n  ", "\n    ", "\n  - ",
                "\n- ", " ", "#", " # c", "a: 1", "a: {b: 1, c: [2]}", "x:\n  ", "...", "---", ".",
            ]), 0..14)
        ) {
            same(&pieces.concat());
        }
    }
}
