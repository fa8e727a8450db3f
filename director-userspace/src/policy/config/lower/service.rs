//! Services, their defaults and their backends.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use super::{
    backend::{Backends, Sorry},
    health::{self, Usual},
    mapping::{Keys, Mapping, items},
    scalar,
};
use crate::policy::{
    by_address::ByAddress,
    config::{
        error::{ConfigErrorKind as Kind, WarningKind},
        model::{
            ForwardMode, Frontend, MAX_BACKENDS_IN_ALL, MAX_SERVICES, Protocol, Scheduler, Service,
            ServiceName, WhenEmpty,
        },
        raw::Value,
        report::{Item, Report},
    },
    scheduler::lvs,
};

const LATER: &[(&str, &str)] =
    &[("persistence", "schedules every flow for itself"), ("allow", "lets everyone in")];

pub(super) const SERVICE: Keys = Keys {
    known: &[
        "name",
        "address",
        "protocol",
        "port",
        "scheduler",
        "forward",
        "when_empty",
        "drain_timeout",
        "health",
        "agent",
        "quorum",
        "hysteresis",
        "on_down",
        "slow_start",
        "panic",
        "sorry",
        "backends",
    ],
    unsupported: LATER,
};

/// A service's keys, but for the name: that is unique.
pub(super) const DEFAULTS: Keys = Keys { known: SERVICE.known.split_at(1).1, unsupported: LATER };

const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// What earlier services of the file have taken, with the line where they did.
#[derive(Default)]
struct Taken {
    names: HashMap<ServiceName, u32>,
    frontends: HashMap<Frontend, u32>,
    /// Every address of a service, also of later ones.
    vips: ByAddress<u32>,
}

/// The services that are right, of those in the document's `services`.
pub(super) fn services(document: &Mapping<'_>, report: &mut Report<'_>) -> Option<Vec<Service>> {
    let defaults_item = document.get("defaults");
    let defaults =
        defaults_item.as_ref().and_then(|item| Mapping::open(item, "defaults", &DEFAULTS, report));
    let defaults_entry = defaults.map(|own| Entry { own, defaults: None });
    if let Some(entry) = defaults_entry {
        // Said here, an error in them is said even if every service has its own value.
        entry.check_values(report);
    }
    let usual = Usual::read(defaults_entry.as_ref(), report);
    let services_item =
        document.require("services", "write `services:`, and a list below", report)?;
    let hint = "write a list, one `- name: ...` per service, or `services: []`";
    let mut entry_items: Vec<Item<'_>> = items(&services_item, hint, report)?.collect();
    if entry_items.is_empty() {
        let hint = "everything is passed to this host";
        report.warning(WarningKind::NoServices, &services_item, "there are no services", hint);
    }
    let too_many_services = |n: usize, report: &mut Report<'_>| {
        let message = format!("{n} services are too many");
        let hint = format!("at most {MAX_SERVICES}; each protocol of a service counts");
        report.error::<()>(Kind::TooManyServices, &services_item, message, hint);
    };
    if entry_items.len() > MAX_SERVICES {
        too_many_services(entry_items.len(), report);
        entry_items.truncate(MAX_SERVICES);
    }
    let mut entries = Vec::new();
    for item in &entry_items {
        let own = Mapping::open(item, "a service", &SERVICE, report);
        entries.extend(own.map(|own| (item, Entry { own, defaults })));
    }
    let mut taken = Taken::default();
    let mut addresses = Vec::with_capacity(entries.len());
    for (item, entry) in &entries {
        let address = entry.address(report);
        addresses.push(address);
        if let Some(address) = address {
            taken.vips.entry(address).or_insert(item.node.at.line);
        }
    }
    let mut services = Vec::new();
    let mut n_backends = 0;
    for ((item, entry), address) in entries.iter().zip(addresses) {
        for service in entry.lower(item, address, &usual, &mut taken, report) {
            n_backends += service.backends.len() + usize::from(service.sorry.is_some());
            services.push(service);
        }
        if n_backends > MAX_BACKENDS_IN_ALL {
            let message = "the services have too many backends in all";
            let hint = format!("at most {MAX_BACKENDS_IN_ALL}; each protocol of a service counts");
            return report.error(Kind::TooManyBackends, &services_item, message, hint);
        }
    }
    if services.len() > MAX_SERVICES {
        too_many_services(services.len(), report);
    }
    Some(services)
}

/// One entry of `services`: its own keys, and the defaults behind them.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    own: Mapping<'a>,
    defaults: Option<Mapping<'a>>,
}

impl<'a> Entry<'a> {
    /// The value of a key: the entry's own, or that of the defaults.
    pub(super) fn get(&self, key: &'a str) -> Option<Item<'a>> {
        self.own.get(key).or_else(|| self.defaults?.get(key))
    }

    /// Whether the entry itself has a key.
    pub(super) fn has_own(&self, key: &str) -> bool {
        self.own.has(key)
    }

    fn require(&self, key: &'a str, hint: &str, report: &mut Report<'_>) -> Option<Item<'a>> {
        self.get(key).or_else(|| self.own.missing(key, hint, report))
    }

    /// Reads what is there, as far as one value can be wrong without the others.
    fn check_values(&self, report: &mut Report<'_>) {
        if let Some(item) = self.get("address") {
            vip(&item, report);
        }
        if let Some(item) = self.get("protocol") {
            protocols(&item, report);
        }
        if let Some(item) = self.get("port") {
            scalar::port(&item, report);
        }
        if let Some(item) = self.get("forward") {
            forward(&item, report);
        }
        if let Some(item) = self.get("backends") {
            Backends::read(&item, report);
        }
        if let Some(item) = self.get("sorry") {
            Sorry::read(&item, report);
        }
        self.scheduler(report);
        self.when_empty(report);
        self.drain_timeout(report);
    }

    fn address(&self, report: &mut Report<'_>) -> Option<IpAddr> {
        let hint = "write `address:` and the VIP";
        self.require("address", hint, report).and_then(|item| vip(&item, report))
    }

    fn scheduler(&self, report: &mut Report<'_>) -> Option<Scheduler> {
        let Some(item) = self.get("scheduler") else { return Some(Scheduler::DEFAULT) };
        scalar::word(&item, &lvs::unsupported(), report)
    }

    fn when_empty(&self, report: &mut Report<'_>) -> Option<WhenEmpty> {
        let Some(item) = self.get("when_empty") else { return Some(WhenEmpty::Reject) };
        if matches!(&item.node.value, Value::Scalar(text) if text == "sorry") {
            let message = "a sorry backend has a key of its own";
            let hint = "remove `when_empty:` and write `sorry: {address: ...}`, the backend that gets \
                        new flows then";
            return report.error(Kind::UnknownValue, &item, message, hint);
        }
        scalar::word(&item, &[], report)
    }

    fn drain_timeout(&self, report: &mut Report<'_>) -> Option<Duration> {
        let Some(item) = self.get("drain_timeout") else { return Some(DEFAULT_DRAIN_TIMEOUT) };
        scalar::duration(&item, Duration::ZERO, report)
    }

    fn name(&self, taken: &mut Taken, report: &mut Report<'_>) -> Option<ServiceName> {
        let item = self.own.require("name", "every service has one, such as web", report)?;
        let name = scalar::service_name(&item, report)?;
        if let Some(line) = taken.names.get(&name) {
            let message = format!("the name {name} is taken");
            let hint = format!("rename one; the first is in line {line}");
            return report.error(Kind::DuplicateName, &item, message, hint);
        }
        taken.names.insert(name.clone(), item.node.at.line);
        Some(name)
    }

    /// One service per protocol, if nothing is wrong.
    fn lower(
        &self,
        item: &Item<'_>,
        address: Option<IpAddr>,
        usual: &Usual,
        taken: &mut Taken,
        report: &mut Report<'_>,
    ) -> Vec<Service> {
        self.try_lower(item, address, usual, taken, report).unwrap_or_default()
    }

    fn try_lower(
        &self,
        item: &Item<'_>,
        address: Option<IpAddr>,
        usual: &Usual,
        taken: &mut Taken,
        report: &mut Report<'_>,
    ) -> Option<Vec<Service>> {
        let name = self.name(taken, report);
        let protocols = self
            .require("protocol", "write tcp, udp, or [tcp, udp]", report)
            .and_then(|item| protocols(&item, report));
        let port = self
            .require("port", "write a port from 1 to 65535, or any", report)
            .and_then(|item| scalar::port(&item, report));
        let hint = "write tunnel or direct: which of them is right depends on the network, so there \
                    is no default";
        let forward = self.require("forward", hint, report).and_then(|item| forward(&item, report));
        let scheduler = self.scheduler(report);
        let when_empty = self.when_empty(report);
        let drain_timeout = self.drain_timeout(report);
        let hint = "write `backends:`, and a list below, or `backends: []`";
        let backends_item = self.require("backends", hint, report);
        let backends = backends_item.as_ref().and_then(|item| Backends::read(item, report));
        if let Some(backends) = &backends {
            backends.check_loops(&taken.vips, report);
            if let (Some(address), Some(forward)) = (address, forward) {
                backends.check_families(address, forward, report);
            }
            backends.check_weights(report);
        }
        let sorry_item = self.get("sorry");
        let sorry = match &sorry_item {
            Some(item) => Sorry::read(item, report).map(Some),
            None => Some(None),
        };
        if let Some(Some(sorry)) = &sorry {
            sorry.check(&taken.vips, backends.as_ref(), address, forward, report);
        }
        let health = usual.of(self, report);
        if let (Some(health), Some(port), Some(protocols)) = (&health, port, &protocols) {
            health::check_fit(self, health, port, protocols, report);
        }
        let (address, port) = (address?, port?);
        let mut frontends = Vec::new();
        for protocol in protocols? {
            let frontend = Frontend { address, protocol, port };
            match taken.frontends.get(&frontend) {
                None => {
                    taken.frontends.insert(frontend, item.node.at.line);
                    frontends.push(frontend);
                }
                Some(line) => {
                    let message = format!("{frontend} belongs to another service");
                    let hint = format!("change or remove one; the first is in line {line}");
                    report.error::<()>(Kind::DuplicateFrontend, item, message, hint);
                }
            }
        }
        let backends = backends?.into_vec();
        let (name, forward) = (name?, forward?);
        let (scheduler, when_empty, drain_timeout) = (scheduler?, when_empty?, drain_timeout?);
        let (health, sorry) = (health?, sorry?.map(Sorry::into_backend));
        health::check_quorum(self, &health, &backends, report);
        let service = |frontend| Service {
            name: name.clone(),
            frontend,
            scheduler,
            forward,
            when_empty,
            drain_timeout,
            health: Arc::clone(&health),
            sorry: sorry.clone(),
            backends: backends.clone(),
        };
        Some(frontends.into_iter().map(service).collect())
    }
}

fn vip(item: &Item<'_>, report: &mut Report<'_>) -> Option<IpAddr> {
    scalar::address(item, Some("does one address per service"), report)
}

fn forward(item: &Item<'_>, report: &mut Report<'_>) -> Option<ForwardMode> {
    scalar::word(item, &["nat", "fullnat", "local"], report)
}

fn protocols(item: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<Protocol>> {
    const LATER: &[&str] = &["sctp"];
    if !matches!(item.node.value, Value::Seq(_)) {
        return scalar::word(item, LATER, report).map(|protocol| vec![protocol]);
    }
    let words = items(item, "", report)?;
    if words.len() == 0 {
        let hint = "write tcp, udp, or both";
        return report.error(Kind::EmptyList, item, "the list is empty", hint);
    }
    let mut protocols = Vec::new();
    let mut complete = true;
    for item in words {
        match scalar::word(&item, LATER, report) {
            None => complete = false,
            Some(protocol) if protocols.contains(&protocol) => {
                let message = format!("{protocol} is here twice");
                report.error::<()>(Kind::DuplicateProtocol, &item, message, "remove one");
            }
            Some(protocol) => protocols.push(protocol),
        }
    }
    complete.then_some(protocols)
}
