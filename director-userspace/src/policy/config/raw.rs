//! YAML text to a tree of nodes with their positions; the next step is [`lower`](super::lower).
//!
//! The tree keeps every key, also a repeated one, and every scalar as it was written, so that the
//! next step can report all that is wrong with a file instead of the first type that does not fit.
//! That is why it is built from the parser's events: a serde visitor never sees a repeated key, and
//! sees `0010` as ten.

use std::{borrow::Cow, collections::HashMap};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};

use super::{
    error::{ConfigErrorKind as Kind, Position},
    plain,
};

/// Most nodes (scalars, lists, mappings) a file may have, counted after aliases are expanded. A
/// long scalar counts as several, since an alias may copy it. The largest sensible configuration is
/// far below it; a document bomb is far above.
pub(super) const MAX_NODES: usize = 4_000_000;
/// Bytes of a scalar that count as one more node: about what a node takes.
pub(super) const BYTES_PER_NODE: usize = 64;
/// Deepest nesting of lists and mappings; a configuration needs 6.
pub(super) const MAX_DEPTH: usize = 32;
/// Plain scalars that mean null.
pub(super) const NULLS: [&str; 5] = ["", "~", "null", "Null", "NULL"];

/// A value and where it starts.
#[derive(Debug, Clone)]
pub(super) struct Node<'s> {
    pub(super) at: Position,
    pub(super) value: Value<'s>,
    /// Has a tag (`!!str`, `!secret`), which the configuration does not use.
    pub(super) tagged: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Value<'s> {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar, unquoted and unescaped.
    Scalar(Cow<'s, str>),
    Seq(Vec<Node<'s>>),
    /// In file order, repeated keys included.
    Map(Vec<(Key<'s>, Node<'s>)>),
}

#[derive(Debug, Clone)]
pub(super) struct Key<'s> {
    pub(super) at: Position,
    /// `None` for a key that is no plain word: a list, a mapping, null, tagged.
    pub(super) text: Option<Cow<'s, str>>,
}

/// Why there is no tree. Ends the parsing: the rest would be unreliable.
#[derive(Debug)]
pub(super) struct RawError {
    pub(super) kind: Kind,
    pub(super) at: Position,
    pub(super) message: String,
}

/// Reads one YAML document. `None`: there is nothing in it.
pub(super) fn parse(text: &str) -> Result<Option<Node<'_>>, RawError> {
    match plain::parse(text) {
        Some(root) => Ok(Some(root)),
        None => parse_all(text),
    }
}

/// The same with all of YAML.
pub(super) fn parse_all(text: &str) -> Result<Option<Node<'_>>, RawError> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| RawError {
            kind: Kind::Syntax,
            at: Position::new(error.marker().line(), error.marker().col()),
            message: error.info(),
        })?;
        builder.event(event, span)?;
    }
    Ok(builder.root.filter(|root| !matches!(root.value, Value::Null)))
}

/// A list or mapping that has not ended yet.
struct Open<'s> {
    at: Position,
    tagged: bool,
    anchor: usize,
    /// Nodes inside so far, and itself.
    n_nodes: usize,
    items: Items<'s>,
}

enum Items<'s> {
    Seq(Vec<Node<'s>>),
    Map { entries: Vec<(Key<'s>, Node<'s>)>, key: Option<Key<'s>> },
}

#[derive(Default)]
struct Builder<'s> {
    open: Vec<Open<'s>>,
    /// Anchored nodes, with their number of nodes.
    anchors: HashMap<usize, (Node<'s>, usize)>,
    n_nodes: usize,
    root: Option<Node<'s>>,
    n_documents: usize,
}

impl<'s> Builder<'s> {
    fn event(&mut self, event: Event<'s>, span: Span) -> Result<(), RawError> {
        let at = Position::new(span.start.line(), span.start.col());
        let fail = |kind, message: &str| Err(RawError { kind, at, message: message.to_owned() });
        match event {
            Event::DocumentStart(..) => {
                self.n_documents += 1;
                if self.n_documents > 1 {
                    return fail(Kind::MultipleDocuments, "a second document starts here");
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let n_nodes = 1 + text.len() / BYTES_PER_NODE;
                self.count(at, n_nodes)?;
                let null = style == ScalarStyle::Plain && NULLS.contains(&&*text);
                let value = if null { Value::Null } else { Value::Scalar(text) };
                self.complete(Node { at, value, tagged: tag.is_some() }, anchor, n_nodes)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.start(at, tag.is_some(), anchor, Items::Seq(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let items = Items::Map { entries: Vec::new(), key: None };
                self.start(at, tag.is_some(), anchor, items)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            Event::Alias(anchor) => {
                let Some(n_nodes) = self.anchors.get(&anchor).map(|(_, n_nodes)| *n_nodes) else {
                    return fail(Kind::TooComplex, "an alias inside its own anchor");
                };
                // Counted before the copy, so that a document bomb is refused before it expands.
                self.count(at, n_nodes)?;
                let node = self.anchors[&anchor].0.clone();
                self.add(node, n_nodes);
            }
            _ => {}
        }
        Ok(())
    }

    fn start(
        &mut self,
        at: Position,
        tagged: bool,
        anchor: usize,
        items: Items<'s>,
    ) -> Result<(), RawError> {
        if self.open.len() == MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(RawError { kind: Kind::TooComplex, at, message });
        }
        self.count(at, 1)?;
        self.open.push(Open { at, tagged, anchor, n_nodes: 1, items });
        Ok(())
    }

    fn end(&mut self) -> Result<(), RawError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.items {
            Items::Seq(items) => Value::Seq(items),
            Items::Map { entries, .. } => Value::Map(entries),
        };
        self.complete(Node { at: open.at, value, tagged: open.tagged }, open.anchor, open.n_nodes)
    }

    /// Completes a node whose contents are counted.
    fn complete(&mut self, node: Node<'s>, anchor: usize, n_nodes: usize) -> Result<(), RawError> {
        if anchor != 0 {
            self.count(node.at, n_nodes)?;
            self.anchors.insert(anchor, (node.clone(), n_nodes));
        }
        self.add(node, n_nodes);
        Ok(())
    }

    fn count(&mut self, at: Position, n_nodes: usize) -> Result<(), RawError> {
        self.n_nodes += n_nodes;
        if self.n_nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values, aliases expanded");
            return Err(RawError { kind: Kind::TooComplex, at, message });
        }
        Ok(())
    }

    /// Adds a complete node to the list or mapping around it.
    fn add(&mut self, node: Node<'s>, n_nodes: usize) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        open.n_nodes += n_nodes;
        match &mut open.items {
            Items::Seq(items) => items.push(node),
            Items::Map { entries, key } => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let text = match node.value {
                        Value::Scalar(text) if !node.tagged => Some(text),
                        _ => None,
                    };
                    *key = Some(Key { at: node.at, text });
                }
            },
        }
    }
}
