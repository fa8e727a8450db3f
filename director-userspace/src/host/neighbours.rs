//! Neighbours that the kernel keeps fresh for us.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    net::{NetError, Netlink},
    plan::Observed,
};

/// Leaves to age what was kept fresh for the backends in `observed`.
///
/// # Errors
///
/// If the neighbours cannot be listed.
pub async fn release_neighbours(netlink: &Netlink, observed: &Observed) -> Result<(), NetError> {
    let mut next_hops: BTreeSet<IpAddr> = BTreeSet::new();
    for backend in observed.backends.values() {
        if let Ok(route) = netlink.route_to(backend.address).await {
            next_hops.insert(route.gateway.unwrap_or(backend.address));
        }
    }
    for neighbour in netlink.neighbours().await? {
        if neighbour.managed && next_hops.contains(&neighbour.ip) {
            // Gone meanwhile: nothing to release.
            let _ = netlink.unmanage_neighbour(neighbour.link_index, neighbour.ip).await;
        }
    }
    Ok(())
}
