//! A service's servers as backends: weights, ports, and the sorry backend.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    carry::Notes,
    table::{Identity, LvsService, Place},
};
use crate::policy::scheduler::lvs::{self, Weights};

/// Director's largest weight.
const MAX_WEIGHT: u32 = u16::MAX as u32;

/// Addresses with equivalent weights.
pub(super) fn backends(service: &LvsService, notes: &mut Notes<'_>) -> Vec<(IpAddr, u32)> {
    let mut at: HashMap<IpAddr, usize> = HashMap::new();
    let mut backends: Vec<(IpAddr, u64)> = Vec::new();
    let ignores_weights =
        lvs::find(&service.scheduler).is_some_and(|s| s.weights == Weights::Ignored);
    let (mut is_merged, mut has_new_weights) = (false, false);
    for server in &service.servers {
        let weight = if ignores_weights { server.weight.min(1) } else { server.weight };
        has_new_weights |= weight != server.weight;
        match at.get(&server.address) {
            Some(&index) => {
                backends[index].1 += u64::from(weight);
                is_merged = true;
            }
            None => {
                at.insert(server.address, backends.len());
                backends.push((server.address, weight.into()));
            }
        }
    }
    if is_merged {
        let why = "a server is listed with several ports, which are one backend without NAT: \
                   their weights are added up";
        notes.change("same-server", why, "nothing: IPVS did not rewrite the port either");
    }
    if has_new_weights {
        let why = format!("{} ignores weights, so all that are not 0 become 1", service.scheduler);
        notes.change("weights", &why, "write the intended weights");
    }
    let largest = backends.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    let is_scaled = largest > u64::from(MAX_WEIGHT);
    if is_scaled {
        let why = "weights above 65535 are scaled down, all by the same factor";
        notes.change("weights", why, "nothing: shares stay the same");
    }
    if (is_scaled || has_new_weights) && service.health.quorum > 1 {
        let why = "the quorum counts weights, and these have changed";
        notes.change("quorum", why, "write the sum of weights that must be up");
    }
    let scaled = |weight: u64| {
        let scaled = (u128::from(weight) * u128::from(MAX_WEIGHT)).div_ceil(largest.max(1).into());
        u32::try_from(scaled).unwrap_or(MAX_WEIGHT)
    };
    let fit = |weight| {
        if is_scaled { scaled(weight) } else { u32::try_from(weight).unwrap_or(MAX_WEIGHT) }
    };
    backends.into_iter().map(|(address, weight)| (address, fit(weight))).collect()
}

/// Notes servers' ports that differ from the service's: without NAT, ports are not rewritten.
pub(super) fn ports(service: &LvsService, notes: &mut Notes<'_>) {
    let Identity::Address { port, .. } = service.identity else { return };
    let mut others: BTreeMap<u16, &Place> = BTreeMap::new();
    for server in service.servers.iter().filter(|server| server.port != port) {
        others.entry(server.port).or_insert(&server.place);
    }
    if !others.is_empty() {
        let why = "a server's port is not the service's; with direct routing and tunnels IPVS \
                   leaves the port as it is, and so does Director";
        notes.change("port", why, "nothing, if it works now");
    }
}

pub(super) fn sorry(
    service: &LvsService,
    backends: &[(IpAddr, u32)],
    notes: &mut Notes<'_>,
) -> Option<IpAddr> {
    let sorry = service.health.sorry.as_ref()?;
    let method = service.servers.first().map_or(sorry.method, |server| server.method);
    let port = match service.identity {
        Identity::Address { port, .. } => port,
        Identity::Mark { .. } => sorry.port,
    };
    let why = if sorry.method != method {
        "the sorry server is reached by another method than the servers"
    } else if sorry.port != 0 && sorry.port != port {
        "the sorry server has another port, and ports are not rewritten"
    } else if backends.iter().any(|(address, _)| *address == sorry.address) {
        "the sorry server is one of the servers"
    } else {
        return Some(sorry.address);
    };
    let instead = "name a server that is reached by the same method, on the same port";
    notes.drop_at(&sorry.place, "sorry", why, instead);
    None
}
