//! Repair of maps and pins that another process changed.

use std::{
    fmt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{Director, DirectorError};
use crate::policy::config::Config;

/// Most repaired places of the maps that are shown.
const REPAIRS_SHOWN: usize = 200;
/// How long a comparison of everything may take: 12,000 rings are built in about a quarter of it.
const SCRUB_ALL: Duration = Duration::from_secs(60);

/// What another process had changed, and was repaired.
#[derive(Debug)]
pub struct Repaired {
    /// Pins that were gone.
    pub pins: Vec<PathBuf>,
    /// Places in the maps.
    pub maps: Vec<String>,
}

impl Repaired {
    /// Whether nothing had to be repaired.
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty() && self.maps.is_empty()
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pins = self.pins.iter().map(|pin| format!("+ pin {}", pin.display()));
        let maps = self.maps.iter().take(REPAIRS_SHOWN).map(|what| format!("~ {what}"));
        let more = self.maps.len().saturating_sub(REPAIRS_SHOWN);
        let more = (more > 0).then(|| format!("and {more} places more"));
        f.write_str(&pins.chain(maps).chain(more).collect::<Vec<_>>().join("\n"))
    }
}

impl Director {
    /// Restores what another process changed in the maps: they must hold what this process wrote,
    /// whichever configuration that was for. Takes [`SCRUB_BUDGET`] at most; larger maps take several
    /// calls, each of which continues where the last one ended. Does not query the host.
    ///
    /// [`SCRUB_BUDGET`]: crate::kernel::datapath::SCRUB_BUDGET
    pub fn scrub(&mut self) -> Repaired {
        Repaired { pins: Vec::new(), maps: self.datapath.scrub(&mut self.scrub) }
    }

    /// As [`Director::scrub`], until everything was compared: for a process that ends then.
    pub fn scrub_all(&mut self) -> Repaired {
        let (began, mut maps) = (Instant::now(), Vec::new());
        while self.scrub.passes() == 0 && began.elapsed() < SCRUB_ALL {
            maps.extend(self.datapath.scrub(&mut self.scrub));
            // Rings of an earlier process are being built on another thread.
            thread::sleep(Duration::from_millis(1));
        }
        Repaired { pins: Vec::new(), maps }
    }

    /// As [`Director::scrub`], and restores pins.
    ///
    /// # Errors
    ///
    /// If a pin cannot be made.
    pub async fn repair(&mut self, _config: &Config) -> Result<Repaired, DirectorError> {
        let maps = self.datapath.scrub(&mut self.scrub);
        Ok(Repaired { pins: self.pins.restore()?, maps })
    }
}
