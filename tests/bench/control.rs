//! The cost of changes: building rings, applying a large configuration to a running director, and
//! one backend's weight until the first packet that follows it.
//!
//! Rings are built in this process. All else is a director in a network namespace, connected by a
//! veth pair to another one that sends packets for its services, each of a new flow, and receives
//! them as forwarded: the file is renamed into place, and the clock stops at the first packet that
//! is forwarded by the new configuration.

mod large;
mod rings;
mod site;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use self::site::{SMALL_VIP, Site, small};
use crate::{
    measurement::{Part, Spread},
    session::Session,
};

/// Maximum time to build a ring over 1,000 backends, ms.
const RING_AT_MOST: f64 = 2.0;
/// Maximum time to apply a thousand services of a hundred backends, ms.
const COLD_AT_MOST: f64 = 1000.0;
/// Maximum time to apply a weight, ms.
const WEIGHT_AT_MOST: f64 = 10.0;
/// How long any change may take before it counts as lost.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Services and backends of each in the large configuration.
#[derive(Clone, Copy)]
struct Size {
    services: u32,
    backends: u32,
}

/// Runs the part.
///
/// # Errors
///
/// If a director does not apply a change.
pub(crate) fn run(session: &mut Session) -> Result<()> {
    rings::run(session);
    if !nix::unistd::geteuid().is_root() {
        session.skip("changes of a running director: network namespaces need root");
        return Ok(());
    }
    let program = program()?;
    if !program.exists() {
        session.skip(format!(
            "changes of a running director: no {} (`cargo build --release -p director-userspace`)",
            program.display()
        ));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let site = runtime.block_on(Site::new(&program))?;
    weights(session, &site)?;
    let size = if session.quick {
        Size { services: 100, backends: 100 }
    } else {
        Size { services: 1000, backends: 100 }
    };
    large::run(session, &site, size)
}

/// `director`, beside this program.
fn program() -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot find this program")?;
    Ok(here.with_file_name("director"))
}

/// A weight in a small file, through the daemon.
fn weights(session: &mut Session, site: &Site) -> Result<()> {
    session.progress("a weight in a file of one service");
    site.write(&small(false))?;
    let daemon = site.start()?;
    let mut samples = Vec::new();
    let mut heavy = false;
    for _ in 0..2 * session.repeats {
        heavy = !heavy;
        let probe = site.probe(SMALL_VIP, Some(site::selected(heavy)))?;
        let began = site.replace(&small(heavy))?;
        samples.push(probe.first(began, TIMEOUT)?);
    }
    daemon.stop()?;
    site.detach();
    record(
        session,
        "weight-change",
        "daemon, small file",
        Size { services: 1, backends: 2 },
        &samples,
    );
    if !session.quick {
        let what = "a weight in a small file is applied within 10 ms";
        session.check(what, Spread::of(&samples).median <= WEIGHT_AT_MOST);
    }
    Ok(())
}

/// Records samples in ms, and prints them.
fn record(session: &mut Session, mode: &str, workload: &str, size: Size, samples: &[f64]) {
    let mut result = session.blank(Part::Control, "director", "ms", samples);
    result.mode = mode.to_owned();
    result.workload = workload.to_owned();
    result.services = size.services;
    result.backends = size.backends;
    session.progress(&format!(
        "{mode}, {workload}: {:.2} ms ({:.2} to {:.2})",
        result.median, result.min, result.max
    ));
    session.record(result);
}
