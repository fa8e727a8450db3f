//! Writes a snapshot as metrics.

use std::{collections::BTreeMap, net::IpAddr};

use director_common::verdict::Verdict;

use super::{
    catalogue::{self as metric, Metric},
    text::Text,
};
use crate::serve::view::{BackendView, ServiceView, Snapshot, Traffic, status::ServiceState};

pub(super) fn render(snapshot: &Snapshot, max_backend_series: usize) -> String {
    let mut text = Text::default();
    daemon(&mut text, snapshot);
    packets(&mut text, snapshot);
    services(&mut text, &snapshot.services);
    let backends = merged(&snapshot.services);
    let of_backends = metric::ALL.iter().filter(|metric| metric.labels.contains(&"backend"));
    let truncated = backends.len() * of_backends.count() > max_backend_series;
    if !truncated {
        write_backends(&mut text, &backends);
    }
    text.single(&metric::TRUNCATED, u8::from(truncated));
    text.finish()
}

fn daemon(text: &mut Text, snapshot: &Snapshot) {
    text.family(&metric::BUILD_INFO);
    text.series(&metric::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
    if let Some(status) = &snapshot.status {
        text.single(&metric::START_TIME, status.started);
    }
    if let Some(age_ms) = snapshot.heartbeat_age_ms {
        text.single(&metric::HEARTBEAT_AGE, age_ms as f64 / 1000.0);
    }
    if let Some(status) = &snapshot.status {
        text.single(&metric::CONFIG_REVISION, status.revision);
        text.single(&metric::CONFIG_APPLIED, status.applied);
        text.single(&metric::CONFIG_REFUSED, u8::from(status.refused.is_some()));
        text.single(&metric::CONFIG_WARNINGS, status.warnings.len());
    }
    text.family(&metric::INTERFACE_ATTACHED);
    for interface in &snapshot.interfaces {
        text.series(&metric::INTERFACE_ATTACHED, &[&interface.name, interface.mode], 1);
    }
}

fn packets(text: &mut Text, snapshot: &Snapshot) {
    text.family(&metric::PACKETS);
    for view in &snapshot.verdicts {
        let verdict = match view.verdict {
            // Its label is `tx`, since the frame is sent back; but the sender gets an ICMP error.
            Verdict::Reply(_) => "reply",
            verdict => verdict.label(),
        };
        let reason = view.verdict.reason().unwrap_or("none");
        text.series(&metric::PACKETS, &[verdict, reason], view.packets);
    }
    text.single(&metric::FLOW_CAPACITY, snapshot.flow_capacity);
    text.single(&metric::FLOWS_ESTABLISHED, snapshot.established);
}

fn services(text: &mut Text, services: &[ServiceView]) {
    type Value = fn(&ServiceView) -> Option<u64>;
    let rows: [(Metric, Value); 11] = [
        (metric::SERVICE_UP, |s| s.status.map(|c| u64::from(c.quorum.held))),
        (metric::SERVICE_PANIC, |s| s.status.map(|c| u64::from(c.state == ServiceState::Panic))),
        (metric::SERVICE_BACKENDS, |s| Some(s.usable().1 as u64)),
        (metric::SERVICE_BACKENDS_UP, |s| Some(s.usable().0 as u64)),
        (metric::SERVICE_FLOWS, |s| Some(s.traffic.flows)),
        (metric::SERVICE_PACKETS, |s| Some(s.traffic.packets)),
        (metric::SERVICE_BYTES, |s| Some(s.traffic.bytes)),
        (metric::SERVICE_DROPPED, |s| Some(s.dropped)),
        (metric::SERVICE_UNTRACKED, |s| Some(s.untracked)),
        (metric::SERVICE_UNRECORDED, |s| Some(s.untracked)),
        (metric::SERVICE_ESTABLISHED, |s| Some(s.established)),
    ];
    for (metric, value) in rows {
        text.family(&metric);
        for service in services {
            if let Some(value) = value(service) {
                text.series(&metric, &[&service.name, &service.frontend], value);
            }
        }
    }
}

/// A backend, with the sums over its slots in the maps: one that was removed and added again may
/// still drain in its old slot.
struct Merged<'a> {
    service: &'a ServiceView,
    address: String,
    /// The configured one, if there is one.
    backend: &'a BackendView,
    traffic: Traffic,
    established: u64,
}

fn merged(services: &[ServiceView]) -> Vec<Merged<'_>> {
    let mut all = Vec::new();
    for service in services {
        let mut by_address: BTreeMap<IpAddr, Merged<'_>> = BTreeMap::new();
        // Configured backends come first.
        for backend in &service.backends {
            let merged = by_address.entry(backend.address).or_insert_with(|| Merged {
                service,
                address: backend.address.to_string(),
                backend,
                traffic: Traffic::default(),
                established: 0,
            });
            merged.traffic.packets += backend.traffic.packets;
            merged.traffic.bytes += backend.traffic.bytes;
            merged.traffic.flows += backend.traffic.flows;
            merged.established += backend.established;
        }
        all.extend(by_address.into_values());
    }
    all
}

fn write_backends(text: &mut Text, backends: &[Merged<'_>]) {
    type Value = fn(&Merged<'_>) -> Option<u64>;
    let rows: [(Metric, Value); 8] = [
        (metric::BACKEND_UP, |m| m.backend.status.as_ref().map(|c| u64::from(c.passes_checks()))),
        (metric::BACKEND_WEIGHT, |m| Some(m.backend.weight.into())),
        (metric::BACKEND_CONFIGURED_WEIGHT, |m| {
            m.backend.status.as_ref().map(|c| c.configured_weight.into())
        }),
        (metric::BACKEND_DRAINING, |m| Some(u64::from(m.backend.label() == "draining"))),
        (metric::BACKEND_FLOWS, |m| Some(m.traffic.flows)),
        (metric::BACKEND_PACKETS, |m| Some(m.traffic.packets)),
        (metric::BACKEND_BYTES, |m| Some(m.traffic.bytes)),
        (metric::BACKEND_ESTABLISHED, |m| Some(m.established)),
    ];
    for (metric, value) in rows {
        text.family(&metric);
        for backend in backends {
            if let Some(value) = value(backend) {
                let service = backend.service;
                text.series(&metric, &[&service.name, &service.frontend, &backend.address], value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
