//! One set of checks for a service, out of those of its servers.
//!
//! Director checks all backends of a service alike. Where servers are checked differently, what
//! they have in common is carried over: then no server is ever taken out that keepalived would
//! keep, and what is checked less is said.

use std::num::NonZeroU16;

use super::table::{Identity, LvsServer, LvsService};
use crate::policy::config::model::{HealthCheck, Probe, Start};

/// What a service's note says: what, why, and what to do instead.
type Said = (&'static str, String, String);

/// The checks that hold for every server.
pub(super) fn common(service: &LvsService) -> (Vec<HealthCheck>, Vec<Said>) {
    let service_port = match service.identity {
        Identity::Address { port, .. } => port,
        Identity::Mark { .. } => 0,
    };
    let sets: Vec<Vec<HealthCheck>> =
        service.servers.iter().map(|server| checks_of(server, service_port)).collect();
    let Some((first, others)) = sets.split_first() else { return (Vec::new(), Vec::new()) };
    let mut said = Vec::new();
    let is_alike = |a: &HealthCheck, b: &HealthCheck| a.probe == b.probe && a.port == b.port;
    let mut common: Vec<HealthCheck> = Vec::new();
    for check in first {
        let alike: Option<Vec<&HealthCheck>> =
            others.iter().map(|set| set.iter().find(|other| is_alike(check, other))).collect();
        common.extend(alike.map(|alike| slowest(check, &alike)));
    }
    if sets.iter().all(|set| set == first) {
        return (common, said);
    }
    let total = sets.iter().map(Vec::len).max().unwrap_or(0);
    let instead =
        "write the `health:` that is right for all of them, or give servers with another \
                   check a service of their own"
            .to_owned();
    if common.len() == total {
        let why = "servers are checked at different times: the longest ones are taken".to_owned();
        said.push(("checks-differ", why, instead));
    } else if common.is_empty()
        && let Some(tcp) = connection(&sets)
    {
        let why = "servers are asked different questions: only that they accept connections is \
                   checked, which all of these questions want"
            .to_owned();
        said.push(("checks-differ", why, instead));
        common.push(tcp);
    } else {
        let what = if common.is_empty() { "nothing" } else { "what all of them are asked" };
        let why = format!("servers are asked different questions: {what} is checked");
        said.push(("checks-differ", why, instead));
    }
    (common, said)
}

/// A server's checks with the port that they ask, without repetitions.
fn checks_of(server: &LvsServer, service_port: u16) -> Vec<HealthCheck> {
    let mut checks: Vec<HealthCheck> = Vec::new();
    for (_, check) in &server.checks {
        let mut check = check.clone();
        let asked = check.port.map_or(server.port, NonZeroU16::get);
        let wants_port = !matches!(check.probe, Probe::Icmp | Probe::Exec(_));
        check.port = NonZeroU16::new(asked).filter(|_| wants_port && asked != service_port);
        // Any port is none that could be asked.
        if wants_port && asked == 0 {
            continue;
        }
        if !checks.contains(&check) {
            checks.push(check);
        }
    }
    checks
}

/// A check, with the patience of the most patient of its like.
fn slowest(check: &HealthCheck, others: &[&HealthCheck]) -> HealthCheck {
    let mut check = check.clone();
    for other in others {
        check.interval = check.interval.max(other.interval);
        check.timeout = check.timeout.max(other.timeout);
        check.fall = check.fall.max(other.fall);
        if other.start == Start::Up {
            check.start = Start::Up;
        }
    }
    check
}

/// That a connection can be opened, if a check of every server implies that, on the same port.
fn connection(sets: &[Vec<HealthCheck>]) -> Option<HealthCheck> {
    let connects = |check: &&HealthCheck| {
        matches!(check.probe, Probe::Tcp | Probe::Http(_) | Probe::Https(_) | Probe::Grpc(_))
    };
    let ones: Option<Vec<&HealthCheck>> =
        sets.iter().map(|set| set.iter().find(connects)).collect();
    let ones = ones?;
    let (first, others) = ones.split_first()?;
    let tcp = HealthCheck { probe: Probe::Tcp, ..slowest(first, others) };
    others.iter().all(|other| other.port == first.port).then_some(tcp)
}
