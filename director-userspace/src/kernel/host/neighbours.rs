//! Neighbours that the kernel keeps fresh for the daemon.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use crate::{
    kernel::net::{NetError, Netlink, RouteClass},
    policy::plan::Observed,
};

/// Stops keeping neighbours fresh for the backends in `observed`: they age as usual.
///
/// # Errors
///
/// If the neighbours cannot be listed.
pub async fn release_neighbours(netlink: &Netlink, observed: &Observed) -> Result<(), NetError> {
    let mut next_hops: BTreeSet<IpAddr> = BTreeSet::new();
    // What cannot be listed is looked up one by one.
    let route_classes = netlink.route_classes().await.unwrap_or_default();
    let mut gateways: HashMap<RouteClass, Option<IpAddr>> = HashMap::new();
    for backend in observed.backends.values() {
        let class = route_classes.class(backend.address);
        let gateway = match class.and_then(|class| gateways.get(&class)) {
            Some(gateway) => *gateway,
            None => {
                let Ok(route) = netlink.route_to(backend.address).await else { continue };
                gateways.extend(class.map(|class| (class, route.gateway)));
                route.gateway
            }
        };
        next_hops.insert(gateway.unwrap_or(backend.address));
    }
    for neighbour in netlink.neighbours().await? {
        if neighbour.managed && next_hops.contains(&neighbour.ip) {
            // Gone meanwhile: nothing to release.
            let _ = netlink.unmanage_neighbour(neighbour.link_index, neighbour.ip).await;
        }
    }
    Ok(())
}
