//! Services whose state in the maps is doubtful: brought right in portions.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use tokio::time::Instant;

use super::{
    CHANGE_WAIT, Changed, Director, DirectorError, Neighbours, Stepped,
    backoff::Backoff,
    on_host::keep_neighbours,
    prepare::{Accepts, Prepared},
};
use crate::{
    kernel::{
        datapath::{self, DatapathError, clock_ns},
        host::NextHopCache,
    },
    policy::{
        config::{Config, model::Service},
        plan::{Op, Plan, View as _, key_of},
    },
};

/// Most services that one step brings right: their rings take some tens of milliseconds.
const PORTION: usize = 32;
/// Most steps of a plan that are applied without a look at the neighbours.
const OPS_AT_ONCE: usize = 4096;

/// What of the host and the maps is doubtful.
#[derive(Debug, Default)]
pub(super) struct Doubtful {
    look: Look,
    /// The last look failed, as a whole or in part.
    look_failed: Option<LookFailed>,
    maps: Maps,
    /// The last attempt to bring the maps right failed.
    failed: Option<(String, Backoff)>,
}

/// Whether something is known to have changed on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Look {
    #[default]
    NotDue,
    Due,
}

/// A look at the host that failed.
#[derive(Debug)]
struct LookFailed {
    /// `None`: the kernel was short of something for a next hop, which has a warning of its own.
    error: Option<String>,
    backoff: Backoff,
}

/// What the maps may not hold as wanted.
#[derive(Debug)]
enum Maps {
    /// These services, by index.
    Services(BTreeSet<usize>),
    Everything,
}

impl Default for Maps {
    fn default() -> Self {
        Self::Services(BTreeSet::new())
    }
}

impl Doubtful {
    /// These services are doubtful.
    pub(super) fn services(&mut self, more: impl IntoIterator<Item = usize>) {
        match &mut self.maps {
            Maps::Services(services) => services.extend(more),
            Maps::Everything => {}
        }
    }

    /// All services are, and what belongs to none.
    pub(super) fn everything(&mut self) {
        self.maps = Maps::Everything;
    }

    /// Whether something besides some services is.
    pub(super) fn is_everything(&self) -> bool {
        matches!(self.maps, Maps::Everything)
    }

    /// The host is to be looked at.
    pub(super) fn look(&mut self) {
        self.look = Look::Due;
    }

    /// The look failed as a whole, or (without an error) for some next hops.
    pub(super) fn look_failed(&mut self, error: Option<String>) {
        self.look = Look::NotDue;
        let before = self.look_failed.take();
        let backoff = before.map_or_else(Backoff::new, |before| before.backoff.again());
        self.look_failed = Some(LookFailed { error, backoff });
    }

    /// The look succeeded.
    pub(super) fn looked(&mut self) {
        self.look = Look::NotDue;
        self.look_failed = None;
    }

    /// Whether the last look failed, as a whole or in part.
    pub(super) fn has_look_failed(&self) -> bool {
        self.look_failed.is_some()
    }

    /// Whether the host is to be looked at now.
    pub(super) fn look_is_due(&self) -> bool {
        self.look == Look::Due
            || self.look_failed.as_ref().is_some_and(|f| f.backoff.at() <= Instant::now())
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> Option<Instant> {
        let look = match self.look {
            Look::NotDue => self.look_failed.as_ref().map(|failed| failed.backoff.at()),
            Look::Due => Some(Instant::now()),
        };
        let maps = match (&self.maps, &self.failed) {
            (Maps::Services(services), _) if services.is_empty() => None,
            (_, Some((_, backoff))) => Some(backoff.at()),
            (_, None) => Some(Instant::now()),
        };
        [look, maps].into_iter().flatten().min()
    }

    /// Why something is not as wanted.
    pub(super) fn error(&self) -> Option<&str> {
        let look = self.look_failed.as_ref().and_then(|failed| failed.error.as_deref());
        look.or(self.failed.as_ref().map(|(error, _)| error.as_str()))
    }

    /// Bringing the maps right failed.
    pub(super) fn maps_failed(&mut self, error: &DirectorError) {
        let backoff = self.failed.take().map_or_else(Backoff::new, |(_, backoff)| backoff.again());
        self.failed = Some((error.to_string(), backoff));
    }

    /// The maps hold everything as wanted.
    pub(super) fn maps_are_right(&mut self) {
        self.maps = Maps::default();
        self.failed = None;
    }
}

impl Director {
    /// Brings some doubtful services right, or everything.
    pub(super) async fn bring_right(&mut self) -> Stepped {
        let due = match &self.doubtful.failed {
            Some((_, backoff)) => backoff.at() <= Instant::now(),
            None => true,
        };
        if !due {
            return Stepped::default();
        }
        let result = match &self.doubtful.maps {
            Maps::Services(services) if services.is_empty() => return Stepped::default(),
            Maps::Services(services) => {
                let portion: Vec<usize> = services.iter().take(PORTION).copied().collect();
                let result = self.bring_some_right(&portion).await;
                if result.is_ok()
                    && let Maps::Services(services) = &mut self.doubtful.maps
                {
                    portion.iter().for_each(|at| _ = services.remove(at));
                    self.doubtful.failed = None;
                }
                result
            }
            Maps::Everything => {
                let result = self.bring_all_right().await;
                if result.is_ok() {
                    self.doubtful.failed = None;
                }
                result
            }
        };
        match result {
            Ok(Changed { plan, .. }) => Stepped { plan, error: None },
            Err(error) => {
                self.doubtful.maps_failed(&error);
                Stepped { plan: Plan::default(), error: Some(error) }
            }
        }
    }

    /// Compares everything that is wanted with what the maps hold.
    async fn bring_all_right(&mut self) -> Result<Changed, DirectorError> {
        let config = self.wanted.clone();
        let attachments = self.attachments();
        let observed = datapath::observe(&self.datapath.tables);
        let addresses = addresses_of(&config.services, &observed);
        self.resolve(addresses, std::time::Duration::ZERO).await;
        let all: Vec<&Service> = config.services.iter().collect();
        let prepared = Prepared::of(
            &self.netlink,
            observed,
            &config,
            &all,
            &self.interfaces.present,
            attachments,
            &self.hops,
            Accepts::Anything,
        )
        .await?;
        if !is_long(&prepared.changed.plan.ops) {
            return self.apply_all(prepared).await;
        }
        // Service by service, with other events in between.
        let Prepared { attachments, neighbours, warnings, .. } = prepared;
        attachments.prune(&mut self.datapath.tables);
        self.route_warnings = warnings;
        let before = self.set_neighbours(neighbours);
        let mut kept = Changed::default();
        keep_neighbours(&self.netlink, &before, &self.neighbours, &mut kept).await;
        self.look_again_if_short(&kept);
        self.doubtful.maps = Maps::Services((0..config.services.len()).collect());
        Ok(kept)
    }

    /// Applies a plan for all services.
    pub(super) async fn apply_all(&mut self, prepared: Prepared) -> Result<Changed, DirectorError> {
        if let Some(capacity) = prepared.growth(&self.datapath) {
            self.grow(capacity, &prepared)?;
        }
        let Prepared { attachments, changed, neighbours, warnings, .. } = prepared;
        let Changed { mut plan, warnings: mut shown } = changed;
        self.apply_in_portions(&mut plan.ops).await?;
        self.doubtful.maps_are_right();
        attachments.prune(&mut self.datapath.tables);
        self.route_warnings = warnings;
        let mut kept = Changed::default();
        let before = self.set_neighbours(neighbours);
        keep_neighbours(&self.netlink, &before, &self.neighbours, &mut kept).await;
        self.look_again_if_short(&kept);
        shown.extend(kept.warnings);
        Ok(Changed { plan, warnings: shown })
    }

    /// Compares some services with what the maps hold of them; the others are neither read nor
    /// written.
    pub(super) async fn bring_some_right(
        &mut self,
        services: &[usize],
    ) -> Result<Changed, DirectorError> {
        let config = self.wanted.clone();
        match self.prepare_some(&config, services, Accepts::Anything).await? {
            Some(prepared) => self.apply_some(prepared, services).await,
            // Some of them are not in the maps at all: what is free is not known then.
            None => self.bring_all_right().await,
        }
    }

    /// The steps for some services of `config`; `None` if the maps do not have all of them.
    pub(super) async fn prepare_some(
        &mut self,
        config: &Config,
        services: &[usize],
        accepts: Accepts,
    ) -> Result<Option<Prepared>, DirectorError> {
        let chosen: Vec<&Service> = services.iter().map(|at| &config.services[*at]).collect();
        let keys = chosen.iter().map(|service| key_of(&service.frontend)).collect();
        let observed = datapath::observe_some(&self.datapath.tables, &keys);
        if observed.services().len() != chosen.len() {
            return Ok(None);
        }
        let wait = match accepts {
            Accepts::WhatWorks => CHANGE_WAIT,
            Accepts::Anything => std::time::Duration::ZERO,
        };
        let addresses = addresses_of(chosen.iter().copied(), &observed);
        self.resolve(addresses, wait).await;
        let prepared = Prepared::of(
            &self.netlink,
            observed,
            config,
            &chosen,
            &self.interfaces.present,
            self.attachments(),
            &self.hops,
            accepts,
        );
        Ok(Some(prepared.await?))
    }

    /// Applies a plan for some services.
    pub(super) async fn apply_some(
        &mut self,
        prepared: Prepared,
        services: &[usize],
    ) -> Result<Changed, DirectorError> {
        if let Some(capacity) = prepared.growth(&self.datapath) {
            self.grow(capacity, &prepared)?;
        }
        let Prepared { changed, neighbours, warnings, .. } = prepared;
        let Changed { mut plan, warnings: mut shown } = changed;
        self.apply_in_portions(&mut plan.ops).await?;
        let names: HashSet<String> = services
            .iter()
            .map(|at| format!("service {}", self.wanted.services[*at].name))
            .collect();
        let is_of_others =
            |warning: &String| warning.split(':').next().is_none_or(|name| !names.contains(name));
        self.route_warnings.retain(is_of_others);
        self.route_warnings.extend(warnings);
        let fresh: Neighbours = neighbours.difference(&self.neighbours).copied().collect();
        if !fresh.is_empty() {
            let all = self.neighbours.union(&fresh).copied().collect();
            self.set_neighbours(all);
        }
        let mut kept = Changed::default();
        keep_neighbours(&self.netlink, &Neighbours::new(), &fresh, &mut kept).await;
        self.look_again_if_short(&kept);
        shown.extend(kept.warnings);
        Ok(Changed { plan, warnings: shown })
    }

    /// Applies steps; between portions, next hops follow neighbours that change meanwhile.
    pub(super) async fn apply_in_portions(&mut self, ops: &mut [Op]) -> Result<(), DatapathError> {
        let mut rest = ops;
        while !rest.is_empty() {
            let (portion, left) = rest.split_at_mut(portion_of(rest));
            datapath::apply(&mut self.datapath.tables, portion)?;
            if !left.is_empty() {
                self.follow_meanwhile(left).await;
            }
            rest = left;
        }
        Ok(())
    }

    /// Grows the maps. An interface that cannot be attached to already now does not prevent that.
    fn grow(
        &mut self,
        capacity: crate::policy::plan::Capacity,
        prepared: &Prepared,
    ) -> Result<(), DatapathError> {
        let all = self.interfaces.present.clone();
        let (attachments, interfaces) = (&prepared.attachments, &self.interfaces);
        let errors = self
            .datapath
            .grow(capacity, &all, attachments, &|interface| interfaces.is_failing(interface))?;
        let all: Vec<_> = all.iter().collect();
        self.interfaces.record(&self.datapath, &all, attachments, errors);
        self.pins.hold_new(&self.datapath.instance)?;
        Ok(())
    }

    /// Resolves the next hops to addresses that have none yet.
    pub(super) async fn resolve(
        &mut self,
        addresses: impl Iterator<Item = IpAddr>,
        wait: std::time::Duration,
    ) {
        let retries = !wait.is_zero();
        let hops = &self.hops;
        let missing: Vec<IpAddr> = addresses
            .filter(|at| hops.get(*at).is_none() || retries && !hops.is_resolved(*at))
            .collect();
        if !missing.is_empty() {
            let found = NextHopCache::find(&self.netlink, missing.into_iter(), wait).await;
            self.hops.update(found);
            self.hops.follow_path_mtus(&self.netlink);
        }
    }

    /// If the kernel was short of something for next hops or neighbours, the host is looked at again.
    pub(super) fn look_again_if_short(&mut self, kept: &Changed) {
        if !kept.warnings.is_empty() || self.hops.has_failures() {
            self.doubtful.look_failed(None);
        }
    }

    /// Follows these neighbours from now on; returns those before.
    pub(super) fn set_neighbours(&mut self, neighbours: Neighbours) -> Neighbours {
        self.host.set_neighbours(neighbours.iter().map(|(_, ip)| *ip));
        std::mem::replace(&mut self.neighbours, neighbours)
    }

    /// The services that use these backends; `None` if a backend is of none of them and drains.
    pub(super) fn services_with(&self, addresses: &HashSet<IpAddr>) -> Vec<usize> {
        let uses = |service: &Service| {
            service.backends.iter().any(|backend| addresses.contains(&backend.address))
        };
        let services = self.wanted.services.iter().enumerate();
        services.filter(|(_, service)| uses(service)).map(|(at, _)| at).collect()
    }

    /// Services whose removed backends' drains are over become doubtful.
    pub fn end_drains(&mut self) {
        let over = self.datapath.tables.services_with_drains_over(clock_ns());
        if over.is_empty() {
            return;
        }
        let services = self.wanted.services.iter().enumerate();
        let of: Vec<usize> = services
            .filter(|(_, service)| over.contains(&key_of(&service.frontend)))
            .map(|(at, _)| at)
            .collect();
        if of.len() == over.len() {
            self.doubtful.services(of);
        } else {
            self.doubtful.everything();
        }
    }
}

/// The addresses of services' backends, and of those in the maps.
pub(super) fn addresses_of<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    observed: &impl crate::policy::plan::View,
) -> impl Iterator<Item = IpAddr> {
    let configured = services.into_iter().flat_map(|s| s.backends.iter().map(|b| b.address));
    let present = observed.backends().values().filter(|backend| !backend.fixed_next_hop);
    configured.chain(present.map(|backend| backend.address)).collect::<Vec<_>>().into_iter()
}

/// Whether steps take long, and each concerns one service that is there before and after.
fn is_long(ops: &[Op]) -> bool {
    let is_of_one = |op: &Op| match op {
        Op::SetServiceMeta { .. }
        | Op::AddBackend { .. }
        | Op::SetBackend { .. }
        | Op::SetRing { .. }
        | Op::DrainBackend { .. }
        | Op::StopBackend { .. }
        | Op::MoveBackend { .. }
        | Op::FreeBackend { .. }
        | Op::ResetBackend { .. } => true,
        Op::RemoveStrayKey(_)
        | Op::AddService { .. }
        | Op::ShowService { .. }
        | Op::HideService { .. }
        | Op::RemoveService { .. }
        | Op::ResetService { .. } => false,
    };
    portion_of(ops) < ops.len() && ops.iter().all(is_of_one)
}

/// How many of these steps are applied at once.
fn portion_of(ops: &[Op]) -> usize {
    let mut rings = 0;
    for (at, op) in ops.iter().enumerate() {
        rings += usize::from(matches!(op, Op::SetRing { .. }));
        if rings > PORTION || at == OPS_AT_ONCE {
            return at;
        }
    }
    ops.len()
}
