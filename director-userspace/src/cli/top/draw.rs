//! The layout of the screen.

use director_common::verdict::Verdict;
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Clear, Paragraph, Table, Wrap},
};

use super::{
    app::{App, Page},
    grid::{self, Column, Grid, Row, backend_key},
};
use crate::{
    cli::backends::{admin_override, check_text},
    serve::view::{
        BackendView, Rating, Snapshot,
        text::{ago, count, rate, table},
    },
};

const HELP: &str = "q quit  ⏎ open  Esc back  s sort  r reverse  / filter  b backends  d drops  ?";
const KEYS: &str = "\
q, Ctrl-C        quit
↑ ↓ PgUp PgDn    move
Enter            open a service, or the service of a backend
Esc              clear the filter, then go back
s, S             sort by the next column, by the previous one
r                reverse the order
/                show only rows that have this text; Enter, or Esc to clear
b                all backends
d                packets by verdict and reason
?                this help

CONNS are established flows in the flow table.
UP are backends that may get new flows, of those configured.
PACKETS and BYTES are those that were forwarded.";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let grid = app.grid();
    let marked = app.marked(&grid);
    let details = details(app, &grid, marked);
    // On a small screen the table gets most of the space.
    let for_details = (details.len() as u16).min(frame.area().height.saturating_sub(10) / 2);
    let [title, totals, lost, message, body, below, help] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(for_details),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let colours = Colours(app.has_colour);
    if let Some(snapshot) = &app.snapshot {
        let reversed = Style::new().add_modifier(Modifier::REVERSED);
        frame.render_widget(Paragraph::new(title_of(snapshot)).style(reversed), title);
        let now = Paragraph::new(clock(snapshot)).style(reversed).alignment(Alignment::Right);
        let right = Rect { x: title.right().saturating_sub(9), width: title.width.min(9), ..title };
        frame.render_widget(now, right);
        frame.render_widget(Line::from(totals_of(snapshot)), totals);
        let style = colours.of(if is_losing(snapshot) { Rating::Warning } else { Rating::Neutral });
        frame.render_widget(Line::styled(lost_of(snapshot), style), lost);
    }
    frame.render_widget(message_of(app, colours), message);
    frame.render_stateful_widget(rows(&grid, app, body.width, colours), body, {
        app.table.select(marked);
        &mut app.table
    });
    frame.render_widget(Paragraph::new(Text::from(details)).wrap(Wrap { trim: false }), below);
    frame.render_widget(Line::styled(HELP, Style::new().add_modifier(Modifier::DIM)), help);
    if app.shows_help {
        let area = centred(frame.area(), 70, KEYS.lines().count() as u16 + 2);
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(KEYS).block(Block::bordered().title(" keys ")), area);
    }
}

/// Services, then their backends, as text without a screen.
pub(super) fn text(app: &App) -> String {
    let Some(snapshot) = &app.snapshot else { return String::new() };
    let mut parts =
        vec![format!("{}  {}", title_of(snapshot), clock(snapshot)), totals_of(snapshot)];
    parts.push(lost_of(snapshot));
    parts.extend(app.missing.iter().cloned());
    let mut text = parts.join("\n");
    for page in [Page::Services, Page::Backends] {
        let grid = grid::of(&page, snapshot);
        let headings: Vec<&str> = grid.columns.iter().map(|column| column.title).collect();
        let rows: Vec<_> = grid.rows.into_iter().map(|row| row.cells).collect();
        text.push_str("\n\n");
        text.push_str(&table(&headings, &rows));
    }
    text
}

#[derive(Clone, Copy)]
struct Colours(bool);

impl Colours {
    fn of(self, rating: Rating) -> Style {
        let style = Style::new();
        match rating {
            _ if !self.0 => style,
            Rating::Good => style.fg(Color::Green),
            Rating::Neutral => style,
            Rating::Warning => style.fg(Color::Yellow),
            Rating::Bad => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}

fn title_of(snapshot: &Snapshot) -> String {
    let interfaces: Vec<_> = snapshot
        .interfaces
        .iter()
        .map(|interface| format!("{} {}", interface.name, interface.mode))
        .collect();
    let daemon = match &snapshot.status {
        Some(status) => {
            format!("revision {}, up {}", status.revision, ago(status.started))
        }
        None if snapshot.has_daemon() => "daemon running".into(),
        None => "no daemon".into(),
    };
    format!("director {}  {}  {daemon}", snapshot.instance, interfaces.join(", "))
}

/// Hours, minutes and seconds, UTC.
fn clock(snapshot: &Snapshot) -> String {
    let seconds = snapshot.at_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn totals_of(snapshot: &Snapshot) -> String {
    let forwarded = snapshot.packet_rate(|v| matches!(v, Verdict::Tx | Verdict::Redirect));
    let sum = |of: fn(&crate::serve::view::Rate) -> f64| {
        snapshot.services.iter().map(|service| service.rate.as_ref().map(of)).sum::<Option<f64>>()
    };
    format!(
        "forwarded {}/s  {} bytes/s  new flows {}/s  established {} of {}",
        rate(forwarded),
        rate(sum(|rate| rate.bytes)),
        rate(sum(|rate| rate.flows)),
        count(snapshot.established),
        count(snapshot.flow_capacity)
    )
}

fn is_losing(snapshot: &Snapshot) -> bool {
    snapshot.packet_rate(|v| matches!(v, Verdict::Drop(_))) > Some(0.0)
}

fn lost_of(snapshot: &Snapshot) -> String {
    let mut reasons: Vec<_> = snapshot
        .verdicts
        .iter()
        .filter(|view| matches!(view.verdict, Verdict::Drop(_)) && view.rate > Some(0.0))
        .collect();
    reasons.sort_by(|a, b| b.rate.unwrap_or(0.0).total_cmp(&a.rate.unwrap_or(0.0)));
    let mut text = format!(
        "answered {}/s  passed {}/s  dropped {}/s",
        rate(snapshot.packet_rate(|v| matches!(v, Verdict::Reply(_)))),
        rate(snapshot.packet_rate(|v| matches!(v, Verdict::Pass(_)))),
        rate(snapshot.packet_rate(|v| matches!(v, Verdict::Drop(_)))),
    );
    for (at, view) in reasons.iter().enumerate() {
        let sign = if at == 0 { ": " } else { ", " };
        let reason = view.verdict.reason().unwrap_or_default();
        let more = format!("{sign}{reason} {}", rate(view.rate));
        // The largest rates that fit the line; the page of reasons has all.
        if text.len() + more.len() > 77 {
            text.push_str(", …");
            break;
        }
        text.push_str(&more);
    }
    text
}

/// The message line: the filter, or the most important error or warning.
fn message_of(app: &App, colours: Colours) -> Line<'static> {
    let bad = |text: String| Line::styled(text, colours.of(Rating::Bad));
    if app.is_typing || !app.filter.is_empty() {
        let cursor = if app.is_typing { "_" } else { "" };
        return Line::from(format!("/{}{cursor}", app.filter));
    }
    if let Some(error) = &app.error {
        return bad(error.clone());
    }
    let status = app.snapshot.as_ref().and_then(|snapshot| snapshot.status.as_ref());
    if let Some(status) = status {
        if let Some(refused) = &status.refused {
            let first = refused.lines().next().unwrap_or_default();
            return bad(format!("the file is not in effect: {first}"));
        }
        if let Some(warning) = status.warnings.first() {
            let more = status.warnings.len() - 1;
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            return Line::styled(format!("{warning}{more}"), colours.of(Rating::Warning));
        }
    }
    if let Some(missing) = &app.missing {
        return Line::styled(missing.clone(), colours.of(Rating::Warning));
    }
    Line::default()
}

fn rows<'a>(grid: &'a Grid, app: &App, width: u16, colours: Colours) -> Table<'a> {
    let widths = widths(grid, width);
    let order = app.order();
    let heading = |(at, column): (usize, &Column)| {
        let mut style = Style::new().add_modifier(Modifier::BOLD);
        let mut title = column.title.to_owned();
        if let Some(order) = order.filter(|order| order.column == at) {
            style = style.add_modifier(Modifier::UNDERLINED);
            // If there is room for it.
            if title.len() < usize::from(widths[at]) {
                title.push(if order.descending { '↓' } else { '↑' });
            }
        }
        Text::styled(title, style).alignment(alignment(column))
    };
    let head = ratatui::widgets::Row::new(grid.columns.iter().enumerate().map(heading));
    let row = |row: &'a Row| {
        let cells = row.cells.iter().enumerate().map(|(at, cell)| {
            let style = row.rating.filter(|(column, _)| *column == at);
            let style = style.map_or_else(Style::new, |(_, rating)| colours.of(rating));
            let text = Span::styled(cut(cell, widths[at].into()), style);
            Text::from(text).alignment(alignment(&grid.columns[at]))
        });
        ratatui::widgets::Row::new(cells)
    };
    let widths = widths.iter().map(|width| Constraint::Length(*width));
    Table::new(grid.rows.iter().map(row), widths)
        .header(head)
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

fn alignment(column: &Column) -> Alignment {
    if column.is_number { Alignment::Right } else { Alignment::Left }
}

/// The widths of columns: fixed ones first; the others share the rest by need, the later ones
/// first, because names differ at their beginning.
fn widths(grid: &Grid, total: u16) -> Vec<u16> {
    let fixed: u16 = grid.columns.iter().map(|column| column.width).sum();
    let gaps = grid.columns.len().saturating_sub(1) as u16;
    let mut left = total.saturating_sub(fixed + gaps);
    let mut flexible = grid.columns.iter().filter(|column| column.width == 0).count() as u16;
    let mut widths: Vec<u16> = grid.columns.iter().map(|column| column.width).collect();
    for (at, column) in grid.columns.iter().enumerate().rev() {
        if column.width > 0 {
            continue;
        }
        flexible -= 1;
        let cells = grid.rows.iter().map(|row| row.cells[at].chars().count());
        let need = cells.chain([column.title.len()]).max().unwrap_or(0) as u16;
        // Ten characters for each remaining one.
        let most = left.saturating_sub(flexible * 10);
        widths[at] = need.min(most);
        left -= widths[at];
    }
    widths
}

/// Cuts a long text, and marks the cut.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Details of the marked backend, beyond its row.
fn details(app: &App, grid: &Grid, marked: Option<usize>) -> Vec<Line<'static>> {
    let (Some(snapshot), Some(marked)) = (&app.snapshot, marked) else { return Vec::new() };
    let key = &grid.rows[marked].key;
    let colours = Colours(app.has_colour);
    let mut all = snapshot.services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)));
    let is_listed = matches!(app.page, Page::Service(_) | Page::Backends);
    let found = all.find(|(service, backend)| is_listed && backend_key(service, backend) == *key);
    let Some((service, backend)) = found else { return Vec::new() };
    let mut lines = vec![Line::styled(
        format!("{} {} {}", service.name, service.frontend, backend.address),
        Style::new().add_modifier(Modifier::BOLD),
    )];
    lines.extend(state_of(backend).map(|text| Line::styled(text, colours.of(backend.rating()))));
    if let Some(status) = &backend.status {
        lines.extend(admin_override(status).into_iter().map(Line::from));
        lines.extend(status.checks.iter().map(|check| Line::from(check_text(check))));
    }
    let next_hop = backend.next_hop.as_deref().unwrap_or("unknown");
    lines.push(Line::from(format!("{} by next hop {next_hop}", backend.forward)));
    lines
}

fn state_of(backend: &BackendView) -> Option<String> {
    if let Some(left) = backend.drain_left_s {
        return Some(format!("draining, {left}s left"));
    }
    let status = backend.status.as_ref()?;
    let colon = if status.reason.is_empty() { "" } else { ": " };
    let (state, reason) = (status.state.label(), &status.reason);
    let since = match status.since {
        0 => String::new(),
        since => format!(" for {}", ago(since)),
    };
    Some(format!("{state}{since}{colon}{reason}"))
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}

#[cfg(test)]
mod tests;
