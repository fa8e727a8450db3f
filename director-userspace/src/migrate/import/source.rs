//! Text of files, within bounds.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::error::ImportError;

/// Longest file, in bytes; also all files of one keepalived configuration together.
pub const MAX_BYTES: usize = 64 << 20;
/// Longest line, in bytes: the kernel takes no longer command-line argument either.
pub const MAX_LINE: usize = 128 << 10;
/// Most files that one keepalived configuration may include.
pub const MAX_INCLUDED: usize = 1024;

/// Reads a file of at most [`MAX_BYTES`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    let name = path.display().to_string();
    let failed = |error: io::Error| {
        let hint = "check the path, and that this user may read it";
        ImportError::of_file(&name, format!("cannot be read: {error}"), hint)
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A file's text.
pub(super) fn text<'a>(source_name: &str, bytes: &'a [u8]) -> Result<&'a str, ImportError> {
    if bytes.len() > MAX_BYTES {
        let message = format!("longer than {} MiB", MAX_BYTES >> 20);
        let hint = "is it the right file? ten thousand services take a few MiB";
        // Nearly always a single line is at fault.
        let place = first_long_line(bytes);
        return Err(ImportError {
            line: place,
            ..ImportError::of_file(source_name, message, hint)
        });
    }
    if let Some(line) = first_long_line(bytes) {
        let message = format!("a line of more than {} KiB", MAX_LINE >> 10);
        let hint = "is it the right file? lines are short in what ipvsadm and keepalived use";
        return Err(ImportError {
            line: Some(line),
            ..ImportError::of_file(source_name, message, hint)
        });
    }
    let fault = |at: usize, message: &str| {
        let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
        let hint = "is it the right file? this must be text";
        let line = Some(u32::try_from(line).unwrap_or(u32::MAX));
        ImportError { line, ..ImportError::of_file(source_name, message, hint) }
    };
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(fault(at, "a NUL byte: this is no text"));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| fault(error.valid_up_to(), "this is no UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn first_long_line(bytes: &[u8]) -> Option<u32> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    lines.position(|line| line.len() > MAX_LINE).map(|n| u32::try_from(n + 1).unwrap_or(u32::MAX))
}
