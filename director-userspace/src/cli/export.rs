//! `director export`: writes Director's services for other load balancers.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use super::{InstanceName, explained, load_config, print_message};
use crate::{
    kernel::datapath::{self, Datapath},
    migrate::export,
};

/// Write Director's services in the format of another load balancer
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    to: To,
}

#[derive(Debug, clap::Subcommand)]
enum To {
    /// In the format that `ipvsadm -S -n` prints and `ipvsadm -R` reads
    ///
    /// The running director's services, or with -c those of a file.
    Ipvsadm {
        /// A configuration, instead of the running director
        #[arg(short, long = "config", visible_short_alias = 'f', value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        instance: InstanceName,
    },
}

/// Runs the command. 0: done, 1: failed, 2: the configuration is invalid.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let To::Ipvsadm { config, instance } = &args.to;
    let mut notes = Vec::new();
    let services = match config {
        Some(path) => {
            let config = load_config(path)?.config;
            let checked = config.services.iter().filter(|s| !s.health.checks.is_empty()).count();
            let sorry = config.services.iter().filter(|s| s.sorry.is_some()).count();
            if checked + sorry > 0 {
                notes.push(
                    "health checks and sorry backends are left out: this format has none, \
                     keepalived has"
                        .to_owned(),
                );
            }
            export::of_config(&config)
        }
        None => {
            let datapath = Datapath::open(&instance.instance).map_err(explained)?;
            export::of_running(&datapath::observe(&datapath.tables))
        }
    };
    let mut exported = export::ipvsadm(&services);
    notes.append(&mut exported.notes);
    io::stdout().write_all(exported.text.as_bytes())?;
    for note in notes {
        print_message("note", &note);
    }
    Ok(ExitCode::SUCCESS)
}
