//! How the kernel would send to backends: asked for all at once.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::kernel::net::{
    Link, NetError, Netlink, NextHop, Route, RouteClass, RouteClasses, RouteKind,
};
use crate::policy::by_address::ByAddress;

/// Questions to the kernel under way at once.
const AT_ONCE: usize = 64;
/// From so many on, looking through the tables is quicker than asking about each.
const MANY: usize = 64;

/// What the kernel knows of the way to each of some addresses.
#[derive(Debug, Default)]
pub struct NextHopCache(ByAddress<Result<NextHop, NetError>>);

impl NextHopCache {
    /// Asks the kernel about `addresses`; neighbours that are not known are asked for and waited
    /// for at most `wait` in all: the wait for a silent one is everybody's.
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
        if addresses.len() >= MANY {
            // Whatever cannot be listed is asked for one by one.
            if let Ok(classes) = Groups::new(netlink, wait).await {
                addresses = hops.find_in(classes, addresses).await;
            }
        }
        let mut asked = JoinSet::new();
        let mut left = addresses.into_iter();
        loop {
            while asked.len() < AT_ONCE
                && let Some(address) = left.next()
            {
                let netlink = netlink.clone();
                let wait = wait.saturating_sub(began.elapsed());
                asked
                    .spawn(async move { (address, netlink.resolve_next_hop(address, wait).await) });
            }
            match asked.join_next().await {
                Some(Ok((address, hop))) => hops.0.insert(address, hop),
                // A task neither panics nor is cancelled here; were it so, its backend has no way.
                Some(Err(_)) => continue,
                None => return hops,
            };
        }
    }

    /// Fills in what `classes` can tell; the addresses that have to be asked about.
    async fn find_in(&mut self, mut classes: Groups<'_>, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
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

    /// What is known of one; `None` if it was not asked about.
    pub fn get(&self, address: IpAddr) -> Option<&Result<NextHop, NetError>> {
        self.0.get(&address)
    }

    /// Whether the way to an address is known as far as its neighbour's MAC.
    pub fn leads_to(&self, address: IpAddr) -> bool {
        matches!(self.0.get(&address), Some(Ok(hop)) if hop.mac.is_some())
    }
}

/// Routes by classes of addresses, and the neighbours that the kernel has in its table.
struct Groups<'a> {
    netlink: &'a Netlink,
    route_classes: RouteClasses,
    routes: HashMap<RouteClass, Option<(Route, Link)>>,
    neighbours: HashMap<(u32, IpAddr), Option<[u8; 6]>>,
    gateways: HashMap<(u32, IpAddr), Option<[u8; 6]>>,
    wait: Duration,
    began: Instant,
}

impl<'a> Groups<'a> {
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

    /// The next hop; `None`: to be asked about by itself.
    async fn next_hop(&mut self, address: IpAddr) -> Option<NextHop> {
        let class = self.route_classes.class(address)?;
        let (route, link) = match self.routes.entry(class) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(route_to(self.netlink, address).await),
        }
        .as_ref()?;
        let mac = match route.gateway {
            // Those on the link that are not known are asked for side by side.
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

/// The route that an address and its like take, if it is one to another host on Ethernet.
async fn route_to(netlink: &Netlink, address: IpAddr) -> Option<(Route, Link)> {
    let route = netlink.route_to(address).await.ok()?;
    let link = netlink.link_by_index(route.link_index).await.ok()?;
    (route.kind == RouteKind::Unicast && link.ethernet).then_some((route, link))
}
