//! `director doctor`: what on this host keeps packets from arriving, and how to fix it.
//!
//! - `facts`: the facts that the checks evaluate, gathered once
//! - `kernel`, `interface`, `vip`, `path`: the checks of a director, in the order of the packet's
//!   path
//! - `realserver`: the checks of a backend host
//! - `finding`: the results of the checks
//!
//! A check is a pure function from facts to findings. Doctor does not change the host, except that
//! it has the kernel resolve the next hops.

mod facts;
mod finding;
mod interface;
mod kernel;
mod path;
mod realserver;
mod vip;

#[cfg(test)]
mod tests;

use self::{
    facts::{DirectorFacts, HostFacts},
    realserver::RealserverFacts,
};
pub use self::{
    finding::{Finding, Level, Report},
    realserver::RealserverExpectation,
};
use crate::{
    kernel::net::{NetError, Netlink},
    policy::config::model::Config,
};

type Check<Facts> = fn(&Facts) -> Vec<Finding>;

const HOST: &[Check<HostFacts>] =
    &[kernel::version, kernel::jit, kernel::btf, kernel::bpffs, kernel::capabilities];

const DIRECTOR: &[Check<DirectorFacts>] = &[
    interface::links,
    interface::ports,
    interface::native_xdp,
    interface::foreign_program,
    interface::offloads,
    interface::queues,
    vip::answered,
    path::routes,
    path::neighbours,
    path::neighbour_table,
    path::tunnel_source,
    path::egress,
    path::mtu,
    vip::own_traffic,
];

const REALSERVER: &[Check<RealserverFacts>] = &[
    realserver::link,
    realserver::decapsulation,
    realserver::vips,
    realserver::arp,
    realserver::reverse_path,
    realserver::mtu,
];

/// Examines a director: the host, and everything that its configuration depends on. Takes about 1.5
/// s if neighbours do not answer.
///
/// # Errors
/// [`NetError`] if the kernel doesn't list its interfaces.
pub async fn examine_director(netlink: &Netlink, config: &Config) -> Result<Report, NetError> {
    let facts = DirectorFacts::gather(netlink, config).await?;
    Ok(Report { findings: run(HOST, &facts.host).chain(run(DIRECTOR, &facts)).collect() })
}

/// Examines a backend host.
///
/// # Errors
/// [`NetError`] if the kernel doesn't list its interfaces.
pub async fn examine_realserver(
    netlink: &Netlink,
    expect: RealserverExpectation,
) -> Result<Report, NetError> {
    let facts = RealserverFacts::gather(netlink, expect).await?;
    Ok(Report { findings: run(HOST, &facts.host).chain(run(REALSERVER, &facts)).collect() })
}

fn run<Facts>(checks: &[Check<Facts>], facts: &Facts) -> impl Iterator<Item = Finding> {
    checks.iter().flat_map(move |check| check(facts))
}
