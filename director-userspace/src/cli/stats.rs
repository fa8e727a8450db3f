//! `director stats`: packets by verdict and reason, as totals or rates.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use director_common::verdict::Verdict;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{InstanceName, explained, output::Output};
use crate::{
    policy::config::units,
    serve::view::{
        Reader, ServiceView, Snapshot, Traffic,
        text::{count, rate, table},
    },
};

/// Show counters: packets by verdict and reason, and per service and backend
///
/// With --interval, rates per second are shown, once every interval, until interrupted.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show rates over this time, such as 1s
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    interval: Option<Duration>,
    /// Stop after N intervals
    #[arg(long, value_name = "N", requires = "interval", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    instance: InstanceName,
    /// How to print: json and yaml are one document per interval
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Rates over shorter intervals would be too noisy.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Stats {
    /// Packets forwarded by their ingress interface.
    tx: u64,
    /// Packets forwarded by another interface.
    redirect: u64,
    /// Packets answered with an ICMP error, by reason.
    reply: BTreeMap<&'static str, u64>,
    /// Packets left to the host, by reason.
    pass: BTreeMap<&'static str, u64>,
    /// Packets dropped, by reason.
    drop: BTreeMap<&'static str, u64>,
    /// The same per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
    services: Vec<ServiceView>,
}

#[derive(Default, Serialize)]
struct Rates {
    tx: f64,
    redirect: f64,
    reply: BTreeMap<&'static str, f64>,
    pass: BTreeMap<&'static str, f64>,
    drop: BTreeMap<&'static str, f64>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut reader = Reader::new(&args.instance.instance);
    let mut before = reader.read().map_err(explained)?;
    let Some(interval) = args.interval else {
        print(&args, before)?;
        return Ok(ExitCode::SUCCESS);
    };
    anyhow::ensure!(
        interval >= MIN_INTERVAL,
        "--interval: at least {}ms",
        MIN_INTERVAL.as_millis()
    );
    let mut due = Instant::now();
    let mut left = args.count.unwrap_or(u64::MAX);
    loop {
        due += interval;
        sleep_until(due).await;
        let now = reader.read().map_err(explained)?;
        print(&args, now.clone().since(&before))?;
        before = now;
        left -= 1;
        if left == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        if args.output != Output::Json {
            println!("{}", if args.output == Output::Yaml { "---" } else { "" });
        }
    }
}

fn print(args: &Args, snapshot: Snapshot) -> anyhow::Result<()> {
    let verdicts = snapshot.verdicts;
    let mut stats = Stats {
        tx: 0,
        redirect: 0,
        reply: BTreeMap::new(),
        pass: BTreeMap::new(),
        drop: BTreeMap::new(),
        rates: args.interval.map(|_| Rates::default()),
        services: snapshot.services,
    };
    for view in &verdicts {
        let packets = view.packets;
        match view.verdict {
            Verdict::Tx => stats.tx = packets,
            Verdict::Redirect => stats.redirect = packets,
            Verdict::Reply(reason) => drop(stats.reply.insert(reason.label(), packets)),
            Verdict::Pass(reason) => drop(stats.pass.insert(reason.label(), packets)),
            Verdict::Drop(reason) => drop(stats.drop.insert(reason.label(), packets)),
        }
        let (Some(rates), Some(rate)) = (&mut stats.rates, view.rate) else { continue };
        match view.verdict {
            Verdict::Tx => rates.tx = rate,
            Verdict::Redirect => rates.redirect = rate,
            Verdict::Reply(reason) => drop(rates.reply.insert(reason.label(), rate)),
            Verdict::Pass(reason) => drop(rates.pass.insert(reason.label(), rate)),
            Verdict::Drop(reason) => drop(rates.drop.insert(reason.label(), rate)),
        }
    }
    args.output.print(&stats, || {
        let lines: Vec<_> = verdicts.iter().map(|v| (v.verdict, v.packets, v.rate)).collect();
        let as_rates = stats.rates.is_some();
        format!("{}\n\n{}", packets(&lines, as_rates), traffic(&stats.services, as_rates))
    })
}

fn packets(verdicts: &[(Verdict, u64, Option<f64>)], as_rates: bool) -> String {
    let rows: Vec<_> = verdicts
        .iter()
        .filter(|(verdict, packets, _)| *packets > 0 || verdict.reason().is_none())
        .map(|(verdict, packets, per_second)| {
            let what = match verdict {
                Verdict::Reply(_) => "answered",
                verdict => verdict.label(),
            };
            let meaning = match verdict {
                Verdict::Drop(reason) => reason.explanation(),
                _ => "",
            };
            let reason = verdict.reason().unwrap_or("");
            let mut row = vec![what.into(), reason.into(), packets.to_string(), meaning.into()];
            if as_rates {
                row.insert(3, rate(*per_second));
            }
            row
        })
        .collect();
    if as_rates {
        table(&["VERDICT", "REASON", "PACKETS", "/S", ""], &rows)
    } else {
        table(&["VERDICT", "REASON", "PACKETS", ""], &rows)
    }
}

fn traffic(services: &[ServiceView], as_rates: bool) -> String {
    let mut rows = Vec::new();
    for service in services {
        let totals = |t: Traffic| [t.flows, t.packets, t.bytes].map(count);
        let rates = |r: Option<crate::serve::view::Rate>| {
            [r.map(|r| r.flows), r.map(|r| r.packets), r.map(|r| r.bytes)].map(rate)
        };
        let own = [count(service.dropped), count(service.untracked)];
        let own_rates = [rate(service.dropped_rate), count(service.untracked)];
        let mut row = |what: String, numbers: [String; 3], own: [String; 2]| {
            rows.push([vec![service.name.clone(), what], numbers.into(), own.into()].concat());
        };
        if as_rates {
            row(service.frontend.clone(), rates(service.rate), own_rates);
        } else {
            row(service.frontend.clone(), totals(service.traffic), own);
        }
        for backend in &service.backends {
            let none = ["-", "-"].map(String::from);
            let numbers = if as_rates { rates(backend.rate) } else { totals(backend.traffic) };
            row(format!("-> {}", backend.address), numbers, none);
        }
    }
    if as_rates {
        table(&["SERVICE", "", "FLOWS/S", "PKT/S", "BYTES/S", "DROP/S", "UNTRACKED"], &rows)
    } else {
        table(&["SERVICE", "", "FLOWS", "PACKETS", "BYTES", "DROPPED", "UNTRACKED"], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::view::fixture::snapshot;

    #[test]
    fn rates_replace_totals_and_fit_80_columns() {
        let before = snapshot(1000);
        let mut now = snapshot(3_001_000);
        now.taken = before.taken + Duration::from_secs(1);
        let now = now.since(&before);
        let text = traffic(&now.services, true);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let backend = text.lines().find(|line| line.contains("-> 10.0.0.11")).unwrap();
        let cells: Vec<&str> = backend.split_whitespace().collect();
        assert_eq!(cells[3..6], ["300k", "3.00M", "300M"], "{text}");
        let text = traffic(&now.services, false);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
