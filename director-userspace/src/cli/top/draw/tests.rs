use std::time::Duration;

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent},
};

use super::*;
use crate::serve::view::fixture::{snapshot, status};

/// The screen's lines.
fn lines(app: &mut App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| {
        let cells: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        cells.trim_end().to_owned()
    };
    (0..height).map(line).collect()
}

fn app() -> App {
    let before = snapshot(100_000);
    let mut now = snapshot(3_100_000);
    now.taken = before.taken + Duration::from_secs(1);
    for view in &mut now.verdicts {
        if matches!(view.verdict, Verdict::Drop(_)) {
            view.packets *= 10;
        }
    }
    let mut app = App::new();
    app.show(now.since(&before).with(Some(status(&["10.0.0.12"]))), None);
    app
}

#[track_caller]
fn has(lines: &[String], words: &[&str]) {
    let found = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "no line with {words:?}:\n{}", lines.join("\n"));
}

#[test]
fn eighty_by_twenty_four_has_services_totals_drops_and_help() {
    let lines = lines(&mut app(), 80, 24);
    has(&lines, &["director default", "eth0 native", "revision 7, up 2h", "Z"]);
    has(&lines, &["forwarded 9.30M/s", "bytes/s", "established"]);
    has(&lines, &["dropped", "/s: below-minimum-mtu 99"]);
    let columns =
        ["SERVICE", "ADDRESS", "STATE", "UP", "CONNS", "PKT/S", "BYT/S", "NEW/S", "DROP/S"];
    has(&lines, &columns);
    has(&lines, &["web", "tcp 192.0.2.10:80", "degraded", "2/3", "465k", "9.00M", "900M", "900k"]);
    has(&lines, &["dns", "udp [2001:db8::53]:53", "up", "1/1"]);
    assert!(lines[23].starts_with("q quit") && lines[23].ends_with('?'), "{}", lines[23]);
}

#[test]
fn an_open_service_shows_its_backends_and_the_reason_of_the_marked_one() {
    let mut app = app();
    for code in [KeyCode::Down, KeyCode::Enter, KeyCode::Down] {
        app.key(KeyEvent::from(code));
    }
    let lines = lines(&mut app, 80, 24);
    has(&lines, &["BACKEND", "STATE", "SINCE", "SHARE", "WEIGHT", "CONNS", "PKT/S"]);
    has(&lines, &["10.0.0.11", "up", "2h0m", "33.3%", "155k", "3.00M"]);
    has(&lines, &["10.0.0.12", "down", "12s"]);
    has(&lines, &["web tcp 192.0.2.10:80 10.0.0.12"]);
    has(&lines, &["down for 12s: connection refused"]);
    has(&lines, &["tcp: down for 12s: connection refused"]);
    has(&lines, &["tunnel by next hop 02:00:00:00:00:02"]);
}

#[test]
fn drops_are_explained() {
    let mut app = app();
    app.key(KeyEvent::from(KeyCode::Char('d')));
    let lines = lines(&mut app, 80, 24);
    has(&lines, &["drop", "no-neighbour", "54", "60", "the next hop does not answer"]);
    has(&lines, &["answered", "too-big"]);
}

#[test]
fn help_covers_the_screen_and_closes_at_the_next_key() {
    let mut app = app();
    app.key(KeyEvent::from(KeyCode::Char('?')));
    let shown = lines(&mut app, 80, 24);
    has(&shown, &["Ctrl-C", "quit"]);
    has(&shown, &["PACKETS and BYTES"]);
    app.key(KeyEvent::from(KeyCode::Char('q')));
    assert!(!lines(&mut app, 80, 24).iter().any(|line| line.contains("Ctrl-C")));
}

#[test]
fn errors_and_refused_files_are_shown_in_one_line() {
    let mut app = app();
    app.fail("default is not attached".into());
    has(&lines(&mut app, 80, 24), &["default is not attached"]);
    let mut refused = (*status(&[])).clone();
    refused.refused = Some("line 3: no such key\nhint".into());
    app.show(snapshot(1).with(Some(refused.into())), None);
    has(&lines(&mut app, 80, 24), &["the file is not in effect: line 3: no such key"]);
    app.show(snapshot(1), Some("no daemon answers".into()));
    has(&lines(&mut app, 80, 24), &["no daemon answers"]);
}

/// No size, page, order or filter causes a panic.
#[test]
fn any_size_is_drawn() {
    let mut app = app();
    for key in "?x\nsr\u{1b}bsd".chars() {
        for (width, height) in [(1, 1), (3, 2), (20, 5), (40, 10), (80, 24), (250, 80)] {
            lines(&mut app, width, height);
        }
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            key => KeyCode::Char(key),
        };
        app.key(KeyEvent::from(code));
    }
    let mut empty = App::new();
    lines(&mut empty, 80, 24);
}

#[test]
fn many_rows_scroll_to_the_marked_one() {
    let mut many = snapshot(1000);
    let one = many.services[1].clone();
    many.services = (0..200)
        .map(|n| {
            let mut service = one.clone();
            service.name = format!("service-{n:03}");
            service.frontend = format!("tcp 192.0.2.10:{}", 1000 + n);
            service
        })
        .collect();
    let mut app = App::new();
    app.show(many, None);
    app.key(KeyEvent::from(KeyCode::End));
    has(&lines(&mut app, 80, 24), &["service-199", "tcp 192.0.2.10:1199"]);
    app.key(KeyEvent::from(KeyCode::Home));
    has(&lines(&mut app, 80, 24), &["service-000"]);
}

#[test]
fn text_has_services_and_backends() {
    let text = text(&app());
    let lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    has(&lines, &["web", "tcp 192.0.2.10:80", "degraded", "2/3"]);
    has(&lines, &["10.0.0.12", "web", "down"]);
    assert!(lines.iter().all(|line| line.chars().count() <= 90), "{text}");
}
