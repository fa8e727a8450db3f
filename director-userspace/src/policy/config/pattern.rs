//! Regular expressions of the configuration, compiled by one function, so that an expression that
//! was valid when the file was read compiles again where it is used.

use regex::bytes::{Regex, RegexBuilder};

/// Longest expression, in bytes.
pub const MAX_PATTERN: usize = 4096;
/// Most memory that a compiled expression may take, in bytes; its matcher may take as much again.
const MAX_COMPILED: usize = 1 << 20;

/// Compiles an expression that matches bytes, in time linear in their number.
///
/// # Errors
/// The expression is malformed, or would take more memory than allowed.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    if pattern.len() > MAX_PATTERN {
        return Err(regex::Error::CompiledTooBig(MAX_PATTERN));
    }
    RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build()
}
