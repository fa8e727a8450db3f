//! Detaching a director from its interfaces.

use super::{Director, DirectorError};
use crate::kernel::{
    datapath::{self, Datapath, Instance, LinkPin},
    host,
    net::Netlink,
    path_probe,
};

impl Director {
    /// Detaches the program from these interfaces, or from all, and with the last one removes
    /// everything that was pinned. Returns the interfaces it was attached to.
    ///
    /// # Errors
    ///
    /// If something cannot be removed.
    pub async fn detach(
        netlink: &Netlink,
        instance: &Instance,
        interfaces: &[String],
    ) -> Result<Vec<String>, DirectorError> {
        // Maps of another version are removed, too; only their neighbours are unknown.
        let observed =
            Datapath::open(instance).map(|opened| datapath::observe(&opened.tables)).ok();
        let named = |pin: &LinkPin| interfaces.is_empty() || interfaces.contains(&pin.interface);
        if datapath::attached(instance)?.iter().all(named) {
            // Before the pins are removed: without them a retry would find nothing to do.
            host::withdraw_vips(netlink, &instance.run_dir()).await?;
        }
        // Left by a killed daemon, for example; before the pins, for the same reason.
        path_probe::remove(netlink, instance, interfaces).await?;
        let gone = datapath::detach(instance, interfaces)?;
        if datapath::attached(instance)?.is_empty()
            && let Some(observed) = observed
        {
            host::release_neighbours(netlink, &observed).await?;
        }
        Ok(gone)
    }
}
