//! Health checks through the data path: their probe filters and firewall marks.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use tracing::error;

use super::{Daemon, probes::Marks};
use crate::{
    kernel::path_probe::PathProbe,
    policy::config::model::{Service, Via},
};

impl Daemon {
    /// Probes what the configuration names, by the current paths of packets.
    pub(super) async fn watch_health(&mut self) {
        let probes = self.path_probes().await;
        let interfaces = self.director.as_ref().map_or(&[][..], |director| director.interfaces());
        self.marks = match self.path_probes.set(interfaces, &probes).await {
            Ok(marks) => {
                self.path_probes_error = None;
                let marks = marks.into_iter();
                marks
                    .map(|(probe, mark)| ((probe.vip, probe.backend, probe.forward), mark))
                    .collect()
            }
            Err(error) => {
                let error = error.to_string();
                // Retried whenever the host changes: the same error is logged once.
                if self.path_probes_error.as_ref() != Some(&error) {
                    error!("checks via path cannot be made: {error}");
                }
                self.path_probes_error = Some(error);
                Marks::new()
            }
        };
        self.health_tracker.watch(&self.config, &self.marks);
    }

    /// Restores probe filters that another process removed; returns the interfaces' names.
    pub(super) async fn restore_path_probes(&mut self) -> Vec<String> {
        let Some(director) = &self.director else { return Vec::new() };
        match self.path_probes.restore(director.interfaces()).await {
            Ok(names) => names,
            Err(_) => {
                // Logs the error if it fails again, and stops probing through the data path.
                self.watch_health().await;
                Vec::new()
            }
        }
    }

    /// The paths of all services with checks via path, by the maps.
    async fn path_probes(&self) -> Vec<PathProbe> {
        let has_path_check =
            |service: &&Service| service.health.checks.iter().any(|check| check.via == Via::Path);
        let services: Vec<&Service> = self.config.services.iter().filter(has_path_check).collect();
        let Some(director) = self.director.as_ref().filter(|_| !services.is_empty()) else {
            return Vec::new();
        };
        let observed = director.observe(&services);
        let vips: HashSet<IpAddr> =
            self.config.services.iter().map(|s| s.frontend.address).collect();
        let own = self.own_addresses(&vips).await;
        let mut sources: HashMap<IpAddr, IpAddr> = HashMap::new();
        for backend in observed.backends.values() {
            sources.entry(backend.address).or_insert(backend.source);
        }
        let mut probes = Vec::new();
        for service in services {
            let vip = service.frontend.address;
            for backend in &service.backends {
                let source = sources.get(&backend.address).copied();
                let source = source.filter(|source| !source.is_unspecified());
                let is_mixed = vip.is_ipv4() != backend.address.is_ipv4();
                let from = own.iter().find(|own| is_mixed && own.is_ipv4() == vip.is_ipv4());
                probes.push(PathProbe {
                    vip,
                    backend: backend.address,
                    forward: service.forward,
                    source: source.filter(|_| service.forward.encapsulates()),
                    from: from.copied(),
                    mac: backend.mac,
                });
            }
        }
        probes.sort_by_key(|probe| (probe.vip, probe.backend));
        probes.dedup();
        probes
    }

    /// Addresses of Director's interfaces that probes' replies can be sent to, without VIPs.
    async fn own_addresses(&self, vips: &HashSet<IpAddr>) -> Vec<IpAddr> {
        let Some(director) = &self.director else { return Vec::new() };
        let Ok(addresses) = self.netlink.addresses().await else { return Vec::new() };
        let is_usable = |address: &crate::kernel::net::Address| {
            let is_local = match address.address {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            } || address.tentative;
            !is_local
                && !vips.contains(&address.address)
                && director.interfaces().iter().any(|i| i.ifindex == address.link_index)
        };
        addresses.into_iter().filter(is_usable).map(|address| address.address).collect()
    }
}
