//! The terminal: in raw mode while the program runs, and restored however it ends.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEvent, KeyEventKind},
};
use tokio::sync::mpsc;

use super::{app::App, draw};

/// How often the reader of keys checks whether the screen has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Input of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal's size changed.
    Resized,
}

/// A terminal in raw mode. Restored when dropped; a panic restores it before its message is
/// printed.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    inputs: mpsc::Receiver<Input>,
    ended: Arc<AtomicBool>,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        let (sender, inputs) = mpsc::channel(64);
        let ended = Arc::new(AtomicBool::new(false));
        let reader_ended = ended.clone();
        // A thread, because reading from a terminal blocks.
        thread::spawn(move || read(&sender, &reader_ended));
        Ok(Self { terminal, inputs, ended })
    }

    pub(super) fn draw(&mut self, app: &mut App) -> io::Result<()> {
        self.terminal.draw(|frame| draw::draw(frame, app)).map(drop)
    }

    /// The next input; `None` if the terminal is closed.
    pub(super) async fn input(&mut self) -> Option<Input> {
        self.inputs.recv().await
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        ratatui::restore();
    }
}

fn read(sender: &mpsc::Sender<Input>, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let input = match event::poll(POLL_INTERVAL) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let input = match input {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Input::Key(key),
            Ok(Event::Resize(..)) => Input::Resized,
            Ok(_) => continue,
            Err(_) => return,
        };
        if sender.blocking_send(input).is_err() {
            return;
        }
    }
}
