//! What the demo shows while requests run: a table redrawn in place on a terminal, a line per
//! second elsewhere.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::{
    counters::Counters,
    load::Transfer,
    scene::{Backend, REMOVED, Service},
    tally::{Phase, Tally},
};

/// How often a line is printed without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Cells of a bar that stands for all requests.
const BAR: f64 = 18.0;

/// The data to show.
pub(super) struct View<'a> {
    pub(super) services: &'a [Service],
    pub(super) tally: &'a Tally,
    pub(super) counters: &'a Counters,
    pub(super) phase: Phase,
    /// The title of the phase.
    pub(super) title: &'a str,
    pub(super) elapsed: Duration,
    pub(super) transfers: &'a [Transfer],
}

/// The output.
pub(super) struct Screen {
    terminal: bool,
    /// Lines of the last frame, to be overwritten.
    drawn: usize,
    next_line: Instant,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn: 0, next_line: Instant::now() }
    }

    /// Starts another phase.
    pub(super) fn begin(&mut self) {
        self.next_line = Instant::now() + LINE_INTERVAL;
    }

    /// Shows the current state.
    pub(super) fn show(&mut self, view: &View<'_>) {
        if self.terminal {
            self.draw(view);
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_INTERVAL;
            print_line(&line(view));
        }
    }

    /// Shows the end of a phase, which stays on the screen.
    pub(super) fn keep(&mut self, view: &View<'_>) {
        if self.terminal {
            self.draw_over(&frame(view));
            self.drawn = 0;
        } else {
            print_line(&frame(view).join("\n"));
        }
    }

    fn draw(&mut self, view: &View<'_>) {
        let size = terminal_size::terminal_size();
        let (width, height) = size.map_or((80, 24), |(w, h)| (usize::from(w.0), usize::from(h.0)));
        let mut lines = frame(view);
        // What does not fit would scroll, and then be overwritten in the wrong place.
        lines.truncate(height.saturating_sub(1).max(1));
        for line in &mut lines {
            *line = line.chars().take(width).collect();
        }
        self.draw_over(&lines);
        self.drawn = lines.len();
    }

    /// Overwrites the last frame.
    fn draw_over(&self, lines: &[String]) {
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}F", self.drawn);
        }
        for line in lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        // The previous frame may have been longer.
        text.push_str("\x1b[J");
        print(&text);
    }
}

/// Prints a line, or several.
pub(super) fn print_line(text: &str) {
    print(&format!("{text}\n"));
}

fn print(text: &str) {
    // A closed pipe is no error: the demo must still clean up.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The phase whose counts the table shows.
fn shown_phase(phase: Phase) -> Phase {
    match phase {
        Phase::Steady | Phase::Changing => Phase::Steady,
        Phase::After => Phase::After,
    }
}

fn without(phase: Phase) -> Option<&'static str> {
    (phase == Phase::After).then_some(REMOVED)
}

/// The table.
fn frame(view: &View<'_>) -> Vec<String> {
    let mut lines =
        vec![String::new(), format!("{:<67}{:>9.1} s", view.title, view.elapsed.as_secs_f64())];
    for (number, service) in view.services.iter().enumerate() {
        let counts = view.tally.counts(number, shown_phase(view.phase));
        lines.push(String::new());
        lines.push(format!(
            "{}: {} port {}, {}; {} requests, {} errors",
            service.name,
            service.vip,
            super::scene::PORT,
            service.forward,
            thousands(counts.answered()),
            errors(view, number),
        ));
        lines.push(format!(
            "  {:<18} {:>7} {:>6} {:>8} {:>6} {:>9}",
            "backend", "weight", "fair", "requests", "share", "packets"
        ));
        let fair = service.fair(without(view.phase));
        let shares = counts.shares();
        for (index, backend) in service.backends.iter().enumerate() {
            let gone = without(view.phase) == Some(backend.node);
            let counter = view.counters.backend(number, index);
            lines.push(row(
                backend,
                gone,
                fair[index],
                counts.by_backend[index],
                shares[index],
                counter.packets,
            ));
        }
        for transfer in view.transfers.iter().filter(|transfer| transfer.service == number) {
            lines.push(format!(
                "  slow download through {REMOVED}: {:.0} % arrived",
                transfer.progress() * 100.0
            ));
        }
    }
    lines
}

fn row(
    backend: &Backend,
    gone: bool,
    fair: f64,
    requests: u64,
    share: f64,
    packets: u64,
) -> String {
    let weight = if gone { "removed".to_owned() } else { backend.weight.to_string() };
    let name = format!("{} {}", backend.node, backend.address);
    let text = format!(
        "  {name:<18} {weight:>7} {:>6} {:>8} {:>6} {:>9}  {}",
        percent(fair),
        thousands(requests),
        percent(share),
        thousands(packets),
        "█".repeat((share * BAR).round() as usize),
    );
    text.trim_end().to_owned()
}

/// The same in one line.
fn line(view: &View<'_>) -> String {
    let mut text = format!("{:5.1} s", view.elapsed.as_secs_f64());
    for (number, service) in view.services.iter().enumerate() {
        let counts = view.tally.counts(number, shown_phase(view.phase));
        let requests = thousands(counts.answered());
        let _ = write!(text, "  {}: {requests} requests", service.name);
        for (backend, share) in service.backends.iter().zip(counts.shares()) {
            let _ = write!(text, ", {} {}", backend.node, percent(share));
        }
        let _ = write!(text, ", {} errors", errors(view, number));
    }
    text
}

/// Errors since the table's phase began.
fn errors(view: &View<'_>, service: usize) -> u64 {
    let of = |phase| view.tally.counts(service, phase).errors;
    match view.phase {
        Phase::Steady => of(Phase::Steady),
        Phase::Changing => of(Phase::Steady) + of(Phase::Changing),
        Phase::After => of(Phase::Changing) + of(Phase::After),
    }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// A number with thousands separators.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::scene, *};

    fn with_view<T>(phase: Phase, render: impl FnOnce(&View<'_>) -> T) -> T {
        let services = scene::services();
        let mut tally = Tally::new(&services);
        for port in 0..4000 {
            let node = ["b1", "b2", "b3", "b3"][port % 4];
            tally.answered(0, phase, &format!("{node} 198.18.0.1 {port}"));
        }
        render(&View {
            services: &services,
            tally: &tally,
            counters: &Counters::default(),
            phase,
            title: "requests from 4 clients",
            elapsed: Duration::from_millis(12_340),
            transfers: &[],
        })
    }

    #[test]
    fn the_table_fits_a_terminal_of_80_by_24() {
        for phase in Phase::ALL {
            let lines = with_view(phase, frame);
            assert!(lines.len() <= 22, "{}", lines.join("\n"));
            for line in lines {
                assert!(line.chars().count() < 80, "{line}");
            }
        }
    }

    #[test]
    fn a_row_holds_weight_fair_share_requests_and_share() {
        let text = with_view(Phase::Steady, frame).join("\n");
        assert!(text.contains("b3 10.0.0.13             3 50.0 %    2,000 50.0 %"), "{text}");
        let text = with_view(Phase::After, frame).join("\n");
        assert!(text.contains("b2 10.0.0.12       removed  0.0 %    1,000 25.0 %"), "{text}");
    }

    #[test]
    fn a_line_has_the_same_figures() {
        let text = with_view(Phase::Steady, line);
        let start = " 12.3 s  web: 4,000 requests, b1 25.0 %, b2 25.0 %, b3 50.0 %, 0 errors";
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
