//! `keepalived.conf`: what concerns LVS in it.
//!
//! ```text
//! files -> lines (comments, includes, definitions) -> tree (words and blocks) -> LvsTable
//! ```
//!
//! Tolerant where keepalived is: keywords that are not known become notes. What makes the rest of a
//! file unreadable is an error: braces that do not match, quotes without an end, includes that loop.

mod checker;
mod define;
mod glob;
mod group;
mod lines;
mod server;
mod service;
mod timing;
mod top;
mod tree;
mod value;

use std::{path::Path, sync::Arc};

use super::{Options, error::ImportErrors, source, table::LvsTable};

/// Reads a file and what it includes.
pub(super) fn read_file(path: &Path, options: &Options) -> Result<LvsTable, ImportErrors> {
    let name: Arc<str> = path.display().to_string().into();
    let bytes = source::read(path)?;
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    let lines = lines::Reader::new(options, Some(directory)).read(&name, path, &bytes)?;
    top::read(&tree::parse(lines)?)
}

/// Reads a text that includes nothing.
pub(super) fn read_text(
    name: &str,
    bytes: &[u8],
    options: &Options,
) -> Result<LvsTable, ImportErrors> {
    let name: Arc<str> = name.into();
    let lines = lines::Reader::new(options, None).read(&name, Path::new(""), bytes)?;
    top::read(&tree::parse(lines)?)
}
