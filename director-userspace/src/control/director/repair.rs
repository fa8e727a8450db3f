//! Repair of maps and pins that another process changed.

use std::{fmt, path::PathBuf};

use super::{Director, DirectorError, Effective, prepare::Prepared};
use crate::{
    kernel::datapath::{self, Attachments},
    policy::{
        config::{Config, model::Service},
        plan::Plan,
    },
};

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
    /// Repairs maps that another process changed: they must hold exactly `config`, which is in
    /// effect. Does not query the host.
    ///
    /// # Errors
    ///
    /// If a map cannot be written, or a pin cannot be made.
    pub async fn repair(&mut self, config: &Config) -> Result<Repaired, DirectorError> {
        let pins = self.pins.restore()?;
        let rest = self.datapath.scrub(&mut self.scrub, &self.interfaces, &config.flows);
        let Some(Effective { hops, warnings, .. }) = self.effective.take() else {
            // The next refresh does the same.
            return Ok(Repaired { pins, rest, plan: Plan::default() });
        };
        let attachments = Attachments::assign(&self.datapath.tables, &self.interfaces)?;
        let observed = datapath::observe(&self.datapath.tables);
        let all: Vec<&Service> = config.services.iter().collect();
        let (netlink, interfaces) = (&self.netlink, &self.interfaces);
        let prepared =
            Prepared::of(netlink, observed, config, &all, interfaces, attachments, hops, false)
                .await?;
        datapath::apply(&mut self.datapath.tables, &prepared.changed.plan)?;
        self.effective = Some(Effective { config: config.clone(), hops: prepared.hops, warnings });
        Ok(Repaired { pins, rest, plan: prepared.changed.plan })
    }
}
