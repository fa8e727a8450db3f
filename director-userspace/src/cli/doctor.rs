//! `director doctor`: what keeps packets from arriving, and the fix.

use std::{
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use serde::Serialize;

use super::output::Output;
use crate::{
    inspect::doctor::{
        Finding, RealserverExpectation, Report, examine_director, examine_realserver,
    },
    kernel::net::Netlink,
    policy::config,
    setup::realserver::{Forward, Prefix, RealServer},
};

/// The configuration of a director that is given none.
const DEFAULT_CONFIG: &str = "/etc/director/director.yaml";

/// Check this host: kernel, driver, queues, MTU, settings, next hops, VIPs; and say the fix
///
/// With a configuration, as a director; with --realserver, as a backend. With neither, as what
/// this host is set up for. Changes nothing. Exits 1 if something failed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The director's configuration [default: /etc/director/director.yaml, if there is one]
    #[arg(short, long, visible_short_alias = 'f', value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check a backend, as `director realserver` has set it up or as the options below say
    #[arg(long, conflicts_with = "config")]
    realserver: bool,
    /// A VIP that the backend serves; may be repeated, or several joined by commas
    #[arg(long = "vip", value_name = "ADDRESS", value_delimiter = ',', requires = "realserver")]
    vips: Vec<IpAddr>,
    /// Directors that send to the backend; may be repeated, or several joined by commas
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_delimiter = ',', requires = "realserver")]
    from: Vec<Prefix>,
    /// The backend's interface that faces the director
    #[arg(long, value_name = "NAME", requires = "realserver")]
    interface: Option<String>,
    /// How packets arrive at the backend [default: both, or what is set up]
    #[arg(long, value_enum, requires = "realserver")]
    forward: Option<Forward>,
    /// Tells several directors or real servers of one host apart
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Runs the command. 0: nothing failed, 1: something did, 2: wrong usage or invalid configuration.
///
/// # Errors
/// What kept doctor from looking, for people.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let netlink = Netlink::connect()?;
    let default = Path::new(DEFAULT_CONFIG);
    let file = match &args.config {
        Some(file) => Some(file.as_path()),
        None => (!args.realserver && default.exists()).then_some(default),
    };
    let report = match file {
        Some(file) => match config::load(file) {
            Ok(loaded) => examine_director(&netlink, &loaded.config).await?,
            Err(errors) => return usage(&errors.to_string()),
        },
        None => match expectation(&args, &netlink).await? {
            Some(expect) => examine_realserver(&netlink, expect).await?,
            None if args.realserver => {
                return usage(
                    "no real server is set up here under this instance's name (`--instance`); say \
                     what it should be: `--vip ADDRESS --from DIRECTOR`",
                );
            }
            None => {
                return usage(&format!(
                    "there is nothing to check: {DEFAULT_CONFIG} does not exist, and no real \
                     server is set up here; name a configuration with -c FILE, or what a backend \
                     should be with --realserver --vip ADDRESS"
                ));
            }
        },
    };
    args.output.print(&Shown::from(&report), || report.to_string())?;
    Ok(if report.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the backend is meant to be: what is set up, and over it what the options say.
async fn expectation(
    args: &Args,
    netlink: &Netlink,
) -> anyhow::Result<Option<RealserverExpectation>> {
    let status = RealServer::new(netlink.clone(), args.instance.as_deref())?
        .status()
        .await
        .context("cannot tell what real server is set up here")?;
    let set_up = RealserverExpectation::of(&status);
    if set_up.is_none() && args.vips.is_empty() {
        return Ok(None);
    }
    let mut expect = set_up.unwrap_or(RealserverExpectation {
        tunnel: true,
        direct: true,
        ..RealserverExpectation::default()
    });
    if !args.vips.is_empty() {
        expect.vips = args.vips.iter().copied().collect();
    }
    if !args.from.is_empty() {
        expect.from = args.from.iter().copied().collect();
    }
    if args.interface.is_some() {
        expect.interface.clone_from(&args.interface);
    }
    if let Some(forward) = args.forward {
        expect.tunnel = forward.tunnels();
        expect.direct = forward != Forward::Tunnel;
    }
    Ok(Some(expect))
}

/// The report as scripts see it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    /// Whether nothing failed.
    healthy: bool,
    findings: &'a [Finding],
}

impl<'a> From<&'a Report> for Shown<'a> {
    fn from(report: &'a Report) -> Self {
        Self { healthy: report.healthy(), findings: &report.findings }
    }
}

fn usage(message: &str) -> anyhow::Result<ExitCode> {
    for line in message.lines() {
        writeln!(std::io::stderr(), "error: {line}")?;
    }
    Ok(ExitCode::from(2))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn both_names_of_the_configuration_are_the_same() {
        for option in ["-c", "-f", "--config"] {
            let command = Command::try_parse_from(["doctor", option, "x.yaml"]).expect(option);
            assert_eq!(command.args.config.as_deref(), Some(Path::new("x.yaml")));
        }
    }

    #[test]
    fn a_backend_s_options_want_a_backend() {
        let parse = |line: &str| Command::try_parse_from(line.split(' '));
        assert!(parse("doctor --vip 192.0.2.1").is_err());
        assert!(parse("doctor --realserver -c x.yaml").is_err());
        let line = "doctor --realserver --vip 192.0.2.1,2001:db8::1 --from 10.0.0.0/8";
        let args = parse(line).expect("valid").args;
        assert_eq!((args.vips.len(), args.from.len()), (2, 1));
    }

    #[test]
    fn scripts_see_health_and_findings() {
        let report = Report::default();
        let json = serde_json::to_value(Shown::from(&report)).expect("serializes");
        assert_eq!(json, serde_json::json!({ "healthy": true, "findings": [] }));
    }
}
