//! The steps of a change, computed before anything is changed.

use super::{Changed, DirectorError, Neighbours};
use crate::{
    kernel::{
        datapath::{Attached, Attachments, Datapath, DatapathError, Sizes, clock_ns},
        host::{self, HostError, HostErrors, HostRoutes, NextHopCache},
        net::Netlink,
    },
    policy::{
        config::{Config, model::Service},
        plan::{Capacity, Desired, View, diff_growing},
    },
};

/// What a plan accepts of backends that this host cannot send to as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepts<'a> {
    /// Only what is a warning already, of the configuration in effect: for another such backend,
    /// the configuration is refused.
    Known(&'a [String]),
    /// The configuration was accepted before: each is a warning.
    Anything,
}

/// The steps to a configuration on this host, with none of them taken yet.
pub(super) struct Prepared {
    pub(super) attachments: Attachments,
    pub(super) changed: Changed,
    /// The capacity that the maps need.
    capacity: Capacity,
    pub(super) neighbours: Neighbours,
    pub(super) warnings: Vec<String>,
}

impl Prepared {
    /// The steps for some `services` of `config`, which are those in `observed`; the next hops to
    /// their backends are known.
    #[expect(clippy::too_many_arguments, reason = "everything that a plan depends on")]
    pub(super) async fn of(
        netlink: &Netlink,
        observed: impl View,
        config: &Config,
        services: &[&Service],
        interfaces: &[Attached],
        attachments: Attachments,
        hops: &NextHopCache,
        accepts: Accepts<'_>,
    ) -> Result<Self, DirectorError> {
        let draining = host::draining(observed.backends().values(), services);
        let HostRoutes { paths, neighbours, mut warnings, errors } =
            host::routes(netlink, config, services, &draining, interfaces, &attachments, hops)
                .await;
        warnings.extend(errors.iter().map(ToString::to_string));
        if let Accepts::Known(known) = accepts {
            let is_new = |error: &HostError| !known.contains(&error.to_string());
            let new: Vec<HostError> = errors.into_iter().filter(is_new).collect();
            if !new.is_empty() {
                return Err(HostErrors(new).into());
            }
        }
        let desired = Desired::of(services.iter().copied(), paths);
        let (plan, capacity) = diff_growing(&observed, &desired, clock_ns(), Sizes::LARGEST)
            .map_err(DatapathError::from)?;
        let changed = Changed { plan, warnings: warnings.clone() };
        Ok(Self { attachments, changed, capacity, neighbours, warnings })
    }

    /// The capacity to grow the maps to, if they must grow.
    pub(super) fn growth(&self, datapath: &Datapath) -> Option<Capacity> {
        (self.capacity != datapath.tables.capacity()).then_some(self.capacity)
    }
}
