//! Starting a director: from nothing, or from what an earlier process left.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use tokio::time::Instant;

use super::{
    Changed, Director, DirectorError, Doubtful, FIRST_WAIT, HostChanges, Interfaces, Neighbours,
    Turn,
    on_host::keep_neighbours,
    prepare::{Accepts, Prepared},
    services::addresses_of,
};
use crate::{
    kernel::{
        datapath::{self, AttachError, Attached, Attachments, Datapath, Instance, Pins, Scrub},
        host::{self, HostError, HostErrors, NextHopCache, kernel, privileges},
        net::Netlink,
    },
    policy::config::{Config, model::Service},
};

/// What becomes of an interface that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The start is refused.
    No,
    /// The others are served, and it is attached to when it comes.
    ForInterfaces,
}

/// What a start found and did.
struct Begun {
    changed: Changed,
    neighbours: Neighbours,
    hops: NextHopCache,
    warnings: Vec<String>,
    errors: Vec<AttachError>,
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
        host: HostChanges,
        waits: Waits,
    ) -> Result<(Self, Changed), DirectorError> {
        if let Some(too_old) = kernel::too_old(&kernel::release()) {
            return Err(DirectorError::Kernel(too_old));
        }
        let effective = privileges::effective().unwrap_or(u64::MAX);
        if let Some(missing) = privileges::missing(effective) {
            return Err(DirectorError::Privilege(missing));
        }
        if config.interfaces.is_empty() {
            return Err(HostErrors(vec![HostError::NoInterfaces]).into());
        }
        // What changes from here on is looked at after the start.
        host.take();
        host.looked();
        let links = netlink.links().await?;
        let addresses = netlink.addresses().await?;
        let (found, missing) = host::present_interfaces(&netlink, &links, config);
        let may_come = |error: &HostError| matches!(error, HostError::NoSuchInterface { .. });
        let waits_for = match waits {
            Waits::ForInterfaces if missing.iter().all(may_come) => missing,
            _ if missing.is_empty() => missing,
            Waits::No | Waits::ForInterfaces => return Err(HostErrors(missing).into()),
        };
        let lock = instance.lock()?;
        let mut datapath = Datapath::open_or_create(instance, config)?;
        // A backend may be reached by an interface that is still to come.
        let accepts = if waits_for.is_empty() { Accepts::Known(&[]) } else { Accepts::Anything };
        let indices: Vec<u32> = links.iter().map(|link| link.index).collect();
        Attachments::clear_gone(&mut datapath.tables, &indices);
        let begun = match Self::begin(&netlink, &mut datapath, config, &found, accepts).await {
            Ok(begun) => begun,
            Err(error) => {
                if !datapath.adopted {
                    // Nothing of this instance existed before; nothing stays.
                    let _ = datapath::detach(instance, &[]);
                }
                return Err(error);
            }
        };
        let Begun { mut changed, neighbours, hops, warnings, errors } = begun;
        let pins = Pins::hold(instance)?;
        let mut director = Self {
            netlink,
            datapath,
            wanted: Arc::new(config.clone()),
            interfaces: Interfaces::default(),
            hops,
            addresses,
            neighbours: Neighbours::new(),
            route_warnings: warnings,
            host_warnings: Vec::new(),
            doubtful: Doubtful::default(),
            meanwhile: HashSet::new(),
            turn: Turn::Attach,
            host,
            pins,
            scrub: Scrub::default(),
            repair_at: Instant::now(),
            _lock: lock,
        };
        let attachments = Attachments::assign(&director.datapath.tables, &found)?;
        director.interfaces.found(found.clone(), attachments.clone(), &waits_for);
        let tried: Vec<&Attached> = found.iter().collect();
        director.interfaces.record(&director.datapath, &tried, &attachments, errors);
        director.set_neighbours(neighbours);
        director.hops.follow_path_mtus(&director.netlink);
        director.look_again_if_short(&Changed::default());
        director.assign_vips().await;
        changed.warnings.extend(director.host_warnings.iter().cloned());
        changed.warnings.extend(director.interfaces.warnings());
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
        accepts: Accepts<'_>,
    ) -> Result<Begun, DirectorError> {
        let attachments = Attachments::assign(&datapath.tables, interfaces)?;
        let observed = datapath::observe(&datapath.tables);
        let addresses = addresses_of(&config.services, &observed);
        let hops = NextHopCache::find(netlink, addresses, FIRST_WAIT).await;
        let all: Vec<&Service> = config.services.iter().collect();
        let prepared =
            Prepared::of(netlink, observed, config, &all, interfaces, attachments, &hops, accepts)
                .await?;
        let attachments = &prepared.attachments;
        attachments.write(&mut datapath.tables, interfaces)?;
        datapath.set_clients(config.flows.clients)?;
        let key = datapath.set_hash_key(config);
        let growth = prepared.growth(datapath);
        let mut errors = Vec::new();
        if datapath.adopted || growth.is_some() {
            // While others forward, one that fails is a warning.
            let adopted = datapath::attached(&datapath.instance)?.len();
            let may_fail = |_: &Attached| adopted > 1;
            let attached = match growth {
                Some(capacity) => datapath.grow(capacity, interfaces, attachments, &may_fail),
                None => datapath.attach(interfaces, attachments, &may_fail),
            };
            errors = attached.inspect_err(|_| datapath.restore_hash_key(key))?;
        }
        datapath.set_timeouts(config);
        // Which neighbours are kept for adopted maps is not recorded.
        let mut gone = datapath::observe(&datapath.tables);
        datapath.adopt()?;
        datapath::apply(&mut datapath.tables, &prepared.changed.plan.ops)?;
        if !datapath.adopted {
            datapath.attach(interfaces, attachments, &|_| false)?;
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
        let (neighbours, warnings) = (prepared.neighbours, prepared.warnings);
        Ok(Begun { changed, neighbours, hops, warnings, errors })
    }
}
