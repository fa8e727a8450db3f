//! A configuration from one of LVS or keepalived, and a list of what could not be carried over.
//!
//! ```text
//! ipvsadm -S      \
//! ipvsadm -Ln      > read: LvsTable -> carry: what Director can do too -> write: YAML
//! keepalived.conf /                          \ Report: what it cannot, and what to do instead
//! ```
//!
//! Reading is pure but for [`keepalived_file`], which opens the file and what that includes. What
//! is carried over forwards as the source says; where that is impossible, the service is left out
//! and stays in the output as a comment. The output is always a valid configuration.

mod carry;
mod checks;
mod error;
mod ipvsadm;
mod keepalived;
mod names;
mod report;
mod servers;
mod source;
mod table;
mod write;

use std::{path::Path, sync::Arc};

use self::ipvsadm::{mask_length as ipvsadm_mask, sync_daemon};
pub use self::{
    error::{ImportError, ImportErrors, MAX_REPORTED},
    names::Names,
    report::{Effect, Note, Report},
    source::{MAX_BYTES, MAX_INCLUDED, MAX_LINE},
    table::Place,
};
use crate::policy::config;

/// The user's choices.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Interfaces to attach to, for the output's `interfaces:`: as [`interface_name`] accepts them,
    /// at most 15, none twice.
    pub interfaces: Vec<String>,
    /// Also carry over services whose clients will notice: those with persistence, or a scheduler
    /// that keeps a client on one server.
    pub lossy: bool,
    /// keepalived's `-i`: lines that begin with `@ID` apply if this is the ID.
    pub config_id: Option<String>,
}

/// A configuration, and what is not in it.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The configuration file, with comments. Valid.
    pub yaml: String,
    /// What was not carried over.
    pub report: Report,
}

/// Reads what `ipvsadm -S` or `ipvsadm -L` prints; errors name it `source_name`.
///
/// # Errors
/// Every line that is neither, up to [`MAX_REPORTED`].
pub fn ipvsadm(
    source_name: &str,
    bytes: &[u8],
    names: &Names,
    options: &Options,
) -> Result<Imported, ImportErrors> {
    let text = source::text(source_name, bytes)?;
    let table = ipvsadm::read(&Arc::from(source_name), text, names)?;
    finish("ipvsadm", source_name, table, options)
}

/// Reads a keepalived configuration and the files that it includes.
///
/// # Errors
/// Why it cannot be read: missing files, unbalanced braces, loops of includes.
pub fn keepalived_file(path: &Path, options: &Options) -> Result<Imported, ImportErrors> {
    let source_name = path.display().to_string();
    let table = keepalived::read_file(path, options)?;
    finish("keepalived", &source_name, table, options)
}

/// As [`keepalived_file`], of a text that includes nothing.
///
/// # Errors
/// As [`keepalived_file`]; also an `include`.
pub fn keepalived(
    source_name: &str,
    bytes: &[u8],
    options: &Options,
) -> Result<Imported, ImportErrors> {
    let table = keepalived::read_text(source_name, bytes, options)?;
    finish("keepalived", source_name, table, options)
}

/// Checks that an interface can have this name. An error is a text for people.
///
/// # Errors
/// Those of the configuration for an interface's name.
pub fn interface_name(text: &str) -> Result<String, String> {
    let yaml = format!("interfaces: [{{name: {}}}]\nservices: []", write::quoted(text));
    match config::parse("import", &yaml) {
        Ok(_) => Ok(text.to_owned()),
        Err(errors) => Err(errors.errors.first().map_or_else(String::new, |e| e.message.clone())),
    }
}

fn finish(
    kind: &str,
    source_name: &str,
    mut table: table::LvsTable,
    options: &Options,
) -> Result<Imported, ImportErrors> {
    let mut report = Report::new(source_name);
    report.notes.append(&mut table.notes);
    let carried = carry::carry(table, options, &mut report);
    let yaml = write::document(kind, source_name, &carried, options);
    report.sort();
    match config::parse("the import", &yaml) {
        Ok(_) => Ok(Imported { yaml, report }),
        Err(errors) => {
            let message = format!("the result is not a valid configuration: {errors}");
            let hint = "this is a bug of Director: please report it with the source";
            Err(ImportError::of_file(source_name, message, hint).into())
        }
    }
}
