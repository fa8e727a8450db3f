//! A thousand services of a hundred backends.

use std::{fmt::Write as _, net::Ipv4Addr, thread, time::Instant};

use anyhow::{Context as _, Result};
use director_userspace::{
    control::director::{Director, HostChanges, Scope, Waits},
    kernel::net::Netlink,
    policy::config::{self, Config},
};

use super::{
    COLD_AT_MOST, Size, TIMEOUT, WEIGHT_AT_MOST, record,
    site::{Site, small},
};
use crate::{measurement::Spread, session::Session};

/// A weight that gets nearly all new flows beside a hundred weights of 1.
const HEAVY: u16 = 65_535;

/// Applies the large configuration to a director that runs with a small one, and changes weights in
/// it.
pub(super) fn run(session: &mut Session, site: &Site, size: Size) -> Result<()> {
    cold(session, site, size)?;
    through_the_daemon(session, site, size)?;
    in_the_director(session, site, size)?;
    site.detach();
    Ok(())
}

/// Repeats of measurements that take seconds.
fn repeats(session: &Session) -> u32 {
    session.repeats.clamp(1, 5)
}

fn cold(session: &mut Session, site: &Site, size: Size) -> Result<()> {
    session.progress(&format!("{} services of {} backends, cold", size.services, size.backends));
    let large = yaml(size);
    let mut samples = Vec::new();
    for _ in 0..repeats(session) {
        site.write(&small(false))?;
        let daemon = site.start()?;
        // Services are applied in the file's order.
        let probe = site.probe(vip(size.services - 1), None)?;
        let began = site.replace(&large)?;
        samples.push(probe.first(began, TIMEOUT)?);
        daemon.stop()?;
        site.detach();
    }
    record(session, "cold-apply", "daemon, from one small service", size, &samples);
    if !session.quick {
        let what = "1,000 services of 100 backends are applied within 1 s";
        session.check(what, Spread::of(&samples).median <= COLD_AT_MOST);
    }
    Ok(())
}

/// A weight in the large file: mostly the time to read it.
fn through_the_daemon(session: &mut Session, site: &Site, size: Size) -> Result<()> {
    session.progress("a weight in the large file");
    let light = yaml(size);
    let line = |weight: u16| format!("{{address: {}, weight: {weight}}}", backend(0, 0));
    let heavy = light.replacen(&line(0), &line(HEAVY), 1);
    site.write(&light)?;
    let daemon = site.start()?;
    let mut samples = Vec::new();
    for _ in 0..repeats(session) {
        let probe = site.probe(vip(0), Some(backend(0, 0)))?;
        let began = site.replace(&heavy)?;
        samples.push(probe.first(began, TIMEOUT)?);
        // Restores the weight before the next round: until then, hardly a flow goes to another
        // backend.
        let probe = site.probe(vip(0), Some(backend(0, 1)))?;
        let began = site.replace(&light)?;
        probe.first(began, TIMEOUT)?;
    }
    daemon.stop()?;
    record(session, "weight-change", "daemon, large file", size, &samples);
    Ok(())
}

/// A weight in a director that has the large configuration, from the changed model on.
fn in_the_director(session: &mut Session, site: &Site, size: Size) -> Result<()> {
    session.progress("a weight in a director of that size, without a file");
    let config = parsed(&yaml(size))?;
    let rounds = 2 * session.repeats;
    let samples = thread::scope(|scope| {
        scope
            .spawn(|| {
                site.enter()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(change_weights(site, config, rounds))
            })
            .join()
            .map_err(|_| anyhow::anyhow!("the director's thread ended early"))?
    })?;
    record(session, "weight-change", "in the director, from the model on", size, &samples);
    if !session.quick {
        let what = "a weight in a director of 100,000 backends is applied within 10 ms";
        session.check(what, Spread::of(&samples).median <= WEIGHT_AT_MOST);
    }
    Ok(())
}

async fn change_weights(site: &Site, mut config: Config, rounds: u32) -> Result<Vec<f64>> {
    let netlink = Netlink::connect()?;
    let host = HostChanges::default();
    let started = Director::start(netlink, site.instance(), &config, host, Waits::No).await;
    let (mut director, _) = started?;
    let mut samples = Vec::new();
    for round in 0..rounds {
        // In another service each time.
        let at = round % u32::try_from(config.services.len() - 1)?;
        let service = &mut config.services[at as usize + 1];
        service.backends[0].weight = HEAVY;
        let probe = site.probe(vip(at), Some(backend(at, 0)))?;
        let began = Instant::now();
        director.change(&config, Scope::All).await?;
        samples.push(probe.first(began, TIMEOUT)?);
    }
    Ok(samples)
}

fn parsed(yaml: &str) -> Result<Config> {
    Ok(config::parse("the large configuration", yaml).context("the benchmark's own file")?.config)
}

/// The VIP of a service.
fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + service)
}

/// A backend of a service; all addresses are routed.
fn backend(service: u32, backend: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + service * 1000 + backend)
}

/// The small configuration's service, and many, each with a first backend of weight 0.
fn yaml(size: Size) -> String {
    let mut yaml = small(false);
    for service in 0..size.services {
        let _ = write!(
            yaml,
            "\n  - name: s{service}\n    address: {}\n    protocol: udp\n    port: any\n    forward: \
             tunnel\n    backends:\n",
            vip(service)
        );
        for n in 0..size.backends {
            let (address, weight) = (backend(service, n), u32::from(n > 0));
            let _ = writeln!(yaml, "      - {{address: {address}, weight: {weight}}}");
        }
    }
    yaml
}
