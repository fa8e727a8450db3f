//! `director apply`, `director rollback`: change the configuration of the running daemon.

use std::{io::Read as _, path::Path, process::ExitCode};

use anyhow::Context as _;

use super::{ConfigFile, DaemonOf, output::Output, print_message};
use crate::{
    policy::config,
    serve::{
        api::types::{Applied, ApplyOptions, History, RollbackRequest},
        api::{TEXT, client::ClientError},
        view::text,
    },
};

/// Apply a configuration to the running daemon and its file, as a whole or not at all
///
/// The file may be the daemon's own or another. With --if-revision, a configuration that came into
/// effect in the meantime is not overwritten: the command fails.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Apply it even if no service is left
    #[arg(long)]
    force: bool,
    /// Only if this is still the revision in effect, as shown by `director plan`
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    daemon: DaemonOf,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let text = read(&args.file.config)?;
    let options =
        ApplyOptions { dry_run: args.dry_run, force: args.force, if_revision: args.if_revision };
    let query = [
        format!("dry_run={}", options.dry_run),
        format!("force={}", options.force),
        options.if_revision.map_or(String::new(), |revision| format!("if_revision={revision}")),
    ];
    let query: Vec<_> = query.into_iter().filter(|part| !part.is_empty()).collect();
    let path = format!("/v1/apply?{}", query.join("&"));
    let answer = args.daemon.client().post_yaml(&path, text).await;
    let applied: Applied = answer.map_err(|error| named(error, &args.file.config))?;
    show(&applied, args.output)
}

/// Restore the previous configuration, or the named revision
#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// The revision to restore: see --list
    #[arg(long, value_name = "REVISION")]
    to: Option<u64>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// List the kept configurations
    #[arg(long, conflicts_with_all = ["to", "dry_run"])]
    list: bool,
    #[command(flatten)]
    daemon: DaemonOf,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn rollback(args: RollbackArgs) -> anyhow::Result<ExitCode> {
    let client = args.daemon.client();
    if args.list {
        let history: History = client.get("/v1/history").await?;
        args.output.print(&history, || listing(&history))?;
        return Ok(ExitCode::SUCCESS);
    }
    let request = RollbackRequest { to: args.to, dry_run: args.dry_run };
    let applied: Applied = client.post("/v1/rollback", &request).await?;
    show(&applied, args.output)
}

fn listing(history: &History) -> String {
    let rows: Vec<_> = history
        .revisions
        .iter()
        .map(|one| {
            let ago = format!("{} ago", text::ago(one.at));
            let (services, backends) = (one.services.to_string(), one.backends.to_string());
            let lost = if one.lost { " (not kept)" } else { "" };
            let by = format!("{}{lost}", one.by);
            vec![one.revision.to_string(), ago, services, backends, by]
        })
        .collect();
    text::table(&["REVISION", "APPLIED", "SERVICES", "BACKENDS", "BY"], &rows)
}

fn show(applied: &Applied, output: Output) -> anyhow::Result<ExitCode> {
    for warning in &applied.warnings {
        print_message("warning", warning);
    }
    output.print(applied, || {
        let last = if applied.dry_run {
            "nothing was changed (--dry-run)".to_owned()
        } else {
            format!("in effect as revision {}", applied.revision)
        };
        format!("{}\n{last}", applied.steps.join("\n"))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Puts the file's name into errors, which the daemon reports for an unnamed text.
pub(super) fn named(mut error: ClientError, file: &Path) -> ClientError {
    if let ClientError::Refused(problem) = &mut error
        && problem.kind == "invalid"
    {
        let name = format!("{}:", file.display());
        problem.error = problem.error.replace(&format!("{TEXT}:"), &name);
    }
    error
}

/// A configuration's text; `-` is stdin.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    if path != Path::new("-") {
        return Ok(config::read(path)?);
    }
    let mut text = String::new();
    let limit = config::MAX_BYTES as u64 + 1;
    std::io::stdin().take(limit).read_to_string(&mut text).context("stdin")?;
    Ok(text)
}
