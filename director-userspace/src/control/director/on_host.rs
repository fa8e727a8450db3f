//! What the host is to keep for a configuration that is in effect: its VIPs, and neighbours. Packets
//! are forwarded already, so what fails is said and undoes nothing.

use super::{Changed, Neighbours};
use crate::{
    kernel::{datapath::Instance, host, net::Netlink},
    policy::config::Config,
};

/// Gives interfaces the VIPs that they are to have.
pub(super) async fn assign_vips(
    netlink: &Netlink,
    instance: &Instance,
    config: &Config,
    changed: &mut Changed,
) {
    if let Err(error) = host::assign_vips(netlink, config, &instance.run_dir()).await {
        changed.warnings.push(format!("assign_vips: {error}"));
    }
}

/// Has the kernel keep `after` fresh, and no longer what is only in `before`. Next
/// hops are followed all the same.
pub(super) async fn keep_neighbours(
    netlink: &Netlink,
    before: &Neighbours,
    after: &Neighbours,
    changed: &mut Changed,
) {
    for (link, neighbour) in before.difference(after) {
        // Gone with its interface, maybe.
        let _ = netlink.unmanage_neighbour(*link, *neighbour).await;
    }
    for (link, neighbour) in after {
        if let Err(error) = netlink.manage_neighbour(*link, *neighbour).await {
            changed.warnings.push(error.to_string());
        }
    }
}
