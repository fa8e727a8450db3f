//! `director doctor`: checks what keeps packets from arriving, and how to fix it.

use std::{
    collections::BTreeSet,
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

/// The default configuration of a director.
const DEFAULT_CONFIG: &str = "/etc/director/director.yaml";

/// Check this host: kernel, driver, queues, MTU, settings, next hops, VIPs; and show the fixes
///
/// With a configuration, as a director; with --realserver, as a backend; with neither, by the setup
/// of this host. Changes nothing. Exits 1 if a check failed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The director's configuration [default: /etc/director/director.yaml, if there is one]
    #[arg(short, long, visible_short_alias = 'f', value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check a backend, by the setup of `director realserver` or by the options below
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
    /// How packets arrive at the backend [default: by its setup, else both]
    #[arg(long, value_enum, requires = "realserver")]
    forward: Option<Forward>,
    /// The instance, if several directors or real servers run on one host
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Runs the command. 0: no check failed, 1: a check failed, 2: wrong usage or invalid
/// configuration.
///
/// # Errors
/// If the host cannot be examined.
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
                    "no real server is set up here under this instance's name (`--instance`); \
                     describe it: `--vip ADDRESS --from DIRECTOR`",
                );
            }
            None => {
                return usage(&format!(
                    "there is nothing to check: {DEFAULT_CONFIG} does not exist, and no real \
                     server is set up here; name a configuration with -c FILE, or describe a \
                     backend with --realserver --vip ADDRESS"
                ));
            }
        },
    };
    args.output.print(&Shown::from(&report), || report.to_string())?;
    Ok(if report.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The expected setup of the backend: its actual setup, overridden by the options.
async fn expectation(
    args: &Args,
    netlink: &Netlink,
) -> anyhow::Result<Option<RealserverExpectation>> {
    let status = RealServer::new(netlink.clone(), args.instance.as_deref())?
        .status()
        .await
        .context("cannot read the real server's setup")?;
    let actual = RealserverExpectation::of(&status);
    if actual.is_none() && args.vips.is_empty() {
        return Ok(None);
    }
    let mut expect = actual.unwrap_or(RealserverExpectation {
        vips: BTreeSet::new(),
        interface: None,
        from: BTreeSet::new(),
        forward: Forward::Both,
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
        expect.forward = forward;
    }
    Ok(Some(expect))
}

/// The report as printed for scripts.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    /// Whether no check failed.
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
    fn all_options_of_the_configuration_are_equal() {
        for option in ["-c", "-f", "--config"] {
            let command = Command::try_parse_from(["doctor", option, "x.yaml"]).expect(option);
            assert_eq!(command.args.config.as_deref(), Some(Path::new("x.yaml")));
        }
    }

    #[test]
    fn options_of_a_backend_require_realserver() {
        let parse = |line: &str| Command::try_parse_from(line.split(' '));
        assert!(parse("doctor --vip 192.0.2.1").is_err());
        assert!(parse("doctor --realserver -c x.yaml").is_err());
        let line = "doctor --realserver --vip 192.0.2.1,2001:db8::1 --from 10.0.0.0/8";
        let args = parse(line).expect("valid").args;
        assert_eq!((args.vips.len(), args.from.len()), (2, 1));
    }

    #[test]
    fn json_has_health_and_findings() {
        let report = Report::default();
        let json = serde_json::to_value(Shown::from(&report)).expect("serializes");
        assert_eq!(json, serde_json::json!({ "healthy": true, "findings": [] }));
    }
}
