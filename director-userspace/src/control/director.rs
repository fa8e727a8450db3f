//! A director on this host: the steps from a configuration to packets being forwarded, in order.
//! `attach` takes them once, the daemon again whenever something changes.

mod detach;
mod on_host;
mod prepare;
mod repair;

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    time::Duration,
};

pub use self::repair::Repaired;
use self::{
    on_host::{assign_vips, keep_neighbours},
    prepare::Prepared,
};
use crate::{
    kernel::{
        datapath::{
            self, Attached, Attachments, Datapath, DatapathError, Instance, Pins, Scrub, clock_ns,
        },
        host::{self, HostErrors, NextHopCache, kernel, privileges},
        net::{NetError, Netlink},
        path_probe::PathProbeError,
    },
    policy::{
        config::{Config, model::Service},
        plan::{Capacity, ObservedSome, Plan, key_of},
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

/// A running director: its maps, and the state of the host that they were written for.
pub struct Director {
    netlink: Netlink,
    datapath: Datapath,
    interfaces: Vec<Attached>,
    neighbours: Neighbours,
    /// What the maps are known to hold. `None` after an error: then everything is read again.
    effective: Option<Effective>,
    /// Everything that is pinned, held open.
    pins: Pins,
    /// Where the comparison of the maps continues.
    scrub: Scrub,
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

/// The configuration in effect, and its next hops.
struct Effective {
    config: Config,
    hops: NextHopCache,
    /// Warnings about these next hops.
    warnings: Vec<String>,
}

impl Director {
    /// Brings `config` into effect on this host: maps, backends, then programs. If maps of this
    /// instance are there, they are adopted and changed in place, and programs are replaced
    /// atomically.
    ///
    /// # Errors
    ///
    /// If something is missing; then nothing is attached that was not before.
    pub async fn start(
        netlink: Netlink,
        instance: &Instance,
        config: &Config,
    ) -> Result<(Self, Changed), DirectorError> {
        if let Some(too_old) = kernel::too_old(&kernel::release()) {
            return Err(DirectorError::Kernel(too_old));
        }
        let effective = privileges::effective().unwrap_or(u64::MAX);
        if let Some(missing) = privileges::missing(effective) {
            return Err(DirectorError::Privilege(missing));
        }
        let interfaces = host::interfaces(&netlink, config).await?;
        let lock = instance.lock()?;
        let mut datapath = Datapath::open_or_create(instance, config)?;
        let result = Self::begin(&netlink, &mut datapath, config, &interfaces).await;
        let (mut changed, neighbours, effective) = match result {
            Ok(begun) => begun,
            Err(error) => {
                if !datapath.adopted {
                    // Nothing of this instance existed before; nothing stays.
                    let _ = datapath::detach(instance, &[]);
                }
                return Err(error);
            }
        };
        changed.warnings.extend(flow_table_warning(&datapath, config));
        assign_vips(&netlink, instance, config, &mut changed).await;
        let effective = Some(effective);
        let pins = Pins::hold(instance)?;
        let director = Self {
            netlink,
            datapath,
            interfaces,
            neighbours,
            effective,
            pins,
            scrub: Scrub::default(),
            _lock: lock,
        };
        Ok((director, changed))
    }

    /// Writes maps and attaches programs, in an order that is safe for packets: where nothing
    /// forwards yet, programs come last, or packets for services not written yet would pass; where
    /// programs forward already, they come first, since only they can be refused, and then nothing
    /// has changed.
    async fn begin(
        netlink: &Netlink,
        datapath: &mut Datapath,
        config: &Config,
        interfaces: &[Attached],
    ) -> Result<(Changed, Neighbours, Effective), DirectorError> {
        let prepared =
            Prepared::new(netlink, datapath, config, interfaces, Some(FIRST_WAIT)).await?;
        let attachments = &prepared.attachments;
        attachments.write(&mut datapath.tables, interfaces)?;
        datapath.set_clients(config)?;
        let key = datapath.set_hash_key(config);
        let growth = prepared.growth(datapath);
        if datapath.adopted || growth.is_some() {
            let plan = &prepared.changed.plan;
            let attached = match growth {
                Some(capacity) => datapath.grow(capacity, interfaces, attachments, plan),
                None => datapath.attach(interfaces, attachments),
            };
            attached.inspect_err(|_| datapath.restore_hash_key(key))?;
        }
        datapath.set_timeouts(config);
        // Which neighbours are kept for adopted maps is not recorded.
        let mut gone = datapath::observe(&datapath.tables);
        datapath.adopt()?;
        apply_plan(datapath, &prepared.changed.plan, growth)?;
        if !datapath.adopted {
            datapath.attach(interfaces, attachments)?;
        }
        attachments.prune(&mut datapath.tables);
        let mut changed = prepared.changed;
        let draining = datapath::observe(&datapath.tables);
        let mut stay: HashSet<IpAddr> = draining.backends.values().map(|b| b.address).collect();
        stay.extend(config.services.iter().flat_map(|s| s.backends.iter().map(|b| b.address)));
        gone.backends.retain(|_, backend| !stay.contains(&backend.address));
        if let Err(error) = host::release_neighbours(netlink, &gone).await {
            changed.warnings.push(error.to_string());
        }
        keep_neighbours(netlink, &Neighbours::new(), &prepared.neighbours, &mut changed).await;
        let warnings = prepared.warnings;
        let effective = Effective { config: config.clone(), hops: prepared.hops, warnings };
        Ok((changed, prepared.neighbours, effective))
    }

    /// Brings another configuration into effect, which differs within `scope`. On an error, the one
    /// before stays.
    ///
    /// # Errors
    ///
    /// As [`Director::start`].
    pub async fn change(
        &mut self,
        config: &Config,
        scope: Scope<'_>,
    ) -> Result<Changed, DirectorError> {
        let interfaces = host::interfaces(&self.netlink, config).await;
        // Something of this change may stay undone: the next one compares everything.
        let interfaces = interfaces.inspect_err(|_| self.effective = None)?;
        if let Some(services) = self.small_change(config, scope, &interfaces)
            && let Some(effective) = self.effective.take()
        {
            let changed = self.change_some(config, &services, effective, &interfaces).await?;
            if let Some(effective) = &mut self.effective {
                match scope {
                    Scope::All => effective.config.clone_from(config),
                    Scope::Services(services) => {
                        for at in services {
                            effective.config.services[*at].clone_from(&config.services[*at]);
                        }
                    }
                }
            }
            self.datapath.set_timeouts(config);
            return Ok(changed);
        }
        let prepared = self.prepare(config, &interfaces, Some(CHANGE_WAIT)).await?;
        let old_key = self.datapath.set_hash_key(config);
        let rekeyed = old_key.is_some();
        let must_reattach = self.datapath.set_clients(config)? || rekeyed;
        let mut changed = match self.put(prepared, config, interfaces, must_reattach).await {
            Ok(changed) => changed,
            Err(error) => {
                self.datapath.restore_hash_key(old_key);
                if rekeyed {
                    // Programs that were replaced already have the new key.
                    let attachments = Attachments::assign(&self.datapath.tables, &self.interfaces)?;
                    let _ = self.datapath.attach(&self.interfaces, &attachments);
                }
                return Err(error);
            }
        };
        self.datapath.set_timeouts(config);
        if rekeyed {
            changed.warnings.push(
                "hash_key changed: known flows are no longer recognised, and most go to another \
                 backend, which resets their connections"
                    .into(),
            );
        }
        changed.warnings.extend(flow_table_warning(&self.datapath, config));
        assign_vips(&self.netlink, &self.datapath.instance, config, &mut changed).await;
        Ok(changed)
    }

    /// The services that `config` changes, if everything else of it is in effect, and the next hops
    /// to all their backends are known.
    fn small_change(
        &self,
        config: &Config,
        scope: Scope<'_>,
        interfaces: &[Attached],
    ) -> Option<Vec<usize>> {
        let Effective { config: before, hops, warnings } = self.effective.as_ref()?;
        let place = |i: &Attached| (i.name.clone(), i.ifindex, i.mode, i.role, i.macs.clone());
        let same = warnings.is_empty()
            && interfaces.iter().map(place).eq(self.interfaces.iter().map(place))
            && (&config.interfaces, &config.tunnel) == (&before.interfaces, &before.tunnel)
            && (config.hash_key, config.flows.size) == (before.hash_key, before.flows.size)
            && config.flows.clients == before.flows.clients
            && config.services.len() == before.services.len();
        if !same {
            return None;
        }
        let changed = match scope {
            Scope::Services(services) => services.to_vec(),
            Scope::All => {
                let mut changed = Vec::new();
                let pairs = config.services.iter().zip(&before.services);
                for (at, (service, before)) in pairs.enumerate() {
                    if service.frontend != before.frontend {
                        return None;
                    }
                    if service != before {
                        changed.push(at);
                    }
                }
                changed
            }
        };
        let mut backends = changed.iter().flat_map(|at| &config.services[*at].backends);
        backends.all(|b| b.mac.is_some() || hops.is_resolved(b.address)).then_some(changed)
    }

    /// Changes some services; the others are neither read nor written. The caller updates the
    /// configuration in effect.
    async fn change_some(
        &mut self,
        config: &Config,
        services: &[usize],
        Effective { config: before, hops, warnings }: Effective,
        interfaces: &[Attached],
    ) -> Result<Changed, DirectorError> {
        let services: Vec<&Service> = services.iter().map(|at| &config.services[*at]).collect();
        let attachments = Attachments::assign(&self.datapath.tables, interfaces)?;
        let keys = services.iter().map(|service| key_of(&service.frontend)).collect();
        let observed = datapath::observe_some(&self.datapath.tables, &keys);
        let netlink = &self.netlink;
        let prepared =
            Prepared::of(netlink, observed, config, &services, interfaces, attachments, hops, true)
                .await?;
        let (growth, plan) = (prepared.growth(&self.datapath), &prepared.changed.plan);
        if let Some(capacity) = growth {
            self.datapath.grow(capacity, interfaces, &prepared.attachments, plan)?;
            self.pins = Pins::hold(&self.datapath.instance)?;
        }
        apply_plan(&mut self.datapath, plan, growth)?;
        let mut changed = prepared.changed;
        let known = &self.neighbours;
        let fresh: Neighbours = prepared.neighbours.difference(known).copied().collect();
        keep_neighbours(&self.netlink, &Neighbours::new(), &fresh, &mut changed).await;
        self.neighbours.extend(fresh);
        self.effective = Some(Effective { config: before, hops: prepared.hops, warnings });
        Ok(changed)
    }

    /// What [`Director::change`] would do; changes nothing.
    ///
    /// # Errors
    ///
    /// As [`Director::start`].
    pub async fn plan(&self, config: &Config) -> Result<Changed, DirectorError> {
        let interfaces = host::interfaces(&self.netlink, config).await?;
        Ok(self.prepare(config, &interfaces, Some(CHANGE_WAIT)).await?.changed)
    }

    /// The interfaces that it is attached to.
    pub fn interfaces(&self) -> &[Attached] {
        &self.interfaces
    }

    /// What the maps hold of some services.
    pub fn observe(&self, services: &[&Service]) -> ObservedSome {
        let keys = services.iter().map(|service| key_of(&service.frontend)).collect();
        datapath::observe_some(&self.datapath.tables, &keys)
    }

    /// Forgets the next hops to backends: the next change resolves all of them.
    pub fn forget_next_hops(&mut self) {
        self.effective = None;
    }

    /// Applies changes of the host: the current MACs of interfaces, routes and neighbours. Also
    /// ends drains that are over. An interface that is gone, or a backend that the host no longer
    /// sends to as configured, is a warning: the others are updated.
    ///
    /// # Errors
    ///
    /// If no interface is left; the configuration in effect stays.
    pub async fn refresh(&mut self, config: &Config) -> Result<Changed, DirectorError> {
        let (interfaces, missing) = host::present_interfaces(&self.netlink, config).await?;
        if interfaces.is_empty() {
            return Err(HostErrors(missing).into());
        }
        self.effective = None;
        let prepared = self.prepare(config, &interfaces, None).await?;
        let mut changed = self.put(prepared, config, interfaces, false).await?;
        changed.warnings.extend(missing.iter().map(ToString::to_string));
        // An interface that was recreated, or was down, has lost its addresses.
        assign_vips(&self.netlink, &self.datapath.instance, config, &mut changed).await;
        Ok(changed)
    }

    async fn prepare(
        &self,
        config: &Config,
        interfaces: &[Attached],
        wait: Option<Duration>,
    ) -> Result<Prepared, DirectorError> {
        Prepared::new(&self.netlink, &self.datapath, config, interfaces, wait).await
    }

    /// Programs first: see [`Director::begin`].
    async fn put(
        &mut self,
        prepared: Prepared,
        config: &Config,
        interfaces: Vec<Attached>,
        must_reattach: bool,
    ) -> Result<Changed, DirectorError> {
        self.effective = None;
        prepared.attachments.write(&mut self.datapath.tables, &interfaces)?;
        let (growth, plan) = (prepared.growth(&self.datapath), &prepared.changed.plan);
        if let Some(capacity) = growth {
            self.datapath.grow(capacity, &interfaces, &prepared.attachments, plan)?;
        } else if must_reattach || programs_differ(&self.interfaces, &interfaces) {
            // Also if an interface was recreated under its old name.
            self.datapath.attach(&interfaces, &prepared.attachments)?;
        }
        if growth.is_some() || must_reattach || programs_differ(&self.interfaces, &interfaces) {
            self.pins = Pins::hold(&self.datapath.instance)?;
        }
        apply_plan(&mut self.datapath, plan, growth)?;
        prepared.attachments.prune(&mut self.datapath.tables);
        let mut changed = prepared.changed;
        keep_neighbours(&self.netlink, &self.neighbours, &prepared.neighbours, &mut changed).await;
        self.interfaces = interfaces;
        self.neighbours = prepared.neighbours;
        let (hops, warnings) = (prepared.hops, prepared.warnings);
        self.effective = Some(Effective { config: config.clone(), hops, warnings });
        Ok(changed)
    }

    /// The maps.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Whether packets are sent to a neighbour.
    pub fn sends_to(&self, neighbour: IpAddr) -> bool {
        self.neighbours.iter().any(|(_, ip)| *ip == neighbour)
    }

    /// Whether some backend's drain is over.
    pub fn drain_is_over(&self) -> bool {
        self.datapath.tables.drain_is_over(clock_ns())
    }
}

/// Applies a plan; if maps grew for it, its rings exist already.
fn apply_plan(
    datapath: &mut Datapath,
    plan: &Plan,
    growth: Option<Capacity>,
) -> Result<(), DatapathError> {
    match growth {
        Some(_) => datapath::apply_built(&mut datapath.tables, plan),
        None => datapath::apply(&mut datapath.tables, plan),
    }
}

/// Whether programs must be attached again.
fn programs_differ(before: &[Attached], after: &[Attached]) -> bool {
    let parts = |all: &[Attached]| {
        all.iter().map(|i| (i.name.clone(), i.ifindex, i.mode, i.role)).collect::<Vec<_>>()
    };
    parts(before) != parts(after)
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
