//! `director import`: converts an LVS configuration.

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use super::print_message;
use crate::migrate::import::{self, ImportErrors, Imported, MAX_BYTES, Names, Options, Report};

/// Convert an LVS configuration, and list what cannot be carried over
///
/// The configuration goes to stdout, the list to stderr. Services that are carried over forward as
/// in the source; others are left out, as comments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, clap::Subcommand)]
enum From {
    /// From the output of `ipvsadm -S -n` or `ipvsadm -Ln`
    Ipvsadm {
        #[command(flatten)]
        common: Common,
    },
    /// From keepalived.conf and the files that it includes
    Keepalived {
        #[command(flatten)]
        common: Common,
        /// The host's name in keepalived's conditions (`@ID`), as for keepalived -i
        #[arg(long, value_name = "ID")]
        config_id: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// An interface to attach to; may be given several times
    #[arg(long = "interface", value_name = "NAME", value_parser = import::interface_name)]
    interfaces: Vec<String>,
    /// Carry over services even if clients are affected: persistence, client-bound schedulers
    #[arg(long)]
    lossy: bool,
    /// How to print what was not carried over, on stderr
    #[arg(long, value_enum, default_value = "text")]
    report: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Text, with equal items grouped.
    Text,
    /// One JSON document.
    Json,
}

/// Runs the command. 0: done, also if something was not carried over; 2: the source is malformed.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (common, config_id) = match &args.from {
        From::Ipvsadm { common } => (common, None),
        From::Keepalived { common, config_id } => (common, config_id.clone()),
    };
    let options = Options { interfaces: common.interfaces.clone(), lossy: common.lossy, config_id };
    let is_stdin = common.file == Path::new("-");
    let name = if is_stdin { "stdin".to_owned() } else { common.file.display().to_string() };
    let bytes = || if is_stdin { stdin() } else { file(&common.file) };
    let imported = match &args.from {
        From::Ipvsadm { .. } => import::ipvsadm(&name, &bytes()?, &Names::of_this_host(), &options),
        From::Keepalived { .. } if is_stdin => import::keepalived(&name, &bytes()?, &options),
        From::Keepalived { .. } => import::keepalived_file(&common.file, &options),
    };
    match imported {
        Ok(Imported { yaml, report }) => {
            io::stdout().write_all(yaml.as_bytes())?;
            print_report(common.report, &report)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            print_errors(common.report, &errors)?;
            Ok(ExitCode::from(2))
        }
    }
}

fn print_report(format: Format, report: &Report) -> anyhow::Result<()> {
    let text = match format {
        Format::Text => report.to_string(),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    // Ignored: if stderr is closed, there is no other output.
    let _ = io::stderr().write_all(text.as_bytes());
    Ok(())
}

fn print_errors(format: Format, errors: &ImportErrors) -> anyhow::Result<()> {
    match format {
        Format::Text => print_message("error", &errors.to_string()),
        Format::Json => {
            let text = serde_json::to_string_pretty(&serde_json::json!({
                "errors": errors.errors,
                "unreported": errors.unreported,
            }))?;
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
    Ok(())
}

/// Reads at most one byte more than the limit, so that larger input is detected.
fn stdin() -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let input = io::stdin().lock().take(MAX_BYTES as u64 + 1);
    { input }.read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes)
}

fn file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read {shown}"))?;
    Ok(bytes)
}
