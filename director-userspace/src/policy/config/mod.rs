//! The configuration file: YAML text in, a [`model::Config`] or every error at once out.
//!
//! ```text
//! text -> raw (tree with positions) -> lower (checks) -> model (valid by construction)
//! ```
//!
//! Pure but for [`read()`], which reads one file: no clock, no other system call, no log. Facts about
//! this host (whether an interface exists, whether a backend is on-link) are checked elsewhere.

mod error;
#[doc(hidden)]
pub mod fuzz;
mod lower;
pub mod model;
pub mod pattern;
mod plain;
mod raw;
mod report;
pub mod schema;
pub mod units;
mod words;

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

pub use self::{
    error::{
        ConfigError, ConfigErrorKind, ConfigErrors, Diagnostic, MAX_REPORTED, Position, Warning,
        WarningKind,
    },
    model::Config,
};

/// Longest file, in bytes.
pub const MAX_BYTES: usize = 64 << 20;

/// A valid configuration, and warnings about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings for the user, in file order.
    pub warnings: Vec<Warning>,
}

/// Reads and checks a file.
///
/// # Errors
/// Everything that is wrong with the file; a single error if it cannot be read or is no YAML.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    load_with_text(path).map(|(_, loaded)| loaded)
}

/// As [`load`], with the file's text.
///
/// # Errors
/// As [`load`].
pub fn load_with_text(path: &Path) -> Result<(String, Loaded), ConfigErrors> {
    let text = read(path)?;
    let loaded = parse(&path.display().to_string(), &text)?;
    Ok((text, loaded))
}

/// The text of a file; see [`load`] for its checks.
///
/// # Errors
/// A single error: it is no regular file, is too long, cannot be read, or is no UTF-8 text.
pub fn read(path: &Path) -> Result<String, ConfigErrors> {
    let source_name = path.display().to_string();
    let bytes = read_bytes(path).map_err(|error| {
        let (kind, hint) = match error.kind() {
            io::ErrorKind::IsADirectory => {
                (ConfigErrorKind::IsDirectory, "name the file in it, such as director.yaml")
            }
            io::ErrorKind::InvalidInput => (
                ConfigErrorKind::NotRegular,
                "name a regular file; `director plan` and `director apply` read a pipe as `-f -`",
            ),
            io::ErrorKind::NotFound => (
                ConfigErrorKind::Unreadable,
                "check the path; -c and -f both name the configuration file",
            ),
            io::ErrorKind::PermissionDenied => {
                (ConfigErrorKind::Unreadable, "run as root, or let this user read the file")
            }
            _ => (ConfigErrorKind::Unreadable, "check the path and the disk"),
        };
        let message = format!("cannot be read: {error}");
        ConfigErrors::of_file(&source_name, kind, None, message, hint)
    })?;
    if bytes.len() > MAX_BYTES {
        return Err(too_big(&source_name));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count();
        let position = Some(Position::new(line, column));
        let message = "this is no UTF-8 text".to_owned();
        let hint = "save the file as UTF-8; a configuration needs no other than ASCII letters";
        ConfigErrors::of_file(&source_name, ConfigErrorKind::NotUtf8, position, message, hint)
    })
}

/// At most one byte more than [`MAX_BYTES`].
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened, which has effects on some devices.
    regular(&fs::metadata(path)?)?;
    // A pipe that was put there since would not let the opening return.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    regular(&file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Refuses what has no content of its own, or never ends.
fn regular(metadata: &Metadata) -> io::Result<()> {
    let is = metadata.file_type();
    let what = if is.is_fifo() {
        "it is a pipe (FIFO)"
    } else if is.is_socket() {
        "it is a socket"
    } else if is.is_char_device() || is.is_block_device() {
        "it is a device"
    } else if is.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Checks the text of a file; errors name it `source_name`.
///
/// # Errors
/// Everything that is wrong with the text; a single error if it is no YAML.
pub fn parse(source_name: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    if text.len() > MAX_BYTES {
        return Err(too_big(source_name));
    }
    let mut report = report::Report::new(source_name, text);
    let config = match raw::parse(text) {
        Ok(Some(root)) => lower::lower(&root, &mut report),
        Ok(None) => {
            let hint = "write at least `services: []`; docs/config.md has an example";
            let message = "there is nothing in the file".to_owned();
            let kind = ConfigErrorKind::Empty;
            return Err(ConfigErrors::of_file(source_name, kind, None, message, hint));
        }
        Err(error) => {
            let hint = raw_hint(&error, text);
            report.error_at(error.kind, error.at, &report::Path::Root, error.message, hint)
        }
    };
    let (config, warnings) = report.finish(config)?;
    Ok(Loaded { config, warnings })
}

fn raw_hint(error: &raw::RawError, text: &str) -> &'static str {
    match error.kind {
        ConfigErrorKind::MultipleDocuments => {
            "keep one document: remove the line `---` and the rest"
        }
        ConfigErrorKind::TooComplex => "write the file without deep nesting and aliases (*name)",
        _ => {
            let line = text.lines().nth(error.at.line.saturating_sub(1) as usize).unwrap_or("");
            // `2001:db8::` before a comma, a brace or the end of the line reads as a key.
            if line.contains("::") {
                "an IPv6 address needs quotes here: \"2001:db8::1\""
            } else if line.starts_with('\t') {
                "indent with spaces: YAML takes no tabs"
            } else {
                "check indentation, colons, quotes and brackets here and in the line above"
            }
        }
    }
}

fn too_big(source_name: &str) -> ConfigErrors {
    let message = format!("longer than {} MiB", MAX_BYTES >> 20);
    let hint = "is it the right file? a thousand services of a hundred backends take 5 MiB";
    ConfigErrors::of_file(source_name, ConfigErrorKind::TooBig, None, message, hint)
}
