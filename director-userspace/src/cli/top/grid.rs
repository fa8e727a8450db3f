//! A snapshot as rows and columns.

use std::cmp::Ordering;

use director_common::verdict::Verdict;

use super::app::{Order, Page};
use crate::serve::view::{
    BackendView, Rating, ServiceView, Snapshot, VerdictView,
    text::{ago, count, rate},
};

/// Rows and columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Grid {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Characters; 0: the rest.
    pub(super) width: u16,
    pub(super) is_number: bool,
}

/// A row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// Identifies the row across snapshots.
    pub(super) key: String,
    pub(super) cells: Vec<String>,
    /// The sort values of columns of numbers.
    numbers: Vec<f64>,
    /// The frontend of its service.
    pub(super) frontend: Option<String>,
    /// The column with the state, and its rating.
    pub(super) rating: Option<(usize, Rating)>,
}

impl Row {
    /// Whether one of its cells contains `wanted`, which is in lower case.
    pub(super) fn matches(&self, wanted: &str) -> bool {
        self.cells.iter().any(|cell| cell.to_lowercase().contains(wanted))
    }
}

impl Grid {
    /// Sorts the rows; the sort is stable.
    pub(super) fn sort(&mut self, order: Order) {
        let Some(column) = self.columns.get(order.column) else { return };
        let compare = |a: &Row, b: &Row| {
            if column.is_number {
                a.numbers[order.column].total_cmp(&b.numbers[order.column])
            } else {
                a.cells[order.column].cmp(&b.cells[order.column])
            }
        };
        self.rows.sort_by(|a, b| {
            let ordering: Ordering = compare(a, b);
            if order.descending { ordering.reverse() } else { ordering }
        });
    }
}

/// A cell's text and its sort value.
struct Cell(String, f64);

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self(text.into(), 0.0)
    }

    fn count(number: u64) -> Self {
        Self(count(number), number as f64)
    }

    fn rate(per_second: Option<f64>) -> Self {
        Self(rate(per_second), per_second.unwrap_or(-1.0))
    }
}

impl Row {
    fn new(key: String, cells: Vec<Cell>) -> Self {
        let (cells, numbers) = cells.into_iter().map(|Cell(text, number)| (text, number)).unzip();
        Self { key, cells, numbers, frontend: None, rating: None }
    }
}

const fn text(title: &'static str, width: u16) -> Column {
    Column { title, width, is_number: false }
}

const fn number(title: &'static str, width: u16) -> Column {
    Column { title, width, is_number: true }
}

/// The rows of a page, in their natural order.
pub(super) fn of(page: &Page, snapshot: &Snapshot) -> Grid {
    match page {
        Page::Services => services(snapshot),
        Page::Service(frontend) => {
            let service = snapshot.services.iter().filter(|s| s.frontend == *frontend);
            backends(service, true)
        }
        Page::Backends => backends(snapshot.services.iter(), false),
        Page::Reasons => reasons(snapshot),
    }
}

fn services(snapshot: &Snapshot) -> Grid {
    let columns = vec![
        text("SERVICE", 0),
        text("ADDRESS", 0),
        text("STATE", 9),
        number("UP", 5),
        number("CONNS", 5),
        number("PKT/S", 5),
        number("BYT/S", 5),
        number("NEW/S", 5),
        number("DROP/S", 6),
    ];
    let row = |service: &ServiceView| {
        let (up, configured) = service.usable();
        let health = service.status;
        let cells = vec![
            Cell::text(service.name.clone()),
            Cell::text(service.frontend.clone()),
            Cell::text(health.map_or("-", |health| health.state.label())),
            Cell(format!("{up}/{configured}"), up as f64 / configured.max(1) as f64),
            Cell::count(service.established),
            Cell::rate(service.rate.map(|rate| rate.packets)),
            Cell::rate(service.rate.map(|rate| rate.bytes)),
            Cell::rate(service.rate.map(|rate| rate.flows)),
            Cell::rate(service.dropped_rate),
        ];
        Row {
            frontend: Some(service.frontend.clone()),
            rating: health.map(|health| (2, health.rating())),
            ..Row::new(service.frontend.clone(), cells)
        }
    };
    Grid { columns, rows: snapshot.services.iter().map(row).collect() }
}

/// The backends of services; for one service there is room for the age and the share.
fn backends<'a>(services: impl Iterator<Item = &'a ServiceView>, is_one: bool) -> Grid {
    let mut columns = vec![text("BACKEND", 0)];
    if !is_one {
        columns.push(text("SERVICE", 0));
    }
    columns.push(text("STATE", 9));
    if is_one {
        columns.extend([number("SINCE", 5), number("SHARE", 6)]);
    }
    columns.extend([
        number("WEIGHT", 6),
        number("CONNS", 5),
        number("PKT/S", 5),
        number("BYT/S", 5),
        number("NEW/S", 5),
    ]);
    let row = |service: &ServiceView, backend: &BackendView| {
        let mut cells = vec![Cell::text(backend.address.to_string())];
        if !is_one {
            cells.push(Cell::text(service.name.clone()));
        }
        let rating = Some((cells.len(), backend.rating()));
        cells.push(Cell::text(backend.label()));
        if is_one {
            let since = backend.status.as_ref().map(|status| status.since);
            let age = since.map_or_else(|| "-".into(), ago);
            cells.push(Cell(age, -(since.unwrap_or_default() as f64)));
            cells.push(Cell(format!("{:.1}%", backend.share), backend.share));
        }
        cells.extend([
            Cell(backend.weight.to_string(), backend.weight.into()),
            Cell::count(backend.established),
            Cell::rate(backend.rate.map(|rate| rate.packets)),
            Cell::rate(backend.rate.map(|rate| rate.bytes)),
            Cell::rate(backend.rate.map(|rate| rate.flows)),
        ]);
        let frontend = Some(service.frontend.clone());
        Row { frontend, rating, ..Row::new(backend_key(service, backend), cells) }
    };
    let rows = services.flat_map(|service| service.backends.iter().map(move |b| (service, b)));
    Grid { columns, rows: rows.map(|(service, backend)| row(service, backend)).collect() }
}

/// The key of a backend's row.
pub(super) fn backend_key(service: &ServiceView, backend: &BackendView) -> String {
    format!("{} {}", service.frontend, backend.reference.0)
}

fn reasons(snapshot: &Snapshot) -> Grid {
    let columns = vec![
        text("VERDICT", 8),
        text("REASON", 16),
        number("PKT/S", 5),
        number("PACKETS", 7),
        text("MEANING", 0),
    ];
    let row = |view: &VerdictView| {
        let (verdict, meaning) = match view.verdict {
            Verdict::Drop(reason) => ("drop", reason.explanation()),
            Verdict::Reply(_) => ("answered", ""),
            verdict => (verdict.label(), ""),
        };
        let cells = vec![
            Cell::text(verdict),
            Cell::text(view.verdict.reason().unwrap_or("-")),
            Cell::rate(view.rate),
            Cell::count(view.packets),
            Cell::text(meaning),
        ];
        let is_loss = matches!(view.verdict, Verdict::Drop(_)) && view.rate > Some(0.0);
        let rating = is_loss.then_some((2, Rating::Bad));
        Row { rating, ..Row::new(format!("{:?}", view.verdict), cells) }
    };
    // Drops come first.
    let mut verdicts: Vec<&VerdictView> = snapshot.verdicts.iter().collect();
    verdicts.sort_by_key(|view| match view.verdict {
        Verdict::Drop(_) => 0,
        Verdict::Reply(_) => 1,
        Verdict::Tx | Verdict::Redirect => 2,
        Verdict::Pass(_) => 3,
    });
    Grid { columns, rows: verdicts.into_iter().map(row).collect() }
}
