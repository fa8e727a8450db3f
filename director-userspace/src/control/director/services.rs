//! Services whose state in the maps is doubtful: brought right in portions.

use std::{collections::HashSet, net::IpAddr};

use super::{
    CHANGE_WAIT, Changed, Director, DirectorError, Neighbours, Stepped,
    on_host::keep_neighbours,
    prepare::{Accepts, Prepared},
};
use crate::{
    kernel::{
        datapath::{self, Attached, DatapathError, clock_ns},
        host::NextHopCache,
    },
    policy::{
        config::{Config, model::Service},
        plan::{Op, Plan, View as _, key_of},
    },
};

/// Most services that one step brings right: their rings take a fifth of a second.
const PORTION: usize = 128;
/// Most steps of a plan that are applied without a look at the neighbours.
const OPS_AT_ONCE: usize = 4096;

impl Director {
    /// Brings some doubtful services right, or everything.
    pub(super) async fn bring_right(&mut self) -> Stepped {
        let result = if self.doubtful.whole_is_due() {
            let result = self.bring_all_right().await;
            result.inspect_err(|error| self.doubtful.whole_failed(error))
        } else {
            let portion = self.doubtful.portion(PORTION);
            match portion.as_slice() {
                [] => return Stepped::default(),
                [one] => {
                    let result = self.bring_some_right(&[*one]).await;
                    result.inspect_err(|error| self.doubtful.service_failed(*one, error))
                }
                some => match self.bring_some_right(some).await {
                    Ok(changed) => Ok(changed),
                    // An error belongs to one of them.
                    Err(_) => self.bring_right_one_by_one(some).await,
                },
            }
        };
        if self.doubtful.next_hops_are_right() {
            self.host.maps_follow();
        }
        match result {
            Ok(Changed { plan, .. }) => Stepped { plan, error: None },
            Err(error) => Stepped { plan: Plan::default(), error: Some(error) },
        }
    }

    async fn bring_right_one_by_one(
        &mut self,
        services: &[usize],
    ) -> Result<Changed, DirectorError> {
        let (mut done, mut last) = (Changed::default(), None);
        for at in services {
            match self.bring_some_right(&[*at]).await {
                Ok(changed) => done.plan.ops.extend(changed.plan.ops),
                Err(error) => {
                    self.doubtful.service_failed(*at, &error);
                    last = Some(error);
                }
            }
        }
        last.map_or(Ok(done), Err)
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
        self.doubtful.whole_is_right();
        self.doubtful.services(0..config.services.len());
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
        self.forget_other_hops();
        self.mark_meanwhile();
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
        accepts: Accepts<'_>,
    ) -> Result<Option<Prepared>, DirectorError> {
        let chosen: Vec<&Service> = services.iter().map(|at| &config.services[*at]).collect();
        let keys = chosen.iter().map(|service| key_of(&service.frontend)).collect();
        let observed = datapath::observe_some(&self.datapath.tables, &keys);
        if observed.services().len() != chosen.len() {
            return Ok(None);
        }
        let wait = match accepts {
            Accepts::Known(_) => CHANGE_WAIT,
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
        self.doubtful.right(services);
        self.mark_meanwhile();
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
    pub(super) fn grow(
        &mut self,
        capacity: crate::policy::plan::Capacity,
        prepared: &Prepared,
    ) -> Result<(), DatapathError> {
        let all = self.interfaces.present.clone();
        let (attachments, interfaces) = (&prepared.attachments, &self.interfaces);
        let may_fail = |interface: &Attached| interfaces.is_failing(interface);
        let grown = self.datapath.grow(capacity, &all, attachments, &may_fail);
        // Which maps the programs are left with is not known then: they are attached again.
        let errors = grown.inspect_err(|_| self.interfaces.forget_loaded())?;
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
            self.learn(found);
        }
    }

    /// If the kernel was short of something for next hops or neighbours, the host is looked at again.
    pub(super) fn look_again_if_short(&mut self, kept: &Changed) {
        let is_short = !kept.warnings.is_empty() || self.hops.has_failures();
        if is_short && !self.doubtful.has_look_failed() {
            self.doubtful.look_failed(None);
        }
    }

    /// Follows these neighbours from now on; returns those before.
    pub(super) fn set_neighbours(&mut self, neighbours: Neighbours) -> Neighbours {
        self.host.set_neighbours(neighbours.iter().map(|(_, ip)| *ip));
        std::mem::replace(&mut self.neighbours, neighbours)
    }

    /// Takes over next hops; services with those that differ from before are doubtful.
    pub(super) fn learn(&mut self, found: NextHopCache) {
        let known: HashSet<IpAddr> = self.hops.addresses().into_iter().collect();
        let mut differing = self.hops.update(found);
        self.hops.follow_path_mtus(&self.netlink);
        differing.retain(|address| known.contains(address));
        self.mark(&differing);
    }

    /// Services with these backends are doubtful, since the next hops to them changed.
    pub(super) fn mark(&mut self, differing: &HashSet<IpAddr>) {
        if differing.is_empty() {
            return;
        }
        self.host.maps_lag();
        let services = self.services_with(differing);
        let configured: HashSet<IpAddr> = services
            .iter()
            .flat_map(|at| self.wanted.services[*at].backends.iter().map(|b| b.address))
            .collect();
        if differing.iter().all(|address| configured.contains(address)) {
            self.doubtful.moved(services);
        } else {
            // Backends that drain follow, too.
            self.doubtful.everything();
        }
    }

    /// Marks what changed while a plan was applied.
    fn mark_meanwhile(&mut self) {
        let differing = std::mem::take(&mut self.meanwhile);
        self.mark(&differing);
        if self.doubtful.next_hops_are_right() {
            self.host.maps_follow();
        }
    }

    /// Forgets next hops to what is neither wanted nor in the maps.
    fn forget_other_hops(&mut self) {
        let wanted = self.wanted.services.iter().flat_map(|s| &s.backends).map(|b| b.address);
        let used: HashSet<IpAddr> =
            wanted.chain(self.datapath.tables.backend_addresses()).collect();
        self.hops.retain(&used);
    }

    /// The services that use these backends.
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
        | Op::MoveBackend { .. } => true,
        Op::RemoveStrayKey(_)
        | Op::AddService { .. }
        | Op::ShowService { .. }
        | Op::HideService { .. }
        | Op::RemoveService { .. }
        | Op::ResetService { .. }
        | Op::FreeBackend { .. }
        | Op::ResetBackend { .. } => false,
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
