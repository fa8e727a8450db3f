//! The steps of a change, computed before anything is changed.

use std::time::Duration;

use super::{Changed, DirectorError, Neighbours};
use crate::{
    kernel::{
        datapath::{self, Attached, Attachments, Datapath, DatapathError, Sizes, clock_ns},
        host::{self, Draining, HostErrors, HostRoutes, NextHopCache},
        net::Netlink,
    },
    policy::{
        by_address::ByAddress,
        config::{Config, model::Service},
        plan::{Capacity, Desired, View, diff_growing},
    },
};

/// The steps to a configuration on this host, with none of them taken yet.
pub(super) struct Prepared {
    pub(super) attachments: Attachments,
    pub(super) changed: Changed,
    /// The capacity that the maps need.
    capacity: Capacity,
    pub(super) neighbours: Neighbours,
    pub(super) hops: NextHopCache,
    pub(super) warnings: Vec<String>,
}

impl Prepared {
    /// `wait` is for neighbours that do not answer at once; without it, the configuration has been
    /// accepted before, and what no longer fits the host is a warning.
    pub(super) async fn new(
        netlink: &Netlink,
        datapath: &Datapath,
        config: &Config,
        interfaces: &[Attached],
        wait: Option<Duration>,
    ) -> Result<Self, DirectorError> {
        let attachments = Attachments::assign(&datapath.tables, interfaces)?;
        let observed = datapath::observe(&datapath.tables);
        let configured = config.services.iter().flat_map(|s| s.backends.iter().map(|b| b.address));
        let present = observed.backends.values().filter(|backend| !backend.fixed_next_hop);
        let addresses = configured.chain(present.map(|backend| backend.address));
        let hops = NextHopCache::find(netlink, addresses, wait.unwrap_or_default()).await;
        let all: Vec<&Service> = config.services.iter().collect();
        let is_new = wait.is_some();
        Self::of(netlink, observed, config, &all, interfaces, attachments, hops, is_new).await
    }

    /// The same for some `services` of `config`, which are those in `observed`; the next hops to
    /// their backends are known.
    #[expect(clippy::too_many_arguments, reason = "everything that a plan depends on")]
    pub(super) async fn of(
        netlink: &Netlink,
        observed: impl View,
        config: &Config,
        services: &[&Service],
        interfaces: &[Attached],
        attachments: Attachments,
        hops: NextHopCache,
        is_new: bool,
    ) -> Result<Self, DirectorError> {
        let mut draining: ByAddress<Draining> = observed
            .backends()
            .values()
            .filter(|backend| !backend.fixed_next_hop)
            .map(|backend| {
                let (address, forward) = (backend.address, backend.forward);
                (address, Draining { address, forward })
            })
            .collect();
        for backend in services.iter().flat_map(|service| &service.backends) {
            draining.remove(&backend.address);
        }
        let draining: Vec<Draining> = draining.into_values().collect();
        let HostRoutes { paths, neighbours, mut warnings, errors } =
            host::routes(netlink, config, services, &draining, interfaces, &attachments, &hops)
                .await;
        if is_new && !errors.is_empty() {
            return Err(HostErrors(errors).into());
        }
        warnings.extend(errors.iter().map(ToString::to_string));
        let desired = Desired::of(services.iter().copied(), paths);
        let (plan, capacity) = diff_growing(&observed, &desired, clock_ns(), Sizes::LARGEST)
            .map_err(DatapathError::from)?;
        let changed = Changed { plan, warnings: warnings.clone() };
        Ok(Self { attachments, changed, capacity, neighbours, hops, warnings })
    }

    /// The capacity to grow the maps to, if they must grow.
    pub(super) fn growth(&self, datapath: &Datapath) -> Option<Capacity> {
        (self.capacity != datapath.tables.capacity()).then_some(self.capacity)
    }
}
