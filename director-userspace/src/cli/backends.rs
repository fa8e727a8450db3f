//! `director backends`: lists backends with their state and its reason.

use std::{fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::{InstanceName, output::Output, state_reader::read_state};
use crate::{
    kernel::wall_clock,
    serve::view::{
        BackendView, Rating,
        status::{BackendStatus, CheckStatus},
        text::{ago, count, span, table},
    },
};

/// List backends with their state and its reason, weight, share, connections and traffic
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only backends of this service
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// More columns, wider than 80 characters, and the result of each check
    #[arg(long)]
    wide: bool,
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Serialize)]
struct Row {
    service: String,
    frontend: String,
    #[serde(flatten)]
    backend: BackendView,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let services = read_state(&args.instance.instance).await?.services;
    if let Some(wanted) = &args.service
        && !services.iter().any(|service| service.name == *wanted)
    {
        let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
        anyhow::bail!("there is no service {wanted}; there are: {}", names.join(", "));
    }
    let rows: Vec<Row> = services
        .into_iter()
        .filter(|service| args.service.as_ref().is_none_or(|wanted| service.name == *wanted))
        .flat_map(|service| {
            let (name, frontend) = (service.name, service.frontend);
            service.backends.into_iter().map(move |backend| Row {
                service: name.clone(),
                frontend: frontend.clone(),
                backend,
            })
        })
        .collect();
    args.output.print(&rows, || text(&rows, args.wide))?;
    Ok(ExitCode::SUCCESS)
}

fn text(rows: &[Row], wide: bool) -> String {
    let mut headings =
        vec!["SERVICE", "BACKEND", "STATE", "WEIGHT", "SHARE", "CONNS", "FLOWS", "PACKETS"];
    headings.push("BYTES");
    if wide {
        headings.extend(["FORWARD", "NEXT HOP", "SINCE"]);
    }
    let cells: Vec<_> = rows.iter().map(|row| cells(row, wide)).collect();
    let mut text = table(&headings, &cells);
    let notes: Vec<String> = rows.iter().filter_map(|row| note(row, wide)).collect();
    if !notes.is_empty() {
        text.push_str("\n\n");
        text.push_str(&notes.join("\n"));
    }
    text
}

fn cells(row: &Row, wide: bool) -> Vec<String> {
    let backend = &row.backend;
    let weight = match &backend.status {
        Some(status) if status.configured_weight != backend.weight => {
            format!("{}/{}", backend.weight, status.configured_weight)
        }
        _ => backend.weight.to_string(),
    };
    let mut cells = vec![
        row.service.clone(),
        backend.address.to_string(),
        backend.label().into(),
        weight,
        format!("{:.1}%", backend.share),
        count(backend.established),
        count(backend.traffic.flows),
        count(backend.traffic.packets),
        count(backend.traffic.bytes),
    ];
    if wide {
        let since = backend.status.as_ref().map(|status| ago(status.since));
        cells.extend([
            backend.forward.into(),
            backend.next_hop.clone().unwrap_or_else(|| "unknown".into()),
            since.unwrap_or_else(|| "-".into()),
        ]);
    }
    cells
}

/// Details that do not fit the table: the reason of a backend's state, and admin overrides.
fn note(row: &Row, wide: bool) -> Option<String> {
    let backend = &row.backend;
    let mut parts = Vec::new();
    if let Some(left) = backend.drain_left_s {
        parts.push(format!("draining, {left}s left"));
    }
    let has_next_hop = backend.next_hop.is_some();
    if !has_next_hop && !wide {
        parts.push("next hop unknown".into());
    }
    if let Some(status) = &backend.status {
        if backend.drain_left_s.is_none() && backend.rating() < Rating::Neutral {
            let colon = if status.reason.is_empty() { "" } else { ": " };
            let (state, reason) = (status.state.label(), &status.reason);
            parts.push(format!("{state} since {}{colon}{reason}", ago(status.since)));
        }
        parts.extend(admin_override(status));
    }
    let mut note = String::new();
    if !parts.is_empty() || wide && has_checks(backend) {
        // Writing to a String cannot fail.
        let _ = write!(note, "{} {}: {}", row.service, backend.address, parts.join("; "));
    }
    if wide {
        for check in backend.status.iter().flat_map(|status| &status.checks) {
            let _ = write!(note, "\n  {}", check_text(check));
        }
    }
    (!note.is_empty()).then(|| note.replace(": \n", ":\n"))
}

fn has_checks(backend: &BackendView) -> bool {
    backend.status.as_ref().is_some_and(|status| !status.checks.is_empty())
}

/// Settings of a backend by an administrator or its agent.
pub(super) fn admin_override(status: &BackendStatus) -> Vec<String> {
    let mut parts = Vec::new();
    let set = status.override_.unwrap_or_default();
    if let Some(drain) = set.drain {
        let until = drain.deadline.map(|at| at.saturating_sub(wall_clock::now()));
        let left = until.map_or_else(String::new, |left| format!(", {} left", span(left)));
        parts.push(format!("drained by an administrator {} ago{left}", ago(drain.since)));
    }
    if let Some(weight) = set.weight {
        parts.push(format!(
            "weight {} set by an administrator {} ago",
            weight.weight,
            ago(weight.since)
        ));
    }
    if let Some(agent) = &status.agent {
        parts.push(format!("agent reports {agent}"));
    }
    parts
}

/// One check in a line.
pub(super) fn check_text(check: &CheckStatus) -> String {
    let state = match check.up {
        Some(true) => "up",
        Some(false) => "down",
        None => "not known yet",
    };
    let via = if check.via == "path" { " through the path" } else { "" };
    let took = check.latency_ms.map_or_else(String::new, |took| format!(", {took:.1} ms"));
    let colon = if check.reason.is_empty() { "" } else { ": " };
    let since = match check.since {
        0 => String::new(),
        since => format!(" for {}", ago(since)),
    };
    format!("{}{via}: {state}{since}{took}{colon}{}", check.kind, check.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::view::fixture::{snapshot, status};

    fn rows(down: &[&str]) -> Vec<Row> {
        let snapshot = snapshot(1_000_000).with(Some(status(down)));
        let web = snapshot.services.into_iter().nth(1).unwrap();
        let (service, frontend) = (web.name, web.frontend);
        let row = |backend| Row { service: service.clone(), frontend: frontend.clone(), backend };
        web.backends.into_iter().map(row).collect()
    }

    #[test]
    fn a_table_fits_80_columns_and_has_the_reason_of_a_down_backend() {
        let text = text(&rows(&["10.0.0.12"]), false);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("web 10.0.0.12: down since 12s: connection refused"), "{text}");
        assert!(text.contains("1.00M"), "{text}");
    }

    #[test]
    fn a_wide_table_has_every_check() {
        let text = text(&rows(&["10.0.0.12"]), true);
        assert!(text.contains("  tcp: down for 12s: connection refused"), "{text}");
        assert!(text.contains("  tcp: up for 12s, 0.4 ms: connected"), "{text}");
        assert!(text.contains("02:00:00:00:00:02"), "{text}");
    }

    #[test]
    fn healthy_backends_have_no_notes() {
        assert_eq!(text(&rows(&[]), false).lines().count(), 4);
    }
}
