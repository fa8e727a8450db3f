//! `$NAME=VALUE`, and `$NAME` or `${NAME}` where it is used.

use std::collections::HashMap;

use super::super::source::MAX_LINE;

/// Definitions within definitions.
const MAX_DEPTH: usize = 16;

/// What names stand for.
#[derive(Debug, Default)]
pub(super) struct Definitions(HashMap<String, String>);

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl Definitions {
    /// Adds a definition; returns whether the line is one.
    pub(super) fn define(&mut self, line: &str) -> bool {
        let Some((name, value)) = line.strip_prefix('$').and_then(|rest| rest.split_once('='))
        else {
            return false;
        };
        let name = name.trim_end();
        if name.is_empty() || !name.chars().all(is_name) {
            return false;
        }
        self.0.insert(name.to_owned(), value.trim().to_owned());
        true
    }

    /// A line with names replaced; others stay as they are. An error is a text for people.
    pub(super) fn expand(&self, line: &str) -> Result<String, String> {
        let mut out = String::with_capacity(line.len());
        self.expand_into(line, &mut out, 0)?;
        Ok(out)
    }

    fn expand_into(&self, text: &str, out: &mut String, depth: usize) -> Result<(), String> {
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let (name, behind) = match after.strip_prefix('{').and_then(|r| r.split_once('}')) {
                Some((name, behind)) if !name.is_empty() && name.chars().all(is_name) => {
                    (name, behind)
                }
                _ => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
            };
            match self.0.get(name) {
                Some(value) => {
                    if depth >= MAX_DEPTH {
                        return Err(format!("${name}: definitions within definitions, too many"));
                    }
                    self.expand_into(value, out, depth + 1)?;
                    rest = behind;
                }
                // keepalived's own name for a hash.
                None if name == "_HASH" || name == "_BANG" => {
                    out.push_str(if name == "_HASH" { "\"#\"" } else { "\"!\"" });
                    rest = behind;
                }
                None => {
                    out.push('$');
                    rest = after;
                }
            }
            if out.len() > MAX_LINE {
                return Err(format!("more than {} KiB with definitions", MAX_LINE >> 10));
            }
        }
        out.push_str(rest);
        Ok(())
    }
}
