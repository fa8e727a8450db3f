//! What the looking commands show, read from the pinned maps: with or without a daemon.

use std::{collections::BTreeMap, net::IpAddr};

use director_common::{
    backend::{BackendState, ForwardMode},
    stats::BackendStats,
};
use serde::Serialize;

use super::explained;
use crate::{
    datapath::{self, Counters, Datapath, Instance},
    plan::{Observed, ObservedBackend, ObservedService, front},
};

/// Packets, bytes and flows.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Traffic {
    /// Packets forwarded.
    pub(super) packets: u64,
    /// Bytes of IP packet as they came.
    pub(super) bytes: u64,
    /// Flows scheduled.
    pub(super) flows: u64,
}

impl From<BackendStats> for Traffic {
    fn from(stats: BackendStats) -> Self {
        Self { packets: stats.packets, bytes: stats.bytes, flows: stats.flows }
    }
}

/// A backend of a service.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BackendView {
    /// Its address.
    pub(super) address: IpAddr,
    /// Its weight.
    pub(super) weight: u16,
    /// Share of new flows that the weight gives, percent.
    pub(super) share: f64,
    /// `active`, `down` or `draining`.
    pub(super) state: &'static str,
    /// Seconds until a draining backend's flows are given up.
    pub(super) drain_left_s: Option<u64>,
    /// `tunnel` or `direct`.
    pub(super) forward: &'static str,
    /// The next hop's MAC; null while it is not known.
    pub(super) next_hop: Option<String>,
    #[serde(flatten)]
    pub(super) traffic: Traffic,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ServiceView {
    /// Its name.
    pub(super) name: String,
    /// Protocol, address and port.
    pub(super) frontend: String,
    /// How new flows are placed.
    pub(super) scheduler: &'static str,
    #[serde(flatten)]
    pub(super) traffic: Traffic,
    /// Packets that no backend got.
    pub(super) dropped: u64,
    /// Flows that the flow table had no room for.
    pub(super) unrecorded: u64,
    /// Its backends, draining ones last.
    pub(super) backends: Vec<BackendView>,
}

/// What the maps of one instance say.
pub(super) struct View {
    pub(super) datapath: Datapath,
    pub(super) counters: Counters,
    pub(super) services: Vec<ServiceView>,
}

/// Reads everything.
pub(super) fn read(instance: &Instance) -> anyhow::Result<View> {
    let datapath = Datapath::open(instance).map_err(explained)?;
    let observed = datapath::observe(&datapath.tables);
    let counters = datapath::counters(&datapath.tables)?;
    let mut services: Vec<_> = observed
        .services
        .iter()
        .map(|(slot, service)| service_view(*slot, service, &observed, &counters))
        .collect();
    services.sort_by(|a, b| (&a.name, &a.frontend).cmp(&(&b.name, &b.frontend)));
    Ok(View { datapath, counters, services })
}

fn service_view(
    slot: u32,
    service: &ObservedService,
    observed: &Observed,
    counters: &Counters,
) -> ServiceView {
    let counted = counters.services.get(&slot).cloned().unwrap_or_default();
    let takers = || observed.backends_of(slot).filter(|(_, b)| b.state == BackendState::Active);
    let total: u64 = takers().map(|(_, backend)| u64::from(backend.weight)).sum();
    let traffic: BTreeMap<u32, BackendStats> =
        counted.backends.iter().map(|(slot, (_, counters))| (*slot, counters.stats)).collect();
    let mut backends: Vec<_> = observed
        .backends_of(slot)
        .map(|(slot, backend)| {
            backend_view(backend, total, traffic.get(&slot).copied().unwrap_or_default())
        })
        .collect();
    backends.sort_by(|a, b| (a.state, a.address).cmp(&(b.state, b.address)));
    ServiceView {
        name: service.name.clone(),
        frontend: front(service.key),
        scheduler: "maglev",
        traffic: counted.total.into(),
        dropped: counted.dropped,
        unrecorded: counted.unrecorded,
        backends,
    }
}

fn backend_view(backend: &ObservedBackend, total: u64, stats: BackendStats) -> BackendView {
    let is_draining = backend.state == BackendState::Draining;
    let share = if backend.state != BackendState::Active || total == 0 {
        0.0
    } else {
        (f64::from(backend.weight) * 1000.0 / total as f64).round() / 10.0
    };
    let left = backend.drain_deadline_ns.saturating_sub(datapath::clock_ns());
    BackendView {
        address: backend.address,
        weight: backend.weight,
        share,
        state: match backend.state {
            BackendState::Draining => "draining",
            BackendState::Down => "down",
            BackendState::Active | BackendState::Free => "active",
        },
        drain_left_s: is_draining.then_some(left / 1_000_000_000),
        forward: match backend.forward {
            ForwardMode::Tunnel => "tunnel",
            ForwardMode::Direct => "direct",
        },
        next_hop: backend.next_hop.is_resolved().then(|| {
            let mac = backend.next_hop.mac();
            mac.map(|byte| format!("{byte:02x}")).join(":")
        }),
        traffic: stats.into(),
    }
}

/// Columns of text, the first line being headings. Columns that are numbers are aligned right.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let is_number = |column: usize| {
        let digits = |cell: &str| cell.chars().all(|c| c.is_ascii_digit() || ".%-".contains(c));
        !rows.is_empty() && rows.iter().all(|row| digits(&row[column]))
    };
    let numbers: Vec<bool> = (0..headings.len()).map(is_number).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if numbers[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(headings.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn numbers_are_aligned_right() {
        let rows = vec![vec!["web".into(), "5".into()], vec!["dns".into(), "1200".into()]];
        assert_eq!(
            table(&["name", "packets"], &rows),
            "name  packets\nweb         5\ndns      1200"
        );
    }

    #[test]
    fn an_empty_table_is_its_headings() {
        assert_eq!(table(&["name", "packets"], &[]), "name  packets");
    }
}
