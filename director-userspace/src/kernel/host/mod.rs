//! Resolves the configuration on this host: its interfaces, and the paths to its backends. Between
//! `config`, which does not depend on a host, and `plan`, which does not depend on a kernel.

mod hidden_tags;
mod interfaces;
pub mod kernel;
mod neighbours;
mod next_hop_cache;
mod paths;
pub mod privileges;
mod vips;

use std::net::IpAddr;

pub use hidden_tags::{HiddenTags, hidden_tags};
pub use interfaces::{interfaces, present_interfaces};
pub use neighbours::release_neighbours;
pub use next_hop_cache::NextHopCache;
pub use paths::{HostRoutes, draining, routes};
pub use vips::{assign_vips, withdraw_vips};

use crate::kernel::net::NetError;

/// Why a configuration cannot be applied on this host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No interface to attach to.
    #[error(
        "the configuration names no interface to attach to: add `interfaces: [{{name: eth0}}]`"
    )]
    NoInterfaces,
    /// An interface that does not exist.
    #[error("interface {name} does not exist on this host; there are: {present}")]
    NoSuchInterface {
        /// The name configured.
        name: String,
        /// The names there are.
        present: String,
    },
    /// An interface without MAC addresses.
    #[error("interface {name} has no Ethernet header: Director works on Ethernet interfaces")]
    NotEthernet {
        /// The name configured.
        name: String,
    },
    /// Generic mode where tags are kept outside of the frame.
    #[error(
        "interface {name}: in `mode: generic`, VLAN tags that {} takes off stay on what Director sends, \
         beside the next hop's own, and {} is on it: {}",
        .tags.devices.join(", "), .tags.vlan, .tags.remedy()
    )]
    HiddenTags {
        /// The name configured.
        name: String,
        /// What hides them.
        tags: HiddenTags,
    },
    /// Direct routing to a backend behind a router.
    #[error(
        "service {service}: backend {backend} is reached via {gateway}, but `forward: direct` \
         only reaches backends on the same link: a router would send the packet back to the VIP. \
         Use `forward: tunnel`"
    )]
    DirectOffLink {
        /// The service's name.
        service: String,
        /// The backend's address.
        backend: IpAddr,
        /// The router.
        gateway: IpAddr,
    },
    /// A backend that is this host.
    #[error(
        "service {service}: backend {backend} is an address of this host, and packets to it never \
         leave: a director cannot be its own backend yet"
    )]
    OwnAddress {
        /// The service's name.
        service: String,
        /// The backend's address.
        backend: IpAddr,
    },
    /// An egress interface that is not configured.
    #[error(
        "service {service}: backend {backend} is reached by {interface}, which is not under \
         `interfaces`: add `{{name: {interface}, role: egress}}`"
    )]
    OtherInterface {
        /// The service's name.
        service: String,
        /// The backend's address.
        backend: IpAddr,
        /// The interface that the route names.
        interface: String,
    },
    /// The kernel's error.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl HostError {
    /// The configured interface that cannot be used, if that is the error.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::NoSuchInterface { name, .. }
            | Self::NotEthernet { name }
            | Self::HiddenTags { name, .. } => Some(name),
            Self::NoInterfaces
            | Self::DirectOffLink { .. }
            | Self::OwnAddress { .. }
            | Self::OtherInterface { .. }
            | Self::Net(_) => None,
        }
    }
}

/// All reasons why a configuration cannot be applied on this host.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct HostErrors(pub Vec<HostError>);

fn lines(errors: &[HostError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl From<NetError> for HostErrors {
    fn from(error: NetError) -> Self {
        Self(vec![error.into()])
    }
}
