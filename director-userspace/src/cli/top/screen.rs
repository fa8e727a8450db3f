//! The terminal: taken over, read, and given back as it was, however the program ends.

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

/// How long the reader of keys waits before it sees whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(100);

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Pressed a key.
    Key(KeyEvent),
    /// Changed the terminal's size.
    Resized,
}

/// A terminal that is taken over. Given back when dropped; a panic gives it back before it is told.
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
        let seen = ended.clone();
        // Reading a terminal blocks.
        thread::spawn(move || read(&sender, &seen));
        Ok(Self { terminal, inputs, ended })
    }

    pub(super) fn draw(&mut self, app: &mut App) -> io::Result<()> {
        self.terminal.draw(|frame| draw::draw(frame, app)).map(drop)
    }

    /// The next thing that somebody does; `None` when the terminal is gone.
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
        let input = match event::poll(GLANCE) {
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
