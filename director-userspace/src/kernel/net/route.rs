//! Routes: looking one up, adding and removing them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rtnetlink::{
    RouteMessageBuilder,
    packet_core::{NLM_F_CREATE, NLM_F_REPLACE},
    packet_route::{
        RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteScope,
            RouteType, RouteVia,
        },
    },
};

use super::{NetError, Netlink, failed};

/// How the kernel would send a packet, as `ip route get` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface it leaves by.
    pub link_index: u32,
    /// The router it goes to first; none if the destination is on the link. May be an IPv6
    /// address for an IPv4 destination.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would take.
    pub source: Option<IpAddr>,
    /// Largest packet, in bytes, where the route or path MTU discovery sets one.
    pub mtu: Option<u32>,
    /// What kind of route.
    pub kind: RouteKind,
}

/// The kinds of route that forward. Those that reject are errors of [`Netlink::route_to`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// To another host.
    Unicast,
    /// To this host.
    Local,
    /// To all hosts on a link.
    Broadcast,
    /// To a multicast group.
    Multicast,
    /// To the nearest of several.
    Anycast,
}

/// A route to add.
#[derive(Clone, Copy, Debug)]
pub struct NewRoute {
    /// Destination network; 0.0.0.0 or :: for the default route.
    pub destination: IpAddr,
    /// Length of the destination's prefix, in bits.
    pub prefix_len: u8,
    /// Next router, of the same family; none for a destination on the link.
    pub gateway: Option<IpAddr>,
    /// The interface to leave by.
    pub link_index: u32,
    /// Treats the gateway as on the link, whatever its address.
    pub onlink: bool,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

impl Netlink {
    /// Looks up how the kernel would send a packet to an address.
    ///
    /// # Errors
    /// [`NetError::NoRoute`] if there is no route or its type is unreachable, prohibit or
    /// blackhole; [`NetError::System`].
    pub async fn route_to(&self, destination: IpAddr) -> Result<Route, NetError> {
        let refused = |reason: &str| NetError::NoRoute { destination, reason: reason.to_owned() };
        match self.get(RouteNetlinkMessage::GetRoute(query(destination))).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(message))) => {
                route_of(&message).map_err(|reason| refused(&reason))
            }
            Ok(_) => Err(refused("the kernel did not answer")),
            Err(e) => match refusal(&e) {
                Some(reason) => Err(refused(reason)),
                None => Err(failed(format!("look up the route to {destination}"), e)),
            },
        }
    }

    /// Adds a route, or replaces the one to the same destination.
    ///
    /// # Errors
    /// [`NetError::System`]; "Network is unreachable" means that the gateway is on no link, or
    /// that the interface is down.
    pub async fn add_route(&self, route: NewRoute) -> Result<(), NetError> {
        self.change(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE)
            .await
            .map_err(|e| failed(format!("add the route to {route}"), e))
    }

    /// Removes a route. False if it is not there.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn remove_route(&self, route: NewRoute) -> Result<bool, NetError> {
        match self.change(RouteNetlinkMessage::DelRoute(route.message()), 0).await {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(e) => Err(failed(format!("remove the route to {route}"), e)),
        }
    }
}

impl NewRoute {
    fn message(self) -> RouteMessage {
        let address = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => RouteAddress::Inet(v4),
            IpAddr::V6(v6) => RouteAddress::Inet6(v6),
        };
        let mut message = match self.destination {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, self.prefix_len)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, self.prefix_len)
                .build(),
        };
        message.attributes.push(RouteAttribute::Oif(self.link_index));
        match self.gateway {
            Some(gateway) => message.attributes.push(RouteAttribute::Gateway(address(gateway))),
            None if self.destination.is_ipv4() => message.header.scope = RouteScope::Link,
            None => {}
        }
        if self.onlink {
            message.header.flags |= RouteFlags::Onlink;
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(address(source)));
        }
        message
    }
}

impl std::fmt::Display for NewRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.destination, self.prefix_len)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " on interface {}", self.link_index)
    }
}

fn query(destination: IpAddr) -> RouteMessage {
    match destination {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
        IpAddr::V6(v6) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build()
        }
    }
}

/// What an errno means as the answer to a route lookup: IPv4 reports rejecting routes by errno.
fn refusal(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::ENETUNREACH => Some("the routing table has none"),
        libc::EHOSTUNREACH => Some("an `unreachable` route rejects it"),
        libc::EACCES => Some("a `prohibit` route rejects it"),
        libc::EINVAL => Some("a `blackhole` route drops it"),
        _ => None,
    }
}

/// Reads one answer; the error is the reason of a rejecting route.
fn route_of(message: &RouteMessage) -> Result<Route, String> {
    let kind = match message.header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::Anycast => RouteKind::Anycast,
        RouteType::Unreachable => return Err("the routing table has none".to_owned()),
        RouteType::Prohibit => return Err("a `prohibit` route rejects it".to_owned()),
        RouteType::BlackHole => return Err("a `blackhole` route drops it".to_owned()),
        other => return Err(format!("its route is of an unknown kind ({})", u8::from(other))),
    };
    let mut route = Route { link_index: 0, gateway: None, source: None, mtu: None, kind };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.link_index = *index,
            RouteAttribute::Gateway(gateway) => route.gateway = ip_of(gateway),
            RouteAttribute::Via(RouteVia::Inet(v4)) => route.gateway = Some((*v4).into()),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => route.gateway = Some((*v6).into()),
            RouteAttribute::PrefSource(source) => route.source = ip_of(source),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(route)
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejecting_routes_give_the_reason() {
        for (kind, word) in [
            (RouteType::Unreachable, "none"),
            (RouteType::Prohibit, "prohibit"),
            (RouteType::BlackHole, "blackhole"),
        ] {
            let mut message = RouteMessage::default();
            message.header.kind = kind;
            let reason = route_of(&message).expect_err("rejects");
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn an_ipv4_route_may_go_by_an_ipv6_router() {
        let router = Ipv6Addr::LOCALHOST;
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.attributes =
            vec![RouteAttribute::Oif(3), RouteAttribute::Via(RouteVia::Inet6(router))];
        let route = route_of(&message).expect("forwards");
        assert_eq!((route.link_index, route.gateway), (3, Some(router.into())));
    }

    #[test]
    fn a_route_s_own_mtu_is_read() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.attributes =
            vec![RouteAttribute::Metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(1400)])];
        assert_eq!(route_of(&message).expect("forwards").mtu, Some(1400));
    }
}
