//! A service's servers as backends: weights, ports, and who answers when all are gone.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    carry::Notes,
    table::{Identity, LvsService, Place},
};

/// Director's largest weight.
const MAX_WEIGHT: u32 = u16::MAX as u32;

/// Addresses with weights that come to the same.
pub(super) fn backends(service: &LvsService, notes: &mut Notes<'_>) -> Vec<(IpAddr, u32)> {
    let mut at: HashMap<IpAddr, usize> = HashMap::new();
    let mut backends: Vec<(IpAddr, u64)> = Vec::new();
    let is_blind = ["rr", "lc", "dh"].contains(&service.scheduler.as_str());
    let (mut is_merged, mut was_blind) = (false, false);
    for server in &service.servers {
        let weight = if is_blind { server.weight.min(1) } else { server.weight };
        was_blind |= weight != server.weight;
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
        let why = "a server is there with several ports, and without NAT all of them are one: \
                   their weights are added up";
        notes.change("same-server", why, "nothing: IPVS did not rewrite the port either");
    }
    if was_blind {
        let why = format!("{} ignores weights, so all that are not 0 become 1", service.scheduler);
        notes.change("weights", &why, "write the weights that were meant");
    }
    let largest = backends.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    let is_scaled = largest > u64::from(MAX_WEIGHT);
    if is_scaled {
        let why = "weights above 65535 are scaled down, all of them alike";
        notes.change("weights", why, "nothing: shares stay");
    }
    if (is_scaled || was_blind) && service.health.quorum > 1 {
        let why = "the quorum counts weights, and these are other ones now";
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

/// Without NAT nobody rewrites ports, whatever the servers' lines say.
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
        "the sorry server is reached in another way than the servers"
    } else if sorry.port != 0 && sorry.port != port {
        "the sorry server has another port, and nobody would rewrite it"
    } else if backends.iter().any(|(address, _)| *address == sorry.address) {
        "the sorry server is one of the servers"
    } else {
        return Some(sorry.address);
    };
    let instead = "name a server that is reached like the others, on the same port";
    notes.drop_at(&sorry.place, "sorry", why, instead);
    None
}
