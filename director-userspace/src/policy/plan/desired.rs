//! What the maps should hold: the configuration, and the ways to its backends.

use std::{collections::HashMap, hash::BuildHasherDefault, net::IpAddr, time::Duration};

use director_common::{
    backend::NextHop,
    flow::Family,
    service::{ServiceKey, WhenEmpty},
};

use crate::policy::{
    by_address::AddressHasher,
    config::model::{
        self, Availability, Config, ForwardMode, Frontend, MacAddr, Port, Scheduler, Service,
    },
};

/// The way to a backend, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Where packets leave, and to whom: [`NextHop::UNRESOLVED`] if that is not known yet, with MAC
    /// zero if only the way out is.
    pub next_hop: NextHop,
    /// Source address of the outer header; of the backend's family.
    pub source: Option<IpAddr>,
    /// Bytes of IP packet that fit; 0: not known.
    pub mtu: u16,
}

impl Path {
    /// Nothing is known: the program asks the kernel's FIB.
    pub const UNKNOWN: Self = Self { next_hop: NextHop::UNRESOLVED, source: None, mtu: 0 };
}

/// What the path to a backend depends on: services that share a backend's address may send to it in
/// other ways, and not all of them can follow every route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathKey {
    /// The backend's address.
    pub address: IpAddr,
    /// How packets travel to it.
    pub forward: ForwardMode,
    /// The next hop's MAC address, if the configuration fixes it.
    pub mac: Option<MacAddr>,
}

impl PathKey {
    /// Of a service's backend.
    pub fn of(service: &Service, backend: &model::Backend) -> Self {
        Self { address: backend.address, forward: service.forward, mac: backend.mac }
    }
}

/// The ways to backends.
pub type Paths = HashMap<PathKey, Path, BuildHasherDefault<AddressHasher>>;

/// A backend as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Its address.
    pub address: IpAddr,
    /// Its share of new flows.
    pub weight: u16,
    /// How packets travel to it.
    pub forward: ForwardMode,
    /// Whether the configuration fixes the next hop.
    pub fixed_next_hop: bool,
    /// The way to it.
    pub path: Path,
    /// Whether it gets no packets at all: known flows go elsewhere.
    pub availability: Availability,
}

/// A service as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredService {
    /// What identifies it.
    pub key: ServiceKey,
    /// Its name, at most 63 bytes.
    pub name: String,
    /// How a new flow gets its backend.
    pub scheduler: Scheduler,
    /// What a new flow gets when no backend is usable.
    pub when_empty: WhenEmpty,
    /// How long known flows of a removed backend are still served.
    pub drain_timeout: Duration,
    /// Its backends, no address twice.
    pub backends: Vec<BackendSpec>,
}

/// All services as they should be, no key twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// In the configuration's order, which decides nothing.
    pub services: Vec<DesiredService>,
    /// The ways to backends: also to those that are configured no longer and still drain.
    pub paths: Paths,
}

impl Desired {
    /// What the configuration asks for, `paths` being the ways to its backends. A backend whose
    /// configuration fixes its MAC takes it over the path's.
    pub fn new(config: &Config, paths: &Paths) -> Self {
        Self::of(&config.services, paths.clone())
    }

    /// The same for some services only; the others are not there.
    pub fn of<'a>(services: impl IntoIterator<Item = &'a Service>, paths: Paths) -> Self {
        Self { services: services.into_iter().map(|s| service(s, &paths)).collect(), paths }
    }
}

fn service(service: &Service, paths: &Paths) -> DesiredService {
    let backend = |backend: &model::Backend| {
        let key = PathKey::of(service, backend);
        let path = paths.get(&key).copied().unwrap_or(Path::UNKNOWN);
        let next_hop = match backend.mac {
            Some(mac) if path.next_hop.is_resolved() => {
                let hop = path.next_hop;
                NextHop::new(mac.0, hop.vlan_id(), hop.interface() as u8)
            }
            None if path.next_hop.has_mac() => path.next_hop,
            _ => NextHop::UNRESOLVED,
        };
        BackendSpec {
            address: backend.address,
            weight: backend.weight,
            forward: service.forward,
            fixed_next_hop: backend.mac.is_some(),
            path: Path { next_hop, ..path },
            availability: backend.availability,
        }
    };
    DesiredService {
        key: key_of(&service.frontend),
        name: service.name.to_string(),
        scheduler: service.scheduler,
        when_empty: service.when_empty,
        drain_timeout: service.drain_timeout,
        backends: service.backends.iter().map(backend).collect(),
    }
}

/// What identifies the service in front of which this is.
pub fn key_of(frontend: &Frontend) -> ServiceKey {
    ServiceKey {
        address: frontend.address.into(),
        port: match frontend.port {
            Port::Any => [0; 2],
            Port::Exact(port) => port.get().to_be_bytes(),
        },
        protocol: frontend.protocol as u8,
        family: match frontend.address {
            IpAddr::V4(_) => Family::V4 as u8,
            IpAddr::V6(_) => Family::V6 as u8,
        },
        _pad: [0; 4],
    }
}
