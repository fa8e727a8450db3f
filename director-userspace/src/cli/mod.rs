//! The command line: one module per command, with its arguments, its requests to the daemon
//! (including polling, as `drain --wait` does) and what it prints.
//!
//! Begin with [`Cli`], which lists the commands.

mod apply;
mod attach;
mod backends;
mod capture;
mod check;
mod completions;
mod conns;
mod detach;
pub mod doctor;
mod drain;
mod explain;
mod export;
mod import;
mod ipvs;
pub mod lab;
mod man;
pub mod output;
mod plan;
pub mod realserver;
mod run;
mod schema;
mod services;
mod simulate;
mod state_reader;
mod stats;
mod status;
mod top;
mod trace;
mod watch;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    kernel::{
        datapath::{DatapathError, Instance},
        host::privileges,
    },
    policy::config::{ConfigErrors, Loaded, load},
    serve::api::client::{Client, ClientError},
};

/// The text of `--version`; it differs in the build that upgrade tests use.
const VERSION: &str = if cfg!(feature = "next") {
    concat!(env!("CARGO_PKG_VERSION"), "+next")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Director: a layer-4 load balancer in XDP
#[derive(Debug, Parser)]
#[command(name = "director", version = VERSION, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Attach(attach::Args),
    Detach(detach::Args),
    Check(check::Args),
    Plan(plan::Args),
    Apply(apply::Args),
    Rollback(apply::RollbackArgs),
    Drain(drain::DrainArgs),
    Undrain(drain::UndrainArgs),
    Weight(drain::WeightArgs),
    Status(status::Args),
    Services(services::Args),
    Backends(backends::Args),
    Stats(stats::Args),
    Top(top::Args),
    Conns(conns::Args),
    Explain(explain::Args),
    Trace(trace::Args),
    Capture(capture::Args),
    Simulate(simulate::Args),
    Lab(lab::Args),
    Doctor(doctor::Args),
    Import(import::Args),
    Export(export::Args),
    Ipvs(ipvs::Args),
    Realserver(realserver::Args),
    Completions(completions::Args),
    Man(man::Args),
    Schema(schema::Args),
}

/// The option for the configuration file.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration
    #[arg(
        short,
        long = "config",
        visible_short_alias = 'f',
        value_name = "FILE",
        default_value = "/etc/director/director.yaml"
    )]
    config: PathBuf,
}

/// The environment variable for `--instance`: a lab sets it to its own instance.
const INSTANCE_VARIABLE: &str = "DIRECTOR_INSTANCE";

/// The environment variable for `--socket`.
const SOCKET_VARIABLE: &str = "DIRECTOR_SOCKET";

/// The option for the instance.
#[derive(Debug, clap::Args)]
struct InstanceName {
    /// The instance, if several directors run on one host
    #[arg(
        long,
        value_name = "NAME",
        env = INSTANCE_VARIABLE,
        default_value = "default",
        value_parser = Instance::new
    )]
    instance: Instance,
}

/// The options for the instance and its daemon's socket.
#[derive(Debug, clap::Args)]
struct DaemonOf {
    #[command(flatten)]
    instance: InstanceName,
    /// The daemon's socket [default: the instance's own]
    #[arg(long, value_name = "PATH", env = SOCKET_VARIABLE)]
    socket: Option<PathBuf>,
}

impl DaemonOf {
    fn client(&self) -> Client {
        Client::new(self.instance(), self.socket.clone())
    }

    fn instance(&self) -> &Instance {
        &self.instance.instance
    }
}

/// Runs the program's command line. 0: done, 1: failed, 2: wrong usage or invalid configuration.
pub async fn main(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Run(args) => run::run(args).await,
        Command::Attach(args) => attach::run(args).await,
        Command::Detach(args) => detach::run(args).await,
        Command::Check(args) => check::run(&args),
        Command::Plan(args) => plan::run(args).await,
        Command::Apply(args) => apply::run(args).await,
        Command::Rollback(args) => apply::rollback(args).await,
        Command::Drain(args) => drain::drain(args).await,
        Command::Undrain(args) => drain::undrain(args).await,
        Command::Weight(args) => drain::weight(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Services(args) => services::run(args).await,
        Command::Backends(args) => backends::run(args).await,
        Command::Stats(args) => stats::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Conns(args) => conns::run(&args),
        Command::Explain(args) => explain::run(args).await,
        Command::Trace(args) => trace::run(args).await,
        Command::Capture(args) => capture::run(args).await,
        Command::Simulate(args) => simulate::run(&args),
        Command::Lab(args) => lab::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Ipvs(args) => ipvs::run(args).await,
        Command::Realserver(args) => realserver::run(args).await,
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Schema(args) => schema::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) if is_refused_input(&error) => {
            print_message("error", &format!("{error}"));
            ExitCode::from(2)
        }
        Err(error) => {
            print_message("error", &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether the input is invalid, rather than an operation failed.
fn is_refused_input(error: &anyhow::Error) -> bool {
    error.is::<ConfigErrors>()
        || error.is::<drain::Usage>()
        || error.downcast_ref::<ClientError>().is_some_and(ClientError::is_invalid)
}

/// Prints to stderr, with a prefix such as `error:` or `warning:` before every paragraph.
fn print_message(what: &str, text: &str) {
    let mut stderr = std::io::stderr().lock();
    for (number, line) in text.lines().enumerate() {
        let continued = number > 0 && (line.starts_with(' ') || line.is_empty());
        // Ignored: if stderr is closed, there is no other output.
        let _ =
            if continued { writeln!(stderr, "{line}") } else { writeln!(stderr, "{what}: {line}") };
    }
}

/// The privileges that this process lacks, if any.
fn missing_privileges() -> Option<String> {
    privileges::missing(privileges::effective().unwrap_or(u64::MAX))
}

/// Replaces an error of a process that lacks privileges by the missing privileges, whatever the
/// kernel reports: an unreadable directory looks empty.
fn explained(error: DatapathError) -> anyhow::Error {
    missing_privileges().map_or_else(|| error.into(), anyhow::Error::msg)
}

/// Loads a configuration and prints its warnings.
fn load_config(path: &Path) -> anyhow::Result<Loaded> {
    let loaded = load(path)?;
    for warning in &loaded.warnings {
        print_message("warning", &warning.to_string());
    }
    Ok(loaded)
}
