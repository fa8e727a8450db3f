//! Regular expressions of the configuration: one way to compile them, so that what was found valid
//! when the file was read compiles again where it is used.

use regex::bytes::{Regex, RegexBuilder};

/// Longest expression, in bytes.
pub const MAX_PATTERN: usize = 4096;
/// Most memory that a compiled expression may take, in bytes, and its matcher once more.
const MAX_COMPILED: usize = 1 << 20;

/// Compiles an expression that matches bytes, in time linear in their number.
///
/// # Errors
/// The expression is malformed, or would take more memory than one is given.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    if pattern.len() > MAX_PATTERN {
        return Err(regex::Error::CompiledTooBig(MAX_PATTERN));
    }
    RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build()
}
