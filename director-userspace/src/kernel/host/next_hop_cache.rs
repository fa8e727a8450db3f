//! The next hops of backends, as the kernel resolves them: all at once.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::kernel::net::{
    FollowedRoute, Link, NetError, Netlink, NextHop, Route, RouteClass, RouteClasses, RouteKind,
};
use crate::policy::by_address::ByAddress;

/// Requests to the kernel in flight at once.
const MAX_IN_FLIGHT: usize = 64;
/// From this many addresses on, dumping the tables is faster than a request for each.
const MIN_FOR_DUMP: usize = 64;

/// The next hops of some addresses.
#[derive(Debug, Default)]
pub struct NextHopCache(ByAddress<Result<NextHop, NetError>>);

impl NextHopCache {
    /// Resolves `addresses` by the kernel, unknown neighbours in parallel; `wait` limits the wait
    /// for all of them together.
    pub async fn find(
        netlink: &Netlink,
        addresses: impl Iterator<Item = IpAddr>,
        wait: Duration,
    ) -> Self {
        let mut addresses: Vec<IpAddr> = addresses.collect();
        addresses.sort_unstable();
        addresses.dedup();
        let began = Instant::now();
        let mut hops = Self::default();
        if addresses.len() >= MIN_FOR_DUMP {
            // What cannot be listed is resolved one by one.
            if let Ok(classes) = ClassLookup::new(netlink, wait).await {
                addresses = hops.find_in(classes, addresses).await;
            }
        }
        let mut requests = JoinSet::new();
        let mut left = addresses.into_iter();
        loop {
            while requests.len() < MAX_IN_FLIGHT
                && let Some(address) = left.next()
            {
                let netlink = netlink.clone();
                let wait = wait.saturating_sub(began.elapsed());
                requests
                    .spawn(async move { (address, netlink.resolve_next_hop(address, wait).await) });
            }
            match requests.join_next().await {
                Some(Ok((address, hop))) => drop(hops.0.insert(address, hop)),
                // A task neither panics nor is cancelled here; otherwise its backend would have no
                // next hop.
                Some(Err(_)) => {}
                None => return hops,
            }
        }
    }

    /// Adds the next hops that `classes` has; returns the addresses that must be resolved one by
    /// one.
    async fn find_in(
        &mut self,
        mut classes: ClassLookup<'_>,
        addresses: Vec<IpAddr>,
    ) -> Vec<IpAddr> {
        let mut left = Vec::new();
        self.0.reserve(addresses.len());
        for address in addresses {
            match classes.next_hop(address).await {
                Some(hop) => drop(self.0.insert(address, Ok(hop))),
                None => left.push(address),
            }
        }
        left
    }

    /// Takes over what `found` has; returns the addresses whose next hops differ from before.
    pub fn update(&mut self, found: Self) -> HashSet<IpAddr> {
        let mut differing = HashSet::new();
        // When an MTU ends is no difference to packets.
        let hop_only = |hop: &NextHop| NextHop { route_mtu_ends: None, ..*hop };
        for (address, hop) in found.0 {
            let is_same = match (self.get(address), &hop) {
                (Some(Ok(before)), Ok(now)) => hop_only(before) == hop_only(now),
                (Some(Err(before)), Err(now)) => before.to_string() == now.to_string(),
                (Some(_) | None, _) => false,
            };
            if !is_same {
                differing.insert(address);
            }
            self.0.insert(address, hop);
        }
        differing
    }

    /// Whether some could not be asked for: not that the host has no way to them, but that the
    /// kernel was short of something.
    pub fn has_failures(&self) -> bool {
        let has_failed = |hop: &Result<NextHop, NetError>| match hop {
            Ok(_)
            | Err(
                NetError::NoRoute { .. }
                | NetError::OwnAddress { .. }
                | NetError::NoSuchInterface { .. }
                | NetError::NoSuchNamespace { .. }
                | NetError::NamespaceExists { .. }
                | NetError::BadNamespaceName { .. },
            ) => false,
            Err(NetError::System { .. } | NetError::NoSuchIndex { .. }) => true,
        };
        self.0.values().any(has_failed)
    }

    /// Forgets the others.
    pub fn retain(&mut self, addresses: &HashSet<IpAddr>) {
        self.0.retain(|address, _| addresses.contains(address));
    }

    /// All addresses in it.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.0.keys().copied().collect()
    }

    /// Those of `changed` that are in it, and the addresses whose packets are sent to one of them.
    pub fn sent_by(&self, changed: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let is_sent = |(address, hop): &(&IpAddr, &Result<NextHop, NetError>)| {
            changed.contains(*address)
                || hop.as_ref().is_ok_and(|hop| changed.contains(&hop.neighbour))
        };
        self.0.iter().filter(is_sent).map(|(address, _)| *address).collect()
    }

    /// The next hop of one, or why there is none; `None` if it was not requested.
    pub fn get(&self, address: IpAddr) -> Option<&Result<NextHop, NetError>> {
        self.0.get(&address)
    }

    /// Whether the next hop of an address is known, including its MAC.
    pub fn is_resolved(&self, address: IpAddr) -> bool {
        matches!(self.get(address), Some(Ok(hop)) if hop.mac.is_some())
    }

    /// Has `netlink` watch the MTU of the routes to these addresses, and no longer of others.
    pub fn follow_path_mtus(&self, netlink: &Netlink) {
        netlink.follow_path_mtus(self.0.iter().filter_map(|(address, hop)| {
            let hop = hop.as_ref().ok()?;
            let (mtu, mtu_ends) = (hop.route_mtu, hop.route_mtu_ends);
            Some((*address, FollowedRoute { mtu, mtu_ends, on_link: hop.on_link }))
        }));
    }
}

/// Routes by class of addresses, and the kernel's table of neighbours.
struct ClassLookup<'a> {
    netlink: &'a Netlink,
    route_classes: RouteClasses,
    routes: HashMap<RouteClass, Option<(Route, Link)>>,
    neighbours: HashMap<(u32, IpAddr), Option<[u8; 6]>>,
    gateways: HashMap<(u32, IpAddr), Option<[u8; 6]>>,
    wait: Duration,
    began: Instant,
}

impl<'a> ClassLookup<'a> {
    async fn new(netlink: &'a Netlink, wait: Duration) -> Result<Self, NetError> {
        let route_classes = netlink.route_classes().await?;
        let neighbours = netlink.neighbours().await?;
        let neighbours =
            neighbours.iter().map(|n| ((n.link_index, n.ip), n.usable_mac())).collect();
        let (routes, gateways) = (HashMap::new(), HashMap::new());
        Ok(Self {
            netlink,
            route_classes,
            routes,
            neighbours,
            gateways,
            wait,
            began: Instant::now(),
        })
    }

    /// The next hop; `None` if it must be resolved by itself.
    async fn next_hop(&mut self, address: IpAddr) -> Option<NextHop> {
        let class = self.route_classes.class(address)?;
        let (route, link) = match self.routes.entry(class) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(route_to(self.netlink, address).await),
        }
        .as_ref()?;
        let mac = match route.gateway {
            // Unknown neighbours on the link are resolved in parallel, by the caller.
            None => Some(self.neighbours.get(&(link.index, address)).copied().flatten()?),
            Some(gateway) => match self.gateways.entry((link.index, gateway)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(place) => {
                    let wait = self.wait.saturating_sub(self.began.elapsed());
                    let found = self.netlink.resolve_neighbour(link.index, gateway, wait).await;
                    *place.insert(found.ok()?)
                }
            },
        };
        Some(NextHop::new(route, link, address, mac))
    }
}

/// The route of an address's class, if it leads to another host on Ethernet.
async fn route_to(netlink: &Netlink, address: IpAddr) -> Option<(Route, Link)> {
    let route = netlink.route_to(address).await.ok()?;
    let link = netlink.link_by_index(route.link_index).await.ok()?;
    (route.kind == RouteKind::Unicast && link.ethernet).then_some((route, link))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const NONE: [IpAddr; 0] = [];

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// 1 is resolved and 2 silent, both on the link; 3 and 4 are behind neighbour 2; 5 has no route.
    fn cache() -> NextHopCache {
        let mut hops = NextHopCache::default();
        for (last, neighbour, mac) in [(1, 1, Some(MAC)), (2, 2, None), (3, 2, None), (4, 2, None)]
        {
            let neighbour = address(neighbour);
            let hop = NextHop {
                link_index: 7,
                route_link_index: 7,
                vlan: None,
                neighbour,
                on_link: neighbour == address(last),
                source: None,
                mac,
                own_mac: [2; 6],
                mtu: 1500,
                route_mtu: None,
                route_mtu_ends: None,
            };
            hops.0.insert(address(last), Ok(hop));
        }
        let reason = "the routing table has none".to_owned();
        hops.0.insert(address(5), Err(NetError::NoRoute { destination: address(5), reason }));
        hops
    }

    fn next_hop(hops: &NextHopCache, last: u8) -> NextHop {
        *hops.get(address(last)).expect("looked up").as_ref().expect("has a route")
    }

    #[test]
    fn a_silent_neighbour_is_known_as_such() {
        let hops = cache();
        assert!(next_hop(&hops, 1).on_link);
        for last in [2, 3] {
            let hop = next_hop(&hops, last);
            assert_eq!((hop.neighbour, hop.on_link, hop.mac), (address(2), last == 2, None));
        }
        assert!(matches!(hops.get(address(5)), Some(Err(NetError::NoRoute { .. }))));
        assert!(hops.get(address(6)).is_none());
        let resolved = [1, 2, 3, 4, 5, 6].map(|last| hops.is_resolved(address(last)));
        assert_eq!(resolved, [true, false, false, false, false, false]);
    }

    /// What is asked for again when neighbour 2 answers: all behind it, and only they differ.
    #[test]
    fn an_answer_resolves_every_address_behind_a_neighbour() {
        let mut hops = cache();
        let mut behind = hops.sent_by(&BTreeSet::from([address(2)]));
        behind.sort_unstable();
        assert_eq!(behind, [address(2), address(3), address(4)]);
        assert_eq!(hops.sent_by(&BTreeSet::from([address(9)])), NONE);
        let found = |mac| {
            let answered = [1, 2, 3, 4].map(|last| {
                let mac = if last == 1 { next_hop(&cache(), 1).mac } else { mac };
                (address(last), Ok(NextHop { mac, ..next_hop(&cache(), last) }))
            });
            NextHopCache(answered.into_iter().collect())
        };
        assert_eq!(hops.update(found(Some(MAC))), behind.iter().copied().collect());
        assert!(hops.update(found(Some(MAC))).is_empty(), "known already");
        assert!(hops.is_resolved(address(4)) && hops.is_resolved(address(1)));
        assert_eq!(hops.update(found(None)), behind.iter().copied().collect());
        assert!(!hops.is_resolved(address(4)) && hops.is_resolved(address(1)));
        hops.retain(&HashSet::from([address(1)]));
        assert_eq!(hops.addresses(), [address(1)]);
    }
}
