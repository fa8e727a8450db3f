//! Repair of maps and pins that another process changed.

use std::{fmt, path::PathBuf, thread, time::Duration};

use tokio::time::Instant;

use super::{Director, DirectorError};
use crate::kernel::datapath;

/// Shortest time between two looks for pins that are gone.
const INTERVAL: Duration = Duration::from_secs(5);
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

    /// Whether it is time for [`Director::repair`].
    pub fn repair_is_due(&self) -> bool {
        Instant::now() >= self.repair_at
    }

    /// Restores pins, and the BPF file system that they are in.
    ///
    /// # Errors
    ///
    /// If it cannot be mounted, or a pin cannot be made.
    pub fn repair(&mut self) -> Result<Repaired, DirectorError> {
        self.repair_at = Instant::now() + INTERVAL;
        datapath::mount_bpffs()?;
        // A link that another process detached has no other sign.
        self.interfaces.check_attached(&self.pins.programs());
        Ok(Repaired { pins: self.pins.restore()?, maps: Vec::new() })
    }
}
