//! The interface and MAC address that a packet to an address is sent to.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{Link, NetError, Netlink, Route, RouteKind};

/// The next hop to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The interface that frames leave by: below a VLAN device, the device that it sits on.
    pub link_index: u32,
    /// The interface that the route names, and that the neighbour is known on.
    pub route_link_index: u32,
    /// The tag that frames leave with, if the route goes by a VLAN device.
    pub vlan: Option<u16>,
    /// The neighbour that frames are sent to: the gateway, or the destination itself.
    pub neighbour: IpAddr,
    /// Whether the destination itself is the neighbour.
    pub on_link: bool,
    /// The source address that the kernel would take, if it has one.
    pub source: Option<IpAddr>,
    /// The neighbour's MAC address; none if it did not answer in time, or the link has none.
    pub mac: Option<[u8; 6]>,
    /// The MAC address that frames leave with.
    pub own_mac: [u8; 6],
    /// Largest layer-3 packet to that destination, in bytes.
    pub mtu: u32,
    /// The MTU, if the route or path MTU discovery sets it, and not the link.
    pub route_mtu: Option<u32>,
    /// When that ends, if it does.
    pub route_mtu_ends: Option<Instant>,
}

impl Netlink {
    /// Finds the next hop to a destination and, if its MAC address is unknown, makes the kernel
    /// resolve it and waits for that (with zero: does not wait).
    ///
    /// # Errors
    /// [`NetError::NoRoute`]; [`NetError::OwnAddress`] if the destination is this host;
    /// [`NetError::System`]. A neighbour that does not answer is not an error: it has no MAC.
    pub async fn resolve_next_hop(
        &self,
        destination: IpAddr,
        wait: Duration,
    ) -> Result<NextHop, NetError> {
        let route = self.route_to(destination).await?;
        match route.kind {
            RouteKind::Unicast | RouteKind::Anycast => {}
            RouteKind::Local => return Err(NetError::OwnAddress { address: destination }),
            RouteKind::Broadcast | RouteKind::Multicast => {
                return Err(NetError::NoRoute {
                    destination,
                    reason: "it is not a unicast address".to_owned(),
                });
            }
        }
        let link = self.link_by_index(route.link_index).await?;
        let neighbour = route.gateway.unwrap_or(destination);
        let mac = if link.ethernet {
            self.resolve_neighbour(link.index, neighbour, wait).await?
        } else {
            None
        };
        Ok(NextHop::new(&route, &link, destination, mac))
    }
}

impl NextHop {
    /// The next hop by `route` and its interface, `mac` being the neighbour's.
    pub fn new(route: &Route, link: &Link, destination: IpAddr, mac: Option<[u8; 6]>) -> Self {
        Self {
            link_index: link.vlan_id.and(link.parent).unwrap_or(link.index),
            route_link_index: link.index,
            vlan: link.vlan_id,
            neighbour: route.gateway.unwrap_or(destination),
            on_link: route.gateway.is_none(),
            source: route.source,
            mac,
            own_mac: link.mac,
            mtu: route.mtu.unwrap_or(link.mtu),
            route_mtu: route.mtu,
            route_mtu_ends: route.mtu_ends,
        }
    }
}
