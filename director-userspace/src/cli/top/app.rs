//! The state of the screen, and the effects of keys.

use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    widgets::TableState,
};

use super::grid::{self, Grid};
use crate::serve::view::Snapshot;

/// The pages of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// All services.
    Services,
    /// The backends of one service, by its frontend.
    Service(String),
    /// All backends.
    Backends,
    /// Packets by verdict and reason.
    Reasons,
}

/// The column that rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: usize,
    pub(super) descending: bool,
}

/// Whether the program continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Continue,
    Quit,
}

/// Rows that a page up or down moves by.
const PAGE_ROWS: isize = 10;

/// The state of the screen.
pub(super) struct App {
    /// The last snapshot.
    pub(super) snapshot: Option<Snapshot>,
    /// Why the daemon's state is missing from it.
    pub(super) missing: Option<String>,
    /// Why there is no later one.
    pub(super) error: Option<String>,
    pub(super) page: Page,
    /// Rows without this text are hidden.
    pub(super) filter: String,
    /// Whether keys are input of the filter.
    pub(super) is_typing: bool,
    pub(super) shows_help: bool,
    pub(super) has_colour: bool,
    /// The key of the marked row.
    marked: Option<String>,
    /// The marked row to return to.
    marked_before: Option<String>,
    /// The order of each page.
    orders: [Option<Order>; 4],
    pub(super) table: TableState,
}

impl App {
    pub(super) fn new() -> Self {
        Self {
            snapshot: None,
            missing: None,
            error: None,
            page: Page::Services,
            filter: String::new(),
            is_typing: false,
            shows_help: false,
            // https://no-color.org
            has_colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            marked: None,
            marked_before: None,
            orders: [None; 4],
            table: TableState::new(),
        }
    }

    /// Shows a new snapshot.
    pub(super) fn show(&mut self, snapshot: Snapshot, missing: Option<String>) {
        if let Page::Service(frontend) = &self.page
            && !snapshot.services.iter().any(|service| service.frontend == *frontend)
        {
            self.page = Page::Services;
        }
        self.snapshot = Some(snapshot);
        self.missing = missing;
        self.error = None;
    }

    /// Shows an error; the last snapshot stays.
    pub(super) fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    /// The rows and columns of the page, filtered and in order.
    pub(super) fn grid(&self) -> Grid {
        let Some(snapshot) = &self.snapshot else { return Grid::default() };
        let mut grid = grid::of(&self.page, snapshot);
        if !self.filter.is_empty() {
            let wanted = self.filter.to_lowercase();
            grid.rows.retain(|row| row.matches(&wanted));
        }
        if let Some(order) = self.order() {
            grid.sort(order);
        }
        grid
    }

    /// The order of this page; none is the natural order.
    pub(super) fn order(&self) -> Option<Order> {
        self.orders[self.page_index()]
    }

    fn page_index(&self) -> usize {
        match self.page {
            Page::Services => 0,
            Page::Service(_) => 1,
            Page::Backends => 2,
            Page::Reasons => 3,
        }
    }

    /// The marked row; the first one if the marked one was removed.
    pub(super) fn marked(&self, grid: &Grid) -> Option<usize> {
        let of = |key: &String| grid.rows.iter().position(|row| row.key == *key);
        let first = (!grid.rows.is_empty()).then_some(0);
        self.marked.as_ref().and_then(of).or(first)
    }

    /// Handles a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Outcome {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Outcome::Quit } else { Outcome::Continue };
        }
        if self.is_typing {
            self.type_filter(key.code);
            return Outcome::Continue;
        }
        if std::mem::take(&mut self.shows_help) {
            return Outcome::Continue;
        }
        match key.code {
            KeyCode::Char('q') => return Outcome::Quit,
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('b') => self.show_page(Page::Backends),
            KeyCode::Char('d') => self.show_page(Page::Reasons),
            KeyCode::Char('s') => self.sort_by_next(1),
            KeyCode::Char('S') => self.sort_by_next(-1),
            KeyCode::Char('r') => self.reverse_order(),
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => self.open(),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => self.back(),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(PAGE_ROWS),
            KeyCode::PageUp => self.step(-PAGE_ROWS),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            _ => {}
        }
        Outcome::Continue
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(c) if self.filter.len() < 64 => self.filter.push(c),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            _ => {}
        }
    }

    fn show_page(&mut self, page: Page) {
        let page = if self.page == page { Page::Services } else { page };
        self.page = page;
        self.marked = None;
        self.filter.clear();
        *self.table.offset_mut() = 0;
    }

    fn open(&mut self) {
        let grid = self.grid();
        let Some(marked) = self.marked(&grid) else { return };
        let row = &grid.rows[marked];
        if let (Page::Services | Page::Backends, Some(frontend)) = (&self.page, &row.frontend) {
            self.marked_before = (self.page == Page::Services).then(|| row.key.clone());
            let marked = (self.page == Page::Backends).then(|| row.key.clone());
            self.show_page(Page::Service(frontend.clone()));
            self.marked = marked;
        }
    }

    fn back(&mut self) {
        if !self.filter.is_empty() {
            self.filter.clear();
        } else if self.page != Page::Services {
            self.show_page(Page::Services);
            self.marked = self.marked_before.take();
        }
    }

    fn step(&mut self, by: isize) {
        let grid = self.grid();
        let Some(marked) = self.marked(&grid) else { return };
        let last = grid.rows.len() - 1;
        let to = marked.saturating_add_signed(by).min(last);
        self.marked = Some(grid.rows[to].key.clone());
    }

    fn sort_by_next(&mut self, by: isize) {
        let columns = self.grid().columns;
        let count = columns.len() as isize;
        if count == 0 {
            return;
        }
        let from = self.order().map_or(if by > 0 { -1 } else { 0 }, |order| order.column as isize);
        let column = (from + by).rem_euclid(count) as usize;
        // Names ascending, numbers descending.
        let descending = columns[column].is_number;
        self.orders[self.page_index()] = Some(Order { column, descending });
    }

    fn reverse_order(&mut self) {
        let order = self.order().unwrap_or(Order { column: 0, descending: false });
        self.orders[self.page_index()] = Some(Order { descending: !order.descending, ..order });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::view::fixture::{snapshot, status};

    fn press(app: &mut App, keys: &str) -> Outcome {
        let mut outcome = Outcome::Continue;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                'v' => KeyCode::Down,
                key => KeyCode::Char(key),
            };
            outcome = app.key(KeyEvent::from(code));
        }
        outcome
    }

    fn app() -> App {
        let mut app = App::new();
        app.show(snapshot(1000).with(Some(status(&["10.0.0.12"]))), None);
        app
    }

    fn firsts(app: &App) -> Vec<String> {
        app.grid().rows.iter().map(|row| row.cells[0].clone()).collect()
    }

    #[test]
    fn a_service_opens_and_esc_returns_to_it() {
        let mut app = app();
        assert_eq!(firsts(&app), ["dns", "web"]);
        press(&mut app, "v\n");
        assert_eq!(app.page, Page::Service("tcp 192.0.2.10:80".into()));
        assert_eq!(firsts(&app), ["10.0.0.11", "10.0.0.12", "10.0.0.13"]);
        press(&mut app, "\u{1b}");
        assert_eq!(app.page, Page::Services);
        assert_eq!(app.marked(&app.grid()), Some(1), "web is still marked");
        press(&mut app, "b");
        assert_eq!(app.grid().rows.len(), 4);
        assert_eq!(press(&mut app, "q"), Outcome::Quit);
    }

    #[test]
    fn typed_text_filters() {
        let mut app = app();
        press(&mut app, "b/DOWN\n");
        assert_eq!(firsts(&app), ["10.0.0.12"]);
        assert_eq!(app.page, Page::Backends, "d, b and q are letters while typing");
        press(&mut app, "\u{1b}");
        assert_eq!(app.grid().rows.len(), 4);
        press(&mut app, "/q\u{1b}");
        assert_eq!((app.filter.as_str(), app.is_typing), ("", false));
    }

    #[test]
    fn every_column_sorts() {
        let mut app = app();
        let columns = app.grid().columns.len();
        for column in 0..columns {
            press(&mut app, "s");
            assert_eq!(app.order().unwrap().column, column);
            let sorted = firsts(&app);
            press(&mut app, "rr");
            assert_eq!(firsts(&app), sorted);
        }
        press(&mut app, "s");
        assert_eq!(app.order(), Some(Order { column: 0, descending: false }));
        press(&mut app, "r");
        assert_eq!(firsts(&app), ["web", "dns"]);
        press(&mut app, "sr");
        assert_eq!(firsts(&app).len(), 2);
    }

    #[test]
    fn the_page_of_a_removed_service_closes() {
        let mut app = app();
        press(&mut app, "\n");
        assert_eq!(app.page, Page::Service("udp [2001:db8::53]:53".into()));
        let mut later = snapshot(2000);
        later.services.remove(0);
        app.show(later, None);
        assert_eq!(app.page, Page::Services);
        let mut nothing = snapshot(2000);
        nothing.services.clear();
        app.show(nothing, None);
        press(&mut app, "v\nvbd\ns\n");
        assert!(app.snapshot.is_some());
    }
}
