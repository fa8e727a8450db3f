//! The next hops of backends, as the kernel resolves them: all at once.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::kernel::net::{
    Link, NetError, Netlink, NextHop, Route, RouteClass, RouteClasses, RouteKind,
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
                Some(Ok((address, hop))) => hops.0.insert(address, hop),
                // A task neither panics nor is cancelled here; otherwise its backend would have no
                // next hop.
                Some(Err(_)) => continue,
                None => return hops,
            };
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
        for (address, hop) in found.0 {
            let is_same = match (self.0.get(&address), &hop) {
                (Some(Ok(before)), Ok(now)) => before == now,
                (Some(Err(before)), Err(now)) => before.to_string() == now.to_string(),
                (Some(_) | None, _) => false,
            };
            if !is_same {
                differing.insert(address);
                self.0.insert(address, hop);
            }
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

    /// All addresses in it.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.0.keys().copied().collect()
    }

    /// The addresses whose packets are sent to one of these neighbours, and those among them that
    /// have no next hop.
    pub fn sent_by(&self, neighbours: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let is_sent = |(address, hop): &(&IpAddr, &Result<NextHop, NetError>)| match hop {
            Ok(hop) => neighbours.contains(&hop.neighbour),
            Err(_) => neighbours.contains(*address),
        };
        self.0.iter().filter(is_sent).map(|(address, _)| *address).collect()
    }

    /// The next hop of one, or why there is none; `None` if it was not requested.
    pub fn get(&self, address: IpAddr) -> Option<&Result<NextHop, NetError>> {
        self.0.get(&address)
    }

    /// Whether the next hop of an address is known, including its MAC.
    pub fn is_resolved(&self, address: IpAddr) -> bool {
        matches!(self.0.get(&address), Some(Ok(hop)) if hop.mac.is_some())
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
