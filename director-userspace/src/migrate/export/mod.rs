//! The equivalent rules of LVS, as `ipvsadm -S -n` prints and `ipvsadm -R` reads them.
//!
//! From either of two sources: a configuration, or the maps of a running director.

mod ipvsadm;
pub mod listing;

use std::net::{IpAddr, SocketAddr};

use director_common::{backend::BackendState, flow::Family, service::PRESENCE};

pub use self::ipvsadm::{Exported, ipvsadm};
use crate::policy::{
    config::model::{Config, ForwardMode, Port, Protocol, Service},
    plan::{Observed, ObservedService},
    scheduler::Scheduler,
};

/// A service in the terms of IPVS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The VIP; port 0 for any.
    pub address: SocketAddr,
    /// How new flows are placed.
    pub scheduler: Scheduler,
    /// In the source's order.
    pub servers: Vec<RealServer>,
}

/// A real server in the terms of IPVS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealServer {
    /// Its address.
    pub address: IpAddr,
    /// Its weight.
    pub weight: u16,
    /// How packets travel to it.
    pub forward: ForwardMode,
}

/// The services of a configuration.
pub fn of_config(config: &Config) -> Vec<VirtualService> {
    config.services.iter().map(of_service).collect()
}

fn of_service(service: &Service) -> VirtualService {
    let port = match service.frontend.port {
        Port::Any => 0,
        Port::Exact(port) => port.get(),
    };
    let servers = service.backends.iter().map(|backend| RealServer {
        address: backend.address,
        weight: backend.weight,
        forward: service.forward,
    });
    VirtualService {
        protocol: service.frontend.protocol,
        address: SocketAddr::new(service.frontend.address, port),
        scheduler: service.scheduler,
        servers: servers.collect(),
    }
}

/// The services of a running director, by protocol and address.
pub fn of_running(observed: &Observed) -> Vec<VirtualService> {
    let services = observed.services.iter();
    let mut services: Vec<_> =
        services.filter_map(|(slot, service)| Some(of_slot(observed, *slot, service)?.0)).collect();
    services.sort_by_key(|service| (service.protocol, service.address));
    services
}

/// A running director's service, and the slots of its servers. Backends that were removed and still
/// drain are left out; those that are down get no new connections. `None` for a service of a protocol
/// unknown to this version, which another program wrote.
pub fn of_slot(
    observed: &Observed,
    slot: u32,
    service: &ObservedService,
) -> Option<(VirtualService, Vec<u32>)> {
    let (protocol, address) = frontend(service)?;
    let backends = observed.backends_of(slot);
    let mut kept: Vec<_> = backends
        .filter(|(_, backend)| backend.state != BackendState::Draining)
        .filter_map(|(slot, backend)| Some((slot, backend, backend.forward?)))
        .collect();
    kept.sort_by_key(|(_, backend, _)| backend.address);
    let servers = kept.iter().map(|(_, backend, forward)| RealServer {
        address: backend.address,
        weight: if backend.state == BackendState::Active { backend.weight } else { 0 },
        forward: *forward,
    });
    let servers = servers.collect();
    let slots = kept.iter().map(|(slot, ..)| *slot).collect();
    let scheduler = service.scheduler.unwrap_or(Scheduler::DEFAULT);
    Some((VirtualService { protocol, address, scheduler, servers }, slots))
}

/// Protocol, address and port of a service in the maps; port 0 for any. `None` as for [`of_slot`].
pub fn frontend(service: &ObservedService) -> Option<(Protocol, SocketAddr)> {
    let key = service.key;
    let is_v6 = key.family & !PRESENCE == Family::V6 as u8;
    let address = key.address.to_ip(if is_v6 { Family::V6 } else { Family::V4 });
    let protocol = Protocol::from_number(key.protocol)?;
    Some((protocol, SocketAddr::new(address, u16::from_be_bytes(key.port))))
}
