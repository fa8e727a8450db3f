//! Ctrl-C: handled between steps, so that the demo can clean up.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

/// Maximum delay of the reaction to Ctrl-C.
const STEP: Duration = Duration::from_millis(20);

/// Whether this process received a signal to end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt {
    /// The signal; 0 is none.
    signal: Arc<AtomicUsize>,
}

/// The process was interrupted by this signal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interrupted(u8);

impl Interrupted {
    /// The exit status by the shells' convention.
    pub(super) fn exit_status(self) -> u8 {
        128 + self.0
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// From now on signals no longer end the process but are recorded here.
    pub(super) fn catch() -> Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_usize(number, Arc::clone(&signal), number as usize)
                .context("cannot catch signals")?;
        }
        Ok(Self { signal })
    }

    /// # Errors
    ///
    /// [`Interrupted`], if it was.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        match self.signal.load(Ordering::Relaxed) {
            0 => Ok(()),
            number => Err(Interrupted(number as u8)),
        }
    }

    /// # Errors
    ///
    /// [`Interrupted`], if it is meanwhile.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), Interrupted> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(STEP));
        }
    }
}
