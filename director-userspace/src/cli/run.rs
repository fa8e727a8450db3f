//! `director run`: the daemon.

use std::{io::IsTerminal as _, process::ExitCode};

use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, fmt::format::debug_fn, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::{ConfigFile, InstanceName};
use crate::control::daemon::{self, DaemonError};

/// Run the daemon: attach, apply the file and its changes, follow the host's neighbours and routes
///
/// Stopping it (SIGTERM, Ctrl-C) does not stop forwarding; `director detach` does. A changed file
/// is applied; an invalid one is refused as a whole. SIGHUP reloads it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    instance: InstanceName,
    /// How to log: with fields into the journal, as text or JSON lines to stderr
    #[arg(long, value_enum, default_value = "auto")]
    log: Log,
}

/// The formats of `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Log {
    /// `journal` if stderr is connected to the journal, else `text`.
    Auto,
    /// journald's own protocol: fields can be searched for (`journalctl SERVICE=web`).
    Journal,
    /// Lines of text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sets up the daemon's log. `RUST_LOG` sets the level (`info`, `debug`, ...).
fn log(how: Log) {
    let filter =
        || EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    // systemd sets this if stderr is connected to the journal (systemd.exec(5)).
    let is_journals = std::env::var_os("JOURNAL_STREAM").is_some();
    let wants_journal = how == Log::Journal || how == Log::Auto && is_journals;
    let journal = wants_journal.then(|| tracing_journald::layer().ok()).flatten();
    if let Some(journal) = journal {
        let journal = journal.with_field_prefix(None).with_syslog_identifier("director".into());
        tracing_subscriber::registry().with(filter()).with(journal).init();
        return;
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter());
    if how == Log::Json {
        registry.with(lines.json()).init();
    } else {
        // Without fields: the message has their content in words.
        let message_only = debug_fn(|writer, field, value| match field.name() {
            "message" => write!(writer, "{value:?}"),
            _ => Ok(()),
        });
        registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()).fmt_fields(message_only))
            .init();
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    log(args.log);
    #[cfg(feature = "verbose")]
    crate::kernel::datapath::verbose::follow(&args.instance.instance, |line| {
        tracing::info!("{line}");
    });
    let path = args.file.config;
    let started = || {
        tracing::info!(
            "running with {}; forwarding continues when this process ends",
            path.display()
        );
    };
    match daemon::run(&path, &args.instance.instance, started).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(DaemonError::Config(errors)) => Err(errors.into()),
        Err(error) => Err(error.into()),
    }
}
