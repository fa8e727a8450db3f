//! A director on this host: one value that has what is wanted, what is known to be in the maps and
//! on each interface, and what of that is doubtful.
//!
//! File, API and health change what is wanted; the host's changes and errors make a part doubtful.
//! [`Director::step`] brings one doubtful part right, in bounded time, and [`Director::due`] says
//! when it is to be called. An error stays with its part, which is tried again with growing waits.
//!
//! - `start`: from nothing, or from what an earlier process left;
//! - `change`: another configuration, refused as a whole or accepted;
//! - `follow`: changes of the host;
//! - `interfaces`: what is attached where;
//! - `services`: services whose state in the maps is doubtful;
//! - `repair`: what another process changed.

mod backoff;
mod change;
mod detach;
mod doubtful;
mod follow;
mod host_changes;
mod interfaces;
mod on_host;
mod prepare;
mod repair;
mod services;
mod start;

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use self::{doubtful::Doubtful, interfaces::Interfaces};
pub use self::{
    host_changes::{HostChange, HostChanges},
    repair::Repaired,
    start::Waits,
};
use crate::{
    kernel::{
        datapath::{self, Attached, Attachments, Datapath, DatapathError, Pins, Scrub},
        host::{HostErrors, NextHopCache},
        net::{self, NetError, Netlink},
        path_probe::PathProbeError,
    },
    policy::{
        config::{Config, model::Service},
        plan::{ObservedSome, Plan, key_of},
    },
};

/// How long a start waits for neighbours that do not answer at once.
const FIRST_WAIT: Duration = Duration::from_millis(1500);
/// The same for a change: neighbours on a LAN answer within it, and a backend that is switched off
/// must not delay other changes.
const CHANGE_WAIT: Duration = Duration::from_millis(250);

/// Why a director did not start or change.
#[derive(Debug, thiserror::Error)]
pub enum DirectorError {
    /// The configuration does not fit this host.
    #[error(transparent)]
    Host(#[from] HostErrors),
    /// The kernel.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The network configuration.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Programs of health checks through the data path.
    #[error(transparent)]
    PathProbe(#[from] PathProbeError),
    /// A privilege is missing.
    #[error("{0}")]
    Privilege(String),
    /// The kernel is too old.
    #[error("{0}")]
    Kernel(String),
}

/// Neighbours by the interface they are on.
type Neighbours = BTreeSet<(u32, IpAddr)>;

/// What a change did.
#[derive(Debug, Default)]
pub struct Changed {
    /// The steps taken.
    pub plan: Plan,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// A running director.
pub struct Director {
    netlink: Netlink,
    datapath: Datapath,
    /// The configuration that was accepted last.
    wanted: Arc<Config>,
    interfaces: Interfaces,
    /// The next hops to all backends.
    hops: NextHopCache,
    /// This host's addresses, of which tunnels' sources are taken.
    addresses: Vec<net::Address>,
    neighbours: Neighbours,
    /// Warnings about routes to backends.
    route_warnings: Vec<String>,
    /// Warnings about the flow table, VIPs and neighbours.
    host_warnings: Vec<String>,
    doubtful: Doubtful,
    /// Backends whose next hops changed while a plan was applied.
    meanwhile: HashSet<IpAddr>,
    /// What the last step was: attaching and the maps take turns.
    turn: Turn,
    host: HostChanges,
    /// Everything that is pinned, held open.
    pins: Pins,
    /// Where the comparison of the maps continues.
    scrub: Scrub,
    repair_at: Instant,
    _lock: datapath::Lock,
}

/// Which part of a configuration may differ from the one in effect.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Anything: every service is compared.
    All,
    /// The services at these indices and nothing else, as the caller ensures.
    Services(&'a [usize]),
}

/// What comes first in the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Attach,
    Maps,
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Stepped {
    /// What packets notice.
    pub plan: Plan,
    /// Why the step failed; it is tried again.
    pub error: Option<DirectorError>,
}

impl Director {
    /// When [`Director::step`] is to be called; `None`: after the next change of the host.
    pub fn due(&self) -> Option<Instant> {
        let attachments = self.attachments();
        let interface = match self.interfaces.next(&self.datapath, &attachments) {
            Some(_) => Some(Instant::now()),
            None => self.interfaces.due(),
        };
        [interface, self.doubtful.due()].into_iter().flatten().min()
    }

    /// Takes what is known one step closer to what is wanted: attaches to one interface, or looks
    /// at the host again, or brings some services right.
    pub async fn step(&mut self) -> Stepped {
        if self.doubtful.look_is_due() {
            return self.look().await;
        }
        let maps_are_due = self.doubtful.maps_due().is_some_and(|due| due <= Instant::now());
        if (self.turn == Turn::Attach || !maps_are_due) && self.attach_next().await {
            self.turn = Turn::Maps;
            return Stepped::default();
        }
        self.turn = Turn::Attach;
        self.bring_right().await
    }

    /// The maps.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// The interfaces that are there.
    pub fn interfaces(&self) -> &[Attached] {
        &self.interfaces.present
    }

    /// What is not as the configuration says, in words.
    pub fn warnings(&self) -> Vec<String> {
        let failed = self.doubtful.error().map(|error| {
            format!("not all of the configuration is in effect; tried again: {error}")
        });
        let parts = self.route_warnings.iter().chain(&self.host_warnings).cloned();
        failed.into_iter().chain(self.interfaces.warnings()).chain(parts).collect()
    }

    /// What the maps hold of some services.
    pub fn observe(&self, services: &[&Service]) -> ObservedSome {
        let keys = services.iter().map(|service| key_of(&service.frontend)).collect();
        datapath::observe_some(&self.datapath.tables, &keys)
    }

    /// Forgets the next hops to backends: the next change resolves all of them.
    pub fn forget_next_hops(&mut self) {
        self.hops = NextHopCache::default();
        self.doubtful.everything();
    }

    /// The slots of the interfaces that are there.
    fn attachments(&self) -> Attachments {
        self.interfaces.slots.clone()
    }
}

fn flow_table_warning(datapath: &Datapath, config: &Config) -> Option<String> {
    let (has, wants) = (datapath.tables.flow_capacity(), u64::from(config.flows.size));
    (has != wants).then(|| {
        format!(
            "flows.size is {wants}, but the running flow table has room for {has}: the new size \
             takes effect after `director detach`"
        )
    })
}
