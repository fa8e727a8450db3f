//! From the tree of a file to the model, collecting all errors on the way.
//!
//! A function takes an [`Item`] and returns its value, or `None` after it has added the error to
//! the [`Report`]. A `None` never hides another error: only what depends on it is left unchecked.

mod backend;
mod check;
mod daemon;
mod health;
mod mapping;
mod probe;
mod scalar;
mod service;
mod text;

use std::{collections::HashMap, net::IpAddr, time::Duration};

use self::mapping::{Keys, Mapping, items};
use super::{
    error::ConfigErrorKind as Kind,
    model::{
        AttachMode, Config, Encapsulation, Flows, Interface, MAX_FLOWS, MAX_INTERFACES, MIN_FLOWS,
        Role, Service, Tunnel, TunnelSource,
    },
    raw::{Node, Value},
    report::{Item, Path, Report},
};

const DOCUMENT: Keys = Keys {
    known: &["interfaces", "tunnel", "flows", "hash_key", "api", "alarms", "defaults", "services"],
    unsupported: &[],
};

const INTERFACE: Keys = Keys { known: &["name", "mode", "role", "assign_vips"], unsupported: &[] };

const TUNNEL: Keys = Keys { known: &["source", "encapsulation"], unsupported: &[] };

const FLOWS: Keys =
    Keys { known: &["size", "tcp", "tcp_closing", "udp", "clients"], unsupported: &[] };

/// Every mapping's keys, by the name that the JSON Schema has for it.
#[cfg(test)]
pub(super) fn tables() -> Vec<(String, Vec<&'static str>)> {
    [
        ("", &DOCUMENT),
        ("interface", &INTERFACE),
        ("tunnel", &TUNNEL),
        ("flows", &FLOWS),
        ("api", &daemon::API),
        ("alarms", &daemon::ALARMS),
        ("mail", &daemon::MAIL),
        ("defaults", &service::DEFAULTS),
        ("service", &service::SERVICE),
        ("backend", &backend::BACKEND),
        ("sorry", &backend::SORRY),
    ]
    .map(|(name, keys)| (name.to_owned(), keys.known.to_vec()))
    .into_iter()
    .chain(check::tables())
    .collect()
}

/// Builds the model. It is `None` only after an error was reported, but errors may have been
/// reported even if it is not.
pub(super) fn lower(root: &Node<'_>, report: &mut Report<'_>) -> Option<Config> {
    let root = Item { node: root, path: Path::Root };
    let document = Mapping::open(&root, "the configuration", &DOCUMENT, report)?;
    let interfaces = match document.get("interfaces") {
        Some(item) => interfaces(&item, report),
        None => Some(Vec::new()),
    };
    let tunnel_item = document.get("tunnel");
    let tunnel = match &tunnel_item {
        Some(item) => tunnel(item, report),
        None => Some(Tunnel { source: TunnelSource::Auto, encapsulation: Encapsulation::Ipip }),
    };
    let flows = match document.get("flows") {
        Some(item) => flows(&item, report),
        None => Some(Flows::default()),
    };
    let hash_key = match document.get("hash_key") {
        Some(item) => scalar::hash_key(&item, report),
        None => Some(Default::default()),
    };
    let api = document.optional("api", report, daemon::api);
    let alarms = document.optional("alarms", report, daemon::alarms);
    let services = service::services(&document, report);
    if let (Some(item), Some(tunnel), Some(services)) = (&tunnel_item, &tunnel, &services) {
        check_tunnel_source(item, tunnel, services, report);
    }
    Some(Config {
        interfaces: interfaces?,
        tunnel: tunnel?,
        flows: flows?,
        hash_key: hash_key?,
        api: api?.unwrap_or_default(),
        alarms: alarms?.unwrap_or_default(),
        services: services?,
    })
}

fn interfaces(list: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<Interface>> {
    let list_items = items(list, "write `- name: eth0`", report)?;
    if list_items.len() > MAX_INTERFACES {
        let message = format!("{} interfaces are too many", list_items.len());
        let hint = format!("at most {MAX_INTERFACES}");
        report.error::<()>(Kind::TooManyInterfaces, list, message, hint);
    }
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut interfaces = Vec::new();
    for item in list_items.take(MAX_INTERFACES) {
        let Some(interface) = interface(&item, &mut seen, report) else { continue };
        interfaces.push(interface);
    }
    Some(interfaces)
}

fn interface(
    item: &Item<'_>,
    seen: &mut HashMap<String, u32>,
    report: &mut Report<'_>,
) -> Option<Interface> {
    let mapping = Mapping::open(item, "an interface", &INTERFACE, report)?;
    let name_item = mapping.require("name", "write `name: eth0`", report);
    let name = name_item.and_then(|item| {
        let name = scalar::interface_name(&item, report)?;
        if let Some(line) = seen.get(&name) {
            let message = format!("the interface {name} is here twice");
            let hint = format!("remove one; the first is in line {line}");
            return report.error(Kind::DuplicateInterface, &item, message, hint);
        }
        seen.insert(name.clone(), item.node.at.line);
        Some(name)
    });
    let mode = match mapping.get("mode") {
        Some(item) => scalar::word(&item, &[], report),
        None => Some(AttachMode::Native),
    };
    let role = match mapping.get("role") {
        Some(item) => scalar::word(&item, &[], report),
        None => Some(Role::Both),
    };
    let assign_vips = match mapping.get("assign_vips") {
        Some(item) => scalar::boolean(&item, report),
        None => Some(false),
    };
    Some(Interface { name: name?, mode: mode?, role: role?, assign_vips: assign_vips? })
}

fn tunnel(item: &Item<'_>, report: &mut Report<'_>) -> Option<Tunnel> {
    let mapping = Mapping::open(item, "tunnel", &TUNNEL, report)?;
    let source = match mapping.get("source") {
        Some(item) => tunnel_source(&item, report),
        None => Some(TunnelSource::Auto),
    };
    let encapsulation = match mapping.get("encapsulation") {
        Some(item) => scalar::word(&item, &["gue", "gre"], report),
        None => Some(Encapsulation::Ipip),
    };
    Some(Tunnel { source: source?, encapsulation: encapsulation? })
}

/// `auto`, an address, or a list of at most one address per family.
fn tunnel_source(item: &Item<'_>, report: &mut Report<'_>) -> Option<TunnelSource> {
    const PREFIX: Option<&str> = Some("does auto, or one fixed address per family");
    let (mut v4, mut v6) = (None, None);
    match &item.node.value {
        Value::Scalar(text) if text == "auto" => {
            mapping::untagged(item, report);
            return Some(TunnelSource::Auto);
        }
        Value::Seq(_) => {
            let addresses = items(item, "", report)?;
            if addresses.len() == 0 {
                let hint = "write auto, or an address per family";
                return report.error(Kind::EmptyList, item, "the list is empty", hint);
            }
            let mut complete = true;
            for item in addresses {
                let taken = match scalar::address(&item, PREFIX, report) {
                    Some(IpAddr::V4(address)) => v4.replace(address).is_some(),
                    Some(IpAddr::V6(address)) => v6.replace(address).is_some(),
                    None => {
                        complete = false;
                        continue;
                    }
                };
                if taken {
                    let message = "a second source address of this family";
                    let hint = "at most one IPv4 and one IPv6 address";
                    report.error::<()>(Kind::DuplicateFamily, &item, message, hint);
                }
            }
            if !complete {
                return None;
            }
        }
        _ => match scalar::address(item, PREFIX, report)? {
            IpAddr::V4(address) => v4 = Some(address),
            IpAddr::V6(address) => v6 = Some(address),
        },
    }
    Some(TunnelSource::Fixed { v4, v6 })
}

/// Checks that the address family of every tunnelled backend has a source.
fn check_tunnel_source(
    tunnel_item: &Item<'_>,
    tunnel: &Tunnel,
    services: &[Service],
    report: &mut Report<'_>,
) {
    let TunnelSource::Fixed { v4, v6 } = tunnel.source else { return };
    for (family, missing, is_v4) in [("IPv4", v4.is_none(), true), ("IPv6", v6.is_none(), false)] {
        let tunnelled = services.iter().filter(|service| service.forward.encapsulates());
        let needing = tunnelled
            .flat_map(|service| {
                let all = service.backends.iter().chain(&service.sorry);
                all.map(move |backend| (service, backend))
            })
            .find(|(_, backend)| missing && backend.address.is_ipv4() == is_v4);
        if let Some((service, backend)) = needing {
            let path = Path::Key(&tunnel_item.path, "source");
            let at = source_position(tunnel_item);
            let message = format!(
                "no {family} address, but backend {} of service {} is reached by {family}",
                backend.address, service.name
            );
            let hint = format!("add an {family} address (`source: [v4, v6]`), or write auto");
            report.error_at::<()>(Kind::NoTunnelSource, at, &path, message, hint);
        }
    }
}

fn source_position(tunnel_item: &Item<'_>) -> super::error::Position {
    let Value::Map(entries) = &tunnel_item.node.value else { return tunnel_item.node.at };
    let source = entries.iter().find(|(key, _)| key.text.as_deref() == Some("source"));
    source.map_or(tunnel_item.node.at, |(_, node)| node.at)
}

fn flows(item: &Item<'_>, report: &mut Report<'_>) -> Option<Flows> {
    const SHORTEST: Duration = Duration::from_secs(1);
    let mapping = Mapping::open(item, "flows", &FLOWS, report)?;
    let default = Flows::default();
    let size = match mapping.get("size") {
        Some(item) => scalar::power_of_two(&item, MIN_FLOWS, MAX_FLOWS, report),
        None => Some(default.size),
    };
    let clients = match mapping.get("clients") {
        Some(item) => scalar::boolean(&item, report),
        None => Some(default.clients),
    };
    let mut timeout = |key, default| match mapping.get(key) {
        Some(item) => scalar::duration(&item, SHORTEST, report),
        None => Some(default),
    };
    let tcp = timeout("tcp", default.tcp);
    let tcp_closing = timeout("tcp_closing", default.tcp_closing);
    let udp = timeout("udp", default.udp);
    Some(Flows { size: size?, tcp: tcp?, tcp_closing: tcp_closing?, udp: udp?, clients: clients? })
}
