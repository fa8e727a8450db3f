//! The director's own counters, read from `director stats --output json`.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::scene::Service;

/// The director's counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    /// By service and backend, both in the order of the scene.
    services: Vec<Vec<Backend>>,
    /// Packets that were dropped, for any reason.
    pub(super) dropped: u64,
}

/// One backend of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backend {
    /// Packets forwarded to it.
    pub(super) packets: u64,
    /// Connections scheduled to it.
    pub(super) flows: u64,
    /// Whether it gets new connections.
    pub(super) active: bool,
}

impl Counters {
    /// Reads them.
    pub(super) fn read(stats: &Value, services: &[Service]) -> Result<Self> {
        let unexpected = || format!("unexpected output of `director stats`: {stats}");
        let shown = stats["services"].as_array().with_context(unexpected)?;
        let dropped = stats["drop"].as_object().with_context(unexpected)?;
        let dropped = dropped.values().filter_map(Value::as_u64).sum();
        let mut all = Vec::new();
        for service in services {
            let shown = shown.iter().find(|shown| shown["name"] == service.name);
            let shown =
                shown.and_then(|shown| shown["backends"].as_array()).with_context(unexpected)?;
            let of = |address: IpAddr| {
                let address = address.to_string();
                let found = shown.iter().find(|backend| backend["address"] == *address);
                // A backend that has drained is no longer listed.
                found.map_or_else(|| Some(Backend::default()), backend)
            };
            let backends: Option<Vec<_>> =
                service.backends.iter().map(|backend| of(backend.address)).collect();
            all.push(backends.with_context(unexpected)?);
        }
        Ok(Self { services: all, dropped })
    }

    /// What was counted since `earlier`.
    pub(super) fn since(mut self, earlier: &Self) -> Self {
        for (service, backends) in self.services.iter_mut().enumerate() {
            for (index, backend) in backends.iter_mut().enumerate() {
                let before = earlier.backend(service, index);
                backend.packets = backend.packets.saturating_sub(before.packets);
                backend.flows = backend.flows.saturating_sub(before.flows);
            }
        }
        self.dropped = self.dropped.saturating_sub(earlier.dropped);
        self
    }

    /// The counters of one backend.
    pub(super) fn backend(&self, service: usize, backend: usize) -> Backend {
        let found = self.services.get(service).and_then(|backends| backends.get(backend));
        found.copied().unwrap_or_default()
    }

    /// Packets forwarded and connections scheduled, over all.
    pub(super) fn total(&self) -> (u64, u64) {
        let all = self.services.iter().flatten();
        all.fold((0, 0), |(packets, flows), one| (packets + one.packets, flows + one.flows))
    }
}

fn backend(shown: &Value) -> Option<Backend> {
    Some(Backend {
        packets: shown["packets"].as_u64()?,
        flows: shown["flows"].as_u64()?,
        active: shown["state"] == "active",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::scene, *};

    fn shown(address: &str, state: &str) -> Value {
        json!({"address": address, "state": state, "packets": 50, "flows": 10})
    }

    #[test]
    fn counters_are_found_in_any_order_and_a_backend_may_be_missing() {
        let stats = json!({
            "drop": {"runt": 1, "fragment": 2},
            "services": [
                {"name": "web-v6", "backends": [shown("2001:db8:1::12", "draining")]},
                {"name": "web", "backends": [shown("10.0.0.13", "active"), shown("10.0.0.11", "active")]},
            ],
        });
        let counters = Counters::read(&stats, &scene::services()).unwrap();
        let busy = Backend { packets: 50, flows: 10, active: true };
        assert_eq!(counters.backend(0, 0), busy);
        assert_eq!(counters.backend(0, 1), Backend::default());
        assert_eq!(counters.backend(0, 2), busy);
        assert_eq!(counters.backend(1, 1), Backend { active: false, ..busy });
        assert_eq!(counters.total(), (150, 30));
        assert_eq!(counters.dropped, 3);
    }

    #[test]
    fn earlier_counts_are_subtracted() {
        let stats = |packets: u64| {
            let web = json!({"address": "10.0.0.11", "state": "active", "packets": packets, "flows": packets / 5});
            let services =
                json!([{"name": "web", "backends": [web]}, {"name": "web-v6", "backends": []}]);
            let stats = json!({"drop": {"runt": packets / 10}, "services": services});
            Counters::read(&stats, &scene::services()).unwrap()
        };
        let since = stats(50).since(&stats(20));
        assert_eq!(since.backend(0, 0), Backend { packets: 30, flows: 6, active: true });
        assert_eq!((since.total(), since.dropped), ((30, 6), 3));
        assert_eq!(stats(50).since(&Counters::default()).total(), (50, 10));
    }

    #[test]
    fn unexpected_output_is_shown() {
        for stats in [json!({}), json!({"drop": {}, "services": [{"name": "web"}]})] {
            let error = Counters::read(&stats, &scene::services()).unwrap_err();
            assert!(error.to_string().contains(&stats.to_string()), "{error}");
        }
    }
}
