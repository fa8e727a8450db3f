//! One probe, from its start to its result.

use std::{net::SocketAddr, time::Instant};

use tokio::time::timeout;

use super::{
    Target,
    failure::{Failure, shown},
    socket,
    streak::Outcome,
};
use crate::config::model::Probe;

/// Probes `target` once. Ends at the timeout at the latest.
pub(super) async fn probe(target: &Target) -> Outcome {
    let limit = target.check.timeout;
    let start = Instant::now();
    match timeout(limit, run(target)).await {
        Ok(result) => result.map(|()| Some(start.elapsed())),
        Err(_) => Err(Failure::backend(format!("no answer within {}", shown(limit)))),
    }
}

async fn run(target: &Target) -> Result<(), Failure> {
    match &target.check.probe {
        Probe::Tcp => socket::knock(socket_address(target)?, target.mark).await,
        other => Err(Failure::host(format!("not probed: no {} probe yet", other.as_str()))),
    }
}

fn socket_address(target: &Target) -> Result<SocketAddr, Failure> {
    let port = target.port.ok_or_else(|| Failure::host("not probed: the check has no port"))?;
    Ok(SocketAddr::new(target.address, port))
}
