//! Connections by backend, read from the flow table's memory.

use std::net::IpAddr;

use super::types::{Backend, BackendConnections, Connections, ConnectionsOf};
use crate::{
    kernel::datapath::{self, Datapath, DatapathError, Instance, census},
    policy::plan::front,
};

/// Counts established connections. Takes tens of milliseconds with a large table.
///
/// # Errors
///
/// If the maps cannot be opened.
pub(super) fn count(instance: &Instance, of: &ConnectionsOf) -> Result<Connections, DatapathError> {
    let opened = Datapath::open(instance)?;
    let observed = datapath::observe(&opened.tables);
    let address: Option<IpAddr> = of.backend.as_deref().and_then(|text| text.parse().ok());
    let connections = census(&opened.tables);
    let mut backends = Vec::new();
    for (slot, backend) in &observed.backends {
        let Some(service) = observed.services.get(&backend.service) else { continue };
        let is_selected = of.service.as_ref().is_none_or(|name| *name == service.name)
            && (of.backend.is_none() || address == Some(backend.address));
        if is_selected {
            backends.push(BackendConnections {
                backend: Backend {
                    service: service.name.clone(),
                    frontend: front(service.key),
                    address: backend.address.to_string(),
                },
                established: connections.of(*slot),
            });
        }
    }
    backends.sort_by(|a, b| a.backend.cmp(&b.backend));
    Ok(Connections { backends })
}
