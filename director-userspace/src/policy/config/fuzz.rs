//! For the fuzz targets in `tests/src/fuzz`: what they compare and this module hides.

use super::{plain, raw};

/// The tree that the quick reader of plain YAML makes of a text, and the one that the parser of all
/// YAML makes of it; `None` if the quick reader leaves the text to the parser.
pub fn both_readers(text: &str) -> Option<[String; 2]> {
    let plain = plain::parse(text)?;
    Some([
        format!("{:?}", Some(plain)),
        match raw::parse_all(text) {
            Ok(node) => format!("{node:?}"),
            Err(error) => format!("{error:?}"),
        },
    ])
}
