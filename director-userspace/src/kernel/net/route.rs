//! Routes: looking one up, adding and removing them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
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
    /// When the kernel drops that MTU, if it learned it.
    pub mtu_ends: Option<Instant>,
    /// What kind of route.
    pub kind: RouteKind,
}

/// The kernel's unit for the time that is left of a route (USER_HZ).
const CLOCK_TICK: Duration = Duration::from_millis(10);

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
    let mut route =
        Route { link_index: 0, gateway: None, source: None, mtu: None, mtu_ends: None, kind };
    let mut ticks_left = 0;
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
            RouteAttribute::CacheInfo(cache) => ticks_left = cache.expires,
            _ => {}
        }
    }
    // Signed: negative once it is over.
    if ticks_left > 0 && ticks_left <= i32::MAX as u32 && route.mtu.is_some() {
        route.mtu_ends = Some(Instant::now() + CLOCK_TICK * ticks_left);
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
    use rtnetlink::packet_route::route::RouteCacheInfo;

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
        let route = route_of(&message).expect("forwards");
        assert_eq!((route.mtu, route.mtu_ends), (Some(1400), None));
    }

    #[test]
    fn a_learned_mtu_ends() {
        let began = Instant::now();
        for (ticks, seconds) in
            [(0, None), (250, Some(2)), (60_000, Some(600)), (u32::MAX - 5, None), (1 << 31, None)]
        {
            let mut message = RouteMessage::default();
            message.header.kind = RouteType::Unicast;
            let mut cache = RouteCacheInfo::parse(&[0; 32]).expect("eight words");
            cache.expires = ticks;
            message.attributes = vec![RouteAttribute::CacheInfo(cache)];
            assert_eq!(route_of(&message).expect("forwards").mtu_ends, None, "without an MTU");
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]));
            let ends = route_of(&message).expect("forwards").mtu_ends;
            let left = ends.map(|ends| ends.duration_since(began).as_secs());
            assert_eq!(left, seconds, "{ticks}");
        }
    }
}
