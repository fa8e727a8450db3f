//! Output formats of commands.

use std::io::Write as _;

use serde::Serialize;

/// The formats of `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

impl Output {
    /// Prints a value to stdout: serialized, or as the table that the closure returns.
    ///
    /// # Errors
    /// If stdout can't be written.
    pub fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let text = match self {
            Self::Table => table(),
            Self::Json => serde_json::to_string_pretty(value)?,
            Self::Yaml => serde_yaml::to_string(value)?,
        };
        let text = text.trim_end();
        if !text.is_empty() {
            writeln!(std::io::stdout(), "{text}")?;
        }
        Ok(())
    }
}
