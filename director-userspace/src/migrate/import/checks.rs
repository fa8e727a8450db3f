//! One set of checks for a service, out of those of its servers.
//!
//! Director checks all backends of a service alike. Where servers are checked differently, what
//! they have in common is carried over: then no server is ever taken out that keepalived would
//! keep, and each check that is lost is reported.

use std::num::NonZeroU16;

use super::table::{Identity, LvsServer, LvsService};
use crate::policy::config::model::{HealthCheck, Probe, Start};

/// The texts of a service's note: what, why, and what to do instead.
type Remark = (&'static str, String, String);

/// The checks that hold for every server.
pub(super) fn common(service: &LvsService) -> (Vec<HealthCheck>, Vec<Remark>) {
    let service_port = match service.identity {
        Identity::Address { port, .. } => port,
        Identity::Mark { .. } => 0,
    };
    let sets: Vec<Vec<HealthCheck>> =
        service.servers.iter().map(|server| checks_of(server, service_port)).collect();
    let Some((first, others)) = sets.split_first() else { return (Vec::new(), Vec::new()) };
    let mut remarks = Vec::new();
    let is_same = |a: &HealthCheck, b: &HealthCheck| a.probe == b.probe && a.port == b.port;
    let mut common: Vec<HealthCheck> = Vec::new();
    for check in first {
        let matching: Option<Vec<&HealthCheck>> =
            others.iter().map(|set| set.iter().find(|other| is_same(check, other))).collect();
        common.extend(matching.map(|matching| slowest(check, &matching)));
    }
    if sets.iter().all(|set| set == first) {
        return (common, remarks);
    }
    let total = sets.iter().map(Vec::len).max().unwrap_or(0);
    let instead =
        "write the `health:` that is right for all of them, or give servers with another \
                   check a service of their own"
            .to_owned();
    if common.len() == total {
        let why = "servers are checked with different timings: the longest are used".to_owned();
        remarks.push(("checks-differ", why, instead));
    } else if common.is_empty()
        && let Some(tcp) = connection(&sets)
    {
        let why = "servers are checked differently: only that they accept connections is \
                   checked, which all of these checks include"
            .to_owned();
        remarks.push(("checks-differ", why, instead));
        common.push(tcp);
    } else {
        let what = if common.is_empty() { "nothing" } else { "what all of them have in common" };
        let why = format!("servers are checked differently: {what} is checked");
        remarks.push(("checks-differ", why, instead));
    }
    (common, remarks)
}

/// A server's checks with the port that they probe, without duplicates.
fn checks_of(server: &LvsServer, service_port: u16) -> Vec<HealthCheck> {
    let mut checks: Vec<HealthCheck> = Vec::new();
    for (_, check) in &server.checks {
        let mut check = check.clone();
        let probed = check.port.map_or(server.port, NonZeroU16::get);
        let needs_port = !matches!(check.probe, Probe::Icmp | Probe::Exec(_));
        check.port = NonZeroU16::new(probed).filter(|_| needs_port && probed != service_port);
        // With any port, there is none to probe.
        if needs_port && probed == 0 {
            continue;
        }
        if !checks.contains(&check) {
            checks.push(check);
        }
    }
    checks
}

/// A check with the longest timings of it and the others.
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

/// A TCP check, if every server has a check that opens a connection to the same port.
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
