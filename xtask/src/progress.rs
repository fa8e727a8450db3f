//! Shows the progress of a long step: a spinner on a terminal, a line every 15 s elsewhere.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Steps that end sooner are not shown.
const QUIET: Duration = Duration::from_secs(2);
const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// A running activity; dropping it ends the display.
pub(crate) struct Progress {
    // Closing the channel wakes the thread up.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    what: Arc<str>,
    started: Instant,
}

impl Progress {
    /// Starts to show `what`, with the elapsed time.
    pub(crate) fn start(what: &str) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let what: Arc<str> = what.into();
        let started = Instant::now();
        let text = Arc::clone(&what);
        let terminal = io::stderr().is_terminal();
        let thread = thread::spawn(move || {
            let tick = if terminal { Duration::from_millis(120) } else { Duration::from_secs(15) };
            if !terminal {
                eprintln!("{text} ...");
            } else if stopped.recv_timeout(QUIET) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            for frame in FRAMES.iter().cycle() {
                if stopped.recv_timeout(tick) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                let seconds = started.elapsed().as_secs();
                if terminal {
                    // Erases the line before writing it, and leaves the cursor at its start.
                    eprint!("\r\x1b[2K{frame} {text} ({seconds} s)");
                } else {
                    eprintln!("  still {text} ({seconds} s)");
                }
                let _ = io::stderr().flush();
            }
            if terminal {
                eprint!("\r\x1b[2K");
            }
        });
        Self { stop: Some(stop), thread: Some(thread), what, started }
    }

    /// Ends the display and prints that the step is done, and how long it took.
    pub(crate) fn done(mut self) {
        self.end();
        eprintln!("✓ {} ({:.1} s)", self.what, self.started.elapsed().as_secs_f64());
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
