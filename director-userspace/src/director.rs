//! A director on this host: the steps from a configuration to packets being forwarded, in order.
//! `attach` takes them once, the daemon again whenever something changes.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use crate::{
    config::Config,
    datapath::{self, Attached, Attachments, Datapath, DatapathError, Instance, clock_ns},
    host::{self, HostErrors, Ways, kernel, privileges},
    net::{NetError, Netlink},
    plan::{Desired, Plan, diff},
};

/// How long a start waits for neighbours that do not answer at once.
const FIRST_WAIT: Duration = Duration::from_millis(1500);

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
    /// Not allowed.
    #[error("{0}")]
    Privilege(String),
    /// The kernel will not do.
    #[error("{0}")]
    Kernel(String),
}

/// What a change did.
#[derive(Debug)]
pub struct Changed {
    /// The steps taken.
    pub plan: Plan,
    /// What is odd, for people.
    pub warnings: Vec<String>,
}

/// A running director: its maps, and what it knows of the host.
pub struct Director {
    netlink: Netlink,
    datapath: Datapath,
    interfaces: Vec<Attached>,
    neighbours: BTreeSet<(u32, IpAddr)>,
    _lock: datapath::Lock,
}

impl Director {
    /// Brings `config` into effect on this host: maps, backends, then programs. If maps of this
    /// instance are there, they are adopted and changed in place, and programs are replaced
    /// atomically.
    ///
    /// # Errors
    ///
    /// Whatever is missing; then nothing is attached that was not before.
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
        let existed = instance.pins().exists();
        let mut datapath = Datapath::open_or_create(instance, config)?;
        let result = Self::fill(&netlink, &mut datapath, config, &interfaces, FIRST_WAIT).await;
        let attached = match result {
            Ok((attachments, changed, neighbours)) => datapath
                .attach(&interfaces, &attachments)
                .map(|()| (changed, neighbours))
                .map_err(Into::into),
            Err(error) => Err(error),
        };
        match attached {
            Ok((mut changed, neighbours)) => {
                if let Some(warning) = flow_table_warning(&datapath, config) {
                    changed.warnings.push(warning);
                }
                host::assign_vips(&netlink, config, &instance.run_dir()).await?;
                let director = Self { netlink, datapath, interfaces, neighbours, _lock: lock };
                Ok((director, changed))
            }
            Err(error) => {
                if !existed {
                    // Nothing of this instance was there before; nothing stays.
                    let _ = datapath::detach(instance, &[]);
                }
                Err(error)
            }
        }
    }

    /// Brings another configuration into effect. On an error, the one before stays, but for
    /// services that were changed already.
    ///
    /// # Errors
    ///
    /// As [`Director::start`].
    pub async fn change(&mut self, config: &Config) -> Result<Changed, DirectorError> {
        let interfaces = host::interfaces(&self.netlink, config).await?;
        let was = self.datapath.tables.meta().hash_key;
        let (attachments, mut changed, neighbours) =
            Self::fill(&self.netlink, &mut self.datapath, config, &interfaces, FIRST_WAIT).await?;
        self.datapath.configure(config);
        let rekeyed = self.datapath.tables.meta().hash_key != was;
        if rekeyed || programs_differ(&self.interfaces, &interfaces) {
            self.datapath.attach(&interfaces, &attachments)?;
        }
        attachments.prune(&mut self.datapath.tables);
        self.interfaces = interfaces;
        self.neighbours = neighbours;
        changed.warnings.extend(flow_table_warning(&self.datapath, config));
        host::assign_vips(&self.netlink, config, &self.datapath.instance.run_dir()).await?;
        Ok(changed)
    }

    /// Follows the host: interfaces' MACs, routes and neighbours as they are now. Also ends drains
    /// whose time is over.
    ///
    /// # Errors
    ///
    /// If the host no longer carries the configuration; what was in effect stays.
    pub async fn refresh(&mut self, config: &Config) -> Result<Changed, DirectorError> {
        let interfaces = host::interfaces(&self.netlink, config).await?;
        let (attachments, changed, neighbours) =
            Self::fill(&self.netlink, &mut self.datapath, config, &interfaces, Duration::ZERO)
                .await?;
        if programs_differ(&self.interfaces, &interfaces) {
            // An interface was made anew under its old name.
            self.datapath.attach(&interfaces, &attachments)?;
        }
        self.interfaces = interfaces;
        self.neighbours = neighbours;
        Ok(changed)
    }

    async fn fill(
        netlink: &Netlink,
        datapath: &mut Datapath,
        config: &Config,
        interfaces: &[Attached],
        wait: Duration,
    ) -> Result<(Attachments, Changed, BTreeSet<(u32, IpAddr)>), DirectorError> {
        let attachments = Attachments::register(&mut datapath.tables, interfaces)?;
        let Ways { paths, neighbours, warnings } =
            host::ways(netlink, config, interfaces, &attachments, wait).await?;
        for (link, neighbour) in &neighbours {
            netlink.manage_neighbour(*link, *neighbour).await?;
        }
        let desired = Desired::new(config, &paths);
        let plan = diff(&datapath::observe(&datapath.tables), &desired, clock_ns())
            .map_err(DatapathError::from)?;
        datapath::apply(&mut datapath.tables, &plan)?;
        Ok((attachments, Changed { plan, warnings }, neighbours))
    }

    /// The maps.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Whether a neighbour is one that packets are sent to.
    pub fn sends_to(&self, neighbour: IpAddr) -> bool {
        self.neighbours.iter().any(|(_, ip)| *ip == neighbour)
    }

    /// Whether some backend's drain is over.
    pub fn drain_is_over(&self) -> bool {
        let now = clock_ns();
        datapath::observe(&self.datapath.tables).backends.values().any(|backend| {
            backend.state == director_common::backend::BackendState::Draining
                && backend.drain_deadline_ns <= now
        })
    }
}

/// Whether programs have to be put on interfaces again.
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
            "flows.size is {wants}, but the running flow table has {has} entries: the new size \
             takes effect after `director detach`"
        )
    })
}
