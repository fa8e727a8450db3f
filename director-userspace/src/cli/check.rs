//! `director check`: validates a configuration file.

use std::process::ExitCode;

use serde::Serialize;

use super::{ConfigFile, output::Output, print_message};
use crate::policy::config::{self, ConfigError, Loaded, Warning};

/// Check a configuration file, independent of the host, and report all errors at once
///
/// Exits 2 if there is an error. Reads only the file; `director plan` and `director doctor` examine
/// the host too.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Serialize)]
struct Verdict<'a> {
    valid: bool,
    errors: &'a [ConfigError],
    warnings: &'a [Warning],
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = &args.file.config;
    match config::load(path) {
        Ok(Loaded { config, warnings }) => {
            let verdict = Verdict { valid: true, errors: &[], warnings: &warnings };
            args.output.print(&verdict, || {
                for warning in &warnings {
                    print_message("warning", &warning.to_string());
                }
                let backends: usize = config.services.iter().map(|s| s.backends.len()).sum();
                format!(
                    "{} is valid: {} services, {backends} backends",
                    path.display(),
                    config.services.len()
                )
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            let verdict = Verdict { valid: false, errors: &errors.errors, warnings: &[] };
            args.output.print(&verdict, || {
                print_message("error", &errors.to_string());
                String::new()
            })?;
            Ok(ExitCode::from(2))
        }
    }
}
