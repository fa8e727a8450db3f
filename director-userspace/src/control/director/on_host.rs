//! State of the host for the configuration in effect: VIPs, and neighbours. Packets are forwarded
//! already, so failures are warnings and undo nothing.

use super::{Changed, Neighbours};
use crate::{
    kernel::{datapath::Instance, host, net::Netlink},
    policy::config::Config,
};

/// Assigns the configured VIPs to interfaces.
pub(super) async fn assign_vips(
    netlink: &Netlink,
    instance: &Instance,
    config: &Config,
    changed: &mut Changed,
) {
    match host::assign_vips(netlink, config, &instance.run_dir()).await {
        Ok(warnings) => changed.warnings.extend(warnings),
        Err(error) => changed.warnings.push(format!("assign_vips: {error}")),
    }
}

/// Has the kernel keep `after` resolved, and no longer what is only in `before`. On errors, next
/// hops are still updated.
pub(super) async fn keep_neighbours(
    netlink: &Netlink,
    before: &Neighbours,
    after: &Neighbours,
    changed: &mut Changed,
) {
    for (link, neighbour) in before.difference(after) {
        // It may be gone with its interface.
        let _ = netlink.unmanage_neighbour(*link, *neighbour).await;
    }
    for (link, neighbour) in after {
        if let Err(error) = netlink.manage_neighbour(*link, *neighbour).await {
            changed.warnings.push(error.to_string());
        }
    }
}
