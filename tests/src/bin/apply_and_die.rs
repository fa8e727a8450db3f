//! Fault injection: applies the first steps of a change to an instance's maps, and is then killed,
//! as a daemon killed in the middle of a change.
//!
//! `apply-and-die FILE INSTANCE STEPS` prints how many steps the whole change has.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use director_userspace::{
    kernel::{
        datapath::{Attachments, Datapath, Instance, apply, clock_ns, observe},
        host::{self, NextHopCache},
        net::Netlink,
    },
    policy::{
        config,
        config::model::Service,
        plan::{Desired, diff},
    },
};
use nix::sys::signal::{Signal, raise};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, instance, steps] = arguments.as_slice() else {
        bail!("usage: apply-and-die FILE INSTANCE STEPS");
    };
    let steps: usize = steps.parse().context("STEPS is a number")?;
    let config = config::load(Path::new(file))?.config;
    let instance = Instance::new(instance).map_err(anyhow::Error::msg)?;

    // As the daemon does.
    let netlink = Netlink::connect()?;
    let interfaces = host::interfaces(&netlink, &netlink.links().await?, &config)?;
    let _lock = instance.lock()?;
    let mut datapath = Datapath::open(&instance)?;
    let attachments = Attachments::assign(&datapath.tables, &interfaces)?;
    let observed = observe(&datapath.tables);
    let services: Vec<&Service> = config.services.iter().collect();
    let named: Vec<IpAddr> =
        services.iter().flat_map(|service| service.backends.iter().map(|b| b.address)).collect();
    let draining = host::draining(observed.backends.values(), &services);
    let addresses = named.iter().copied().chain(draining.iter().map(|backend| backend.address));
    let hops = NextHopCache::find(&netlink, addresses, Duration::from_millis(500)).await;
    let routes =
        host::routes(&netlink, &config, &services, &draining, &interfaces, &attachments, &hops)
            .await;
    if !routes.errors.is_empty() {
        bail!("{:?}", routes.errors);
    }
    let desired = Desired::of(services.iter().copied(), routes.paths);
    let mut plan = diff(&observed, &desired, clock_ns())?;
    println!("{}", plan.ops.len());
    plan.ops.truncate(steps);
    apply(&mut datapath.tables, &plan.ops)?;
    // SIGKILL: no destructor and no clean-up runs.
    raise(Signal::SIGKILL)?;
    bail!("survived SIGKILL");
}
