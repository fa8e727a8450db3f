//! Why a file cannot be read.

use std::{error::Error, fmt};

use serde::Serialize;

use super::table::Place;

/// Most errors reported for one import; the rest is counted.
pub const MAX_REPORTED: usize = 100;

/// Something that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportError {
    /// The file, as the user named it.
    pub file: String,
    /// Line, from 1; missing if the error is about the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl ImportError {
    pub(super) fn at(place: &Place, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            file: place.file.to_string(),
            line: Some(place.line),
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(super) fn of_file(file: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message)?,
            None => write!(f, "{}: {}", self.file, self.message)?,
        }
        write!(f, "\n  help: {}", self.hint)
    }
}

/// All errors of an import; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportErrors {
    /// In the order of the lines, at most [`MAX_REPORTED`].
    pub errors: Vec<ImportError>,
    /// How many more there are.
    pub unreported: usize,
}

impl ImportErrors {
    /// Adds one, or counts it.
    pub(super) fn push(&mut self, error: ImportError) {
        if self.errors.len() < MAX_REPORTED {
            self.errors.push(error);
        } else {
            self.unreported += 1;
        }
    }

    pub(super) fn none() -> Self {
        Self { errors: Vec::new(), unreported: 0 }
    }
}

impl From<ImportError> for ImportErrors {
    fn from(error: ImportError) -> Self {
        Self { errors: vec![error], unreported: 0 }
    }
}

impl fmt::Display for ImportErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.errors.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        if self.unreported > 0 {
            write!(f, "\n{} more", self.unreported)?;
        }
        Ok(())
    }
}

impl Error for ImportErrors {}
