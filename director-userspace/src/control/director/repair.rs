//! Repair of maps and pins that another process changed.

use std::{fmt, path::PathBuf, time::Duration};

use tokio::time::Instant;

use super::{
    Changed, Director, DirectorError,
    prepare::{Accepts, Prepared},
};
use crate::{
    kernel::datapath,
    policy::{config::model::Service, plan::Plan},
};

/// Shortest time between two comparisons of the maps with what they should hold.
const INTERVAL: Duration = Duration::from_secs(5);
/// Comparing takes at most 1/`SHARE` of the time.
const SHARE: u32 = 10;
/// Most steps of a repair that are shown.
const REPAIRS_SHOWN: usize = 50;

/// What another process had changed, and was repaired.
#[derive(Debug)]
pub struct Repaired {
    /// Pins that were gone.
    pub pins: Vec<PathBuf>,
    /// What is not in a plan: rings, the filter, interfaces, timeouts.
    pub rest: Vec<String>,
    /// The steps that restored the maps.
    pub plan: Plan,
}

impl Repaired {
    /// Whether nothing had to be repaired.
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty() && self.rest.is_empty() && self.plan.is_empty()
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pin in &self.pins {
            writeln!(f, "+ pin {}", pin.display())?;
        }
        for what in &self.rest {
            writeln!(f, "~ {what}")?;
        }
        f.write_str(&self.plan.brief(REPAIRS_SHOWN))
    }
}

impl Director {
    /// Repairs maps that another process changed: they must hold exactly what is in effect. Does not query the host.
    ///
    /// # Errors
    ///
    /// If a map cannot be written, or a pin cannot be made.
    pub async fn repair(&mut self) -> Result<Repaired, DirectorError> {
        let start = Instant::now();
        let result = self.repair_now().await;
        self.repair_at = Instant::now() + INTERVAL.max(start.elapsed() * SHARE);
        result
    }

    /// Whether it is time for [`Director::repair`].
    pub fn repair_is_due(&self) -> bool {
        Instant::now() >= self.repair_at
    }

    async fn repair_now(&mut self) -> Result<Repaired, DirectorError> {
        datapath::mount_bpffs()?;
        let pins = self.pins.restore()?;
        let flows = &self.wanted.flows;
        let rest = self.datapath.scrub(&mut self.scrub, &self.interfaces.present, flows);
        if self.doubtful.due().is_some() {
            // What is doubtful already differs, and further steps bring it right.
            return Ok(Repaired { pins, rest, plan: Plan::default() });
        }
        let observed = datapath::observe(&self.datapath.tables);
        let config = &self.wanted;
        let all: Vec<&Service> = config.services.iter().collect();
        let prepared = Prepared::of(
            &self.netlink,
            observed,
            config,
            &all,
            &self.interfaces.present,
            self.attachments(),
            &self.hops,
            Accepts::Anything,
        )
        .await?;
        let Changed { plan, .. } = self.apply_all(prepared).await?;
        Ok(Repaired { pins, rest, plan })
    }
}
