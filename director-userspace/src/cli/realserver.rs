//! `director realserver`: sets this host up as a backend, or undoes that.

use std::{io::Write as _, net::IpAddr, process::ExitCode};

use anyhow::Context as _;

use super::output::Output;
use crate::{
    kernel::net::Netlink,
    setup::realserver::{
        Forward, Mode, Prefix, RealServer, RealServerError, Settings, Status, Step,
    },
};

/// Set this host up as a backend: VIPs on loopback, ARP settings, XDP decapsulation
///
/// The VIPs are added to lo, ARP does not answer for them, and tunnels from the directors named
/// with --from are decapsulated. Running it again changes only what differs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A VIP to serve; may be repeated, or several joined by commas
    #[arg(long = "vip", value_name = "ADDRESS", value_delimiter = ',')]
    vips: Vec<IpAddr>,
    /// Directors that may send tunnels; may be repeated, or several joined by commas
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_delimiter = ',')]
    from: Vec<Prefix>,
    /// The interface that faces the director [default: the only one that is up, or the one toward
    /// the first director]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Where in the receive path the XDP program runs
    #[arg(long, value_enum, default_value = "native")]
    mode: Mode,
    /// How packets arrive from the director
    #[arg(long, value_enum, default_value = "tunnel")]
    forward: Forward,
    /// Only print the steps, as lines for a shell
    #[arg(long, conflicts_with = "status")]
    dry_run: bool,
    /// Undo all changes
    #[arg(long, conflicts_with_all = ["vips", "from", "interface", "status"])]
    down: bool,
    /// Show the setup and the packet counters
    #[arg(long, conflicts_with_all = ["vips", "from", "interface"])]
    status: bool,
    /// The instance, if several real servers run on one host, each in its own network namespace
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Runs the command. 0: done, 1: failed, 2: wrong usage.
///
/// # Errors
/// If an operation failed.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let result = execute(args).await;
    match result {
        Err(error)
            if error.downcast_ref::<RealServerError>().is_some_and(RealServerError::is_usage) =>
        {
            for line in format!("{error:#}").lines() {
                writeln!(std::io::stderr(), "error: {line}")?;
            }
            Ok(ExitCode::from(2))
        }
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

async fn execute(args: Args) -> anyhow::Result<()> {
    let netlink = Netlink::connect()?;
    let server = RealServer::new(netlink, args.instance.as_deref())?;
    if args.status {
        let status = server.status().await?;
        return args.output.print(&status, || table(&status));
    }
    let settings = Settings {
        vips: args.vips.into_iter().collect(),
        from: args.from.into_iter().collect(),
        interface: args.interface,
        mode: args.mode,
        forward: args.forward,
    };
    let steps = match (args.down, args.dry_run) {
        (false, false) => server.up(&settings).await?,
        (false, true) => server.plan_up(&settings).await?,
        (true, false) => server.down().await?,
        (true, true) => server.plan_down().await?,
    };
    let lines: Vec<String> = steps.iter().map(Step::to_string).collect();
    args.output
        .print(&lines, || match (lines.is_empty(), args.dry_run) {
            (true, false) => "nothing to do".to_owned(),
            _ => lines.join("\n"),
        })
        .context("all steps are done, but cannot be printed")
}

fn table(status: &Status) -> String {
    if !status.up {
        return "not set up".to_owned();
    }
    let mut lines = Vec::new();
    for vip in &status.vips {
        let note = if vip.present { "" } else { "  MISSING on lo: run the command again" };
        lines.push(format!("VIP            {}{note}", vip.address));
    }
    for sysctl in &status.sysctls {
        let note = match &sysctl.current {
            Some(current) if *current == sysctl.set => String::new(),
            Some(current) => format!("  CHANGED since, is now {current}"),
            None => "  GONE".to_owned(),
        };
        let (key, set, original) = (&sysctl.key, &sysctl.set, &sysctl.original);
        lines.push(format!("sysctl         {key} = {set} (was {original}){note}"));
    }
    if let Some(decap) = &status.decapsulation {
        let note = if decap.attached { "" } else { "  NOT ATTACHED: run the command again" };
        lines.push(format!("decapsulation  {}{note}", decap.settings));
        for (what, packets) in &decap.packets {
            lines.push(format!("  {what:<15}{packets:>12} packets"));
        }
    }
    lines.join("\n")
}
