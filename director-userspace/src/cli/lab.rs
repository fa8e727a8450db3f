//! `director lab`: a private network of namespaces on this host.

use std::{
    ffi::OsString, fmt::Write as _, net::IpAddr, os::unix::process::CommandExt as _, path::PathBuf,
    process::Command, process::ExitCode,
};

use anyhow::Context as _;
use serde::Serialize;

use super::{INSTANCE_VARIABLE, output::Output};
use crate::{
    kernel::datapath::{self, DatapathError, Instance},
    policy::config,
    setup::lab::{DEFAULT_CONFIG, DEFAULT_NAME, Lab, MAX_CLIENTS},
};

/// Build a private network of namespaces on this host, with clients and backends, to try any
/// configuration
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Build a lab and keep it
    Up {
        /// The configuration to build for [default: a built-in one with three backends]
        #[arg(short, long, visible_short_alias = 'f', value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        name: Name,
        /// Number of clients
        #[arg(long, value_name = "N", default_value_t = 1)]
        clients: usize,
        /// Backend addresses of one machine, joined by commas; may be repeated
        #[arg(long = "host", value_name = "ADDRESS,...")]
        hosts: Vec<Host>,
    },
    /// Remove a lab with everything that runs in it
    Down {
        #[command(flatten)]
        name: Name,
        /// Remove it even if the process that built it still uses it
        #[arg(long)]
        force: bool,
    },
    /// Run a command on a node: director, client1, b1, ...
    Exec {
        #[command(flatten)]
        name: Name,
        /// The node
        node: String,
        /// The command; a shell if there is none
        #[arg(last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Show the labs of this host and their nodes
    Status {
        /// Only this lab
        #[arg(long)]
        name: Option<String>,
        /// How to print
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Print the default configuration of a lab
    Config,
}

#[derive(Debug, clap::Args)]
struct Name {
    /// The lab's name
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
}

/// Addresses of one machine.
#[derive(Debug, Clone)]
struct Host(Vec<IpAddr>);

impl std::str::FromStr for Host {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// A lab as `status` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    lab: String,
    nodes: Vec<ShownNode>,
}

#[derive(Debug, Serialize)]
struct ShownNode {
    node: String,
    namespace: String,
    interface: String,
    addresses: Vec<IpAddr>,
}

/// Runs the command. 0: done, 1: failed, 2: wrong usage or invalid configuration. `exec` does not
/// return: the process becomes the command.
///
/// # Errors
/// If an operation failed.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Up { config, name, clients, hosts } => up(config, &name.name, clients, hosts).await,
        Verb::Down { name, force } => {
            Lab::remove(&name.name, force)?;
            remove_pins(&name.name)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Exec { name, node, command } => exec(&name.name, &node, command),
        Verb::Status { name, output } => status(name, output),
        Verb::Config => {
            Output::Table.print(&(), || DEFAULT_CONFIG.to_owned())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn up(
    file: Option<PathBuf>,
    name: &str,
    clients: usize,
    hosts: Vec<Host>,
) -> anyhow::Result<ExitCode> {
    if clients > MAX_CLIENTS {
        eprintln!("error: --clients {clients} is too many: {MAX_CLIENTS} is the limit");
        return Ok(ExitCode::from(2));
    }
    let mut builder = Lab::builder().name(name).clients(clients);
    if let Some(file) = &file {
        match config::load(file) {
            Ok(loaded) => builder = builder.config(&loaded.config),
            Err(errors) => {
                eprintln!("{errors}");
                return Ok(ExitCode::from(2));
            }
        }
    }
    for Host(addresses) in hosts {
        builder = builder.host(&addresses);
    }
    let mut lab = tokio::select! {
        // A lab that is dropped half built removes itself.
        lab = builder.build() => lab?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; nothing is left behind"),
    };
    lab.persist()?;
    let option = if name == DEFAULT_NAME { String::new() } else { format!(" --name {name}") };
    let file = match file {
        Some(file) => file.display().to_string(),
        None => "FILE".to_owned(),
    };
    let mut text = table(&[shown(&lab)]);
    text.push_str("\nNow try:\n");
    if file == "FILE" {
        let _ = writeln!(text, "  director lab config > FILE");
    }
    let _ = writeln!(text, "  director lab exec{option} director -- director attach -c {file}");
    let _ = writeln!(text, "  director lab exec{option} client1 -- curl http://VIP/");
    let _ = writeln!(text, "  director lab down{option}");
    Output::Table.print(&(), || text)?;
    Ok(ExitCode::SUCCESS)
}

/// The instance of directors that run in a lab: maps and programs are pinned on the host, and must
/// not collide with those of another lab or of the host.
fn instance_of(lab: &str) -> String {
    format!("lab-{lab}")
}

/// Removes the pinned objects of directors in a removed lab.
fn remove_pins(lab: &str) -> anyhow::Result<()> {
    let instance = Instance::new(&instance_of(lab)).map_err(anyhow::Error::msg)?;
    match datapath::detach(&instance, &[]) {
        Ok(_) | Err(DatapathError::NotAttached(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn exec(lab: &str, node: &str, command: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let lab = Lab::open(lab)?;
    let node = lab.node(node)?;
    let mut words = command.into_iter();
    let program = words
        .next()
        .unwrap_or_else(|| std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    node.netns().enter()?;
    let instance = instance_of(lab.name());
    let mut command = Command::new(&program);
    let error = command.args(words).env(INSTANCE_VARIABLE, instance).exec();
    Err(error).with_context(|| format!("cannot run {} on {}", program.display(), node.name()))
}

fn status(name: Option<String>, output: Output) -> anyhow::Result<ExitCode> {
    let names = match name {
        Some(name) => vec![name],
        None => Lab::names()?,
    };
    let mut labs = Vec::new();
    let mut broken = false;
    for name in names {
        match Lab::open(&name) {
            Ok(lab) => labs.push(shown(&lab)),
            Err(error) => {
                eprintln!(
                    "error: lab {name}: {error}; `director lab down --name {name}` removes it"
                );
                broken = true;
            }
        }
    }
    output.print(&labs, || if labs.is_empty() { "no labs".into() } else { table(&labs) })?;
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shown(lab: &Lab) -> Shown {
    let nodes = lab.nodes().iter().map(|node| ShownNode {
        node: node.name().to_owned(),
        namespace: format!("{}-{}", lab.name(), node.name()),
        interface: node.interface().to_owned(),
        addresses: node.addresses().to_vec(),
    });
    Shown { lab: lab.name().to_owned(), nodes: nodes.collect() }
}

fn table(labs: &[Shown]) -> String {
    let mut text = String::new();
    for lab in labs {
        let _ = writeln!(text, "lab {}", lab.lab);
        for node in &lab.nodes {
            let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
            let _ =
                writeln!(text, "  {:<10} {:<8} {}", node.node, node.interface, addresses.join(" "));
        }
    }
    text
}
