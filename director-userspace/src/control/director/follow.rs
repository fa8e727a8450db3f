//! Changes of the host: interfaces, routes and neighbours.

use std::{net::IpAddr, time::Duration};

use director_common::backend::NextHop;

use super::{Changed, Director, DirectorError, HostChange, Stepped, on_host::assign_vips};
use crate::{
    kernel::{
        datapath::{Attached, Attachments},
        host::{self, NextHopCache},
    },
    policy::plan::Op,
};

impl Director {
    /// The host changed, or what is known of it is doubted: the next step looks at it.
    pub fn host_changed(&mut self) {
        self.doubtful.look();
    }

    /// Looks at what changed on the host. What that concerns becomes doubtful.
    pub(super) async fn look(&mut self) -> Stepped {
        let mut change = self.host.take();
        if self.doubtful.has_look_failed() {
            change = HostChange::Anything;
            // Neighbours that the kernel could not keep are among what failed.
            self.doubtful.everything();
        }
        let result = match change {
            HostChange::Nothing => Ok(()),
            HostChange::Neighbours(neighbours) => {
                let addresses = self.hops.sent_by(&neighbours);
                self.follow_addresses(addresses).await;
                Ok(())
            }
            HostChange::Anything => self.look_at_all().await,
        };
        match result {
            Ok(()) => {
                if self.hops.has_failures() {
                    self.doubtful.look_failed(None);
                } else {
                    self.doubtful.looked();
                }
                self.host.looked();
                Stepped::default()
            }
            Err(error) => {
                self.doubtful.look_failed(Some(error.to_string()));
                self.host.look_failed();
                Stepped { error: Some(error), ..Stepped::default() }
            }
        }
    }

    async fn look_at_all(&mut self) -> Result<(), DirectorError> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let (found, missing) = host::present_interfaces(&self.netlink, &links, &self.wanted);
        let indices: Vec<u32> = links.iter().map(|link| link.index).collect();
        let tables = &mut self.datapath.tables;
        Attachments::clear_gone(tables, &indices);
        let attachments = Attachments::assign(tables, &found)?;
        attachments.write(tables, &found)?;
        let place = |i: &Attached| (i.name.clone(), i.ifindex, i.mode, i.role, i.macs.clone());
        let are_same = found.iter().map(place).eq(self.interfaces.present.iter().map(place))
            && addresses == self.addresses;
        self.interfaces.found(found, attachments, &missing);
        self.interfaces.check_programs(&self.pins.programs());
        self.addresses = addresses;
        self.datapath.detach_others(&self.interfaces.present)?;
        self.pins.hold_new(&self.datapath.instance)?;
        let known = self.hops.addresses();
        self.follow_addresses(known).await;
        if !are_same {
            self.doubtful.everything();
        }
        // An interface that was recreated, or was down, has lost its addresses.
        self.assign_vips().await;
        Ok(())
    }

    /// Resolves the next hops to these addresses again.
    async fn follow_addresses(&mut self, addresses: Vec<IpAddr>) {
        let found = NextHopCache::find(&self.netlink, addresses.into_iter(), Duration::ZERO).await;
        self.learn(found);
    }

    /// While a long plan is applied: next hops follow neighbours that change, in the maps and in
    /// the steps that are `left`.
    pub(super) async fn follow_meanwhile(&mut self, left: &mut [Op]) {
        let neighbours = self.host.take_neighbours();
        if neighbours.is_empty() {
            return;
        }
        let addresses = self.hops.sent_by(&neighbours);
        let found = NextHopCache::find(&self.netlink, addresses.into_iter(), Duration::ZERO).await;
        let differing = self.hops.update(found);
        self.meanwhile.extend(&differing);
        let attachments = self.attachments();
        let next_hop = |address: IpAddr| {
            let Some(Ok(hop)) = differing.get(&address).and_then(|at| self.hops.get(*at)) else {
                return None;
            };
            let slot = attachments.slot(hop.link_index)?;
            Some(NextHop::new(hop.mac?, hop.vlan.unwrap_or(0), slot as u8))
        };
        self.datapath.tables.move_next_hops(next_hop);
        for op in left {
            if let Op::AddBackend { spec, .. } | Op::SetBackend { spec, .. } = op
                && !spec.fixed_next_hop
                && let Some(next_hop) = next_hop(spec.address)
                && next_hop.is_same_way(spec.path.next_hop)
            {
                spec.path.next_hop = next_hop;
            }
        }
    }

    /// Attaches to the next interface that is due; returns whether there was one.
    pub(super) async fn attach_next(&mut self) -> bool {
        let attachments = self.attachments();
        let Some(interface) = self.interfaces.next(&self.datapath, &attachments).cloned() else {
            return false;
        };
        // The kernel does not always report that another program came or went.
        let link = self.netlink.link_by_index(interface.ifindex).await;
        let program = link.map_or(interface.program, |link| link.xdp.map(|xdp| xdp.prog_id));
        let interface = Attached { program, ..interface };
        let attached = self.datapath.attach_some(&[&interface], &attachments, &|_| true);
        // No error is left for the whole when each may fail.
        let errors = attached.unwrap_or_default();
        self.interfaces.record(&self.datapath, &[&interface], &attachments, errors);
        if let Err(error) = self.pins.hold_new(&self.datapath.instance) {
            tracing::error!("{error}");
        }
        true
    }

    pub(super) async fn assign_vips(&mut self) {
        let mut changed = Changed::default();
        assign_vips(&self.netlink, &self.datapath.instance, &self.wanted, &mut changed).await;
        if !changed.warnings.is_empty() && !self.doubtful.has_look_failed() {
            self.doubtful.look_failed(None);
        }
        changed.warnings.extend(super::flow_table_warning(&self.datapath, &self.wanted));
        self.host_warnings = changed.warnings;
    }
}
