//! The cost of forwarding a packet beside the kernel's own balancers, in instructions: stock Debian
//! kernels in QEMU, whose guest time counts instructions, so that figures are reproducible and
//! comparable.
//!
//! In one boot: an XDP program that drops every packet (the cost of generating and receiving, the
//! floor that all others are net of), one that sends it back, IPVS, nftables and Director. Packets
//! are 64-byte UDP (78 bytes over IPv6) from pktgen, with the same settings for all; those that
//! come back are dropped by XDP on the generator's device, and counted: a forwarder that loses
//! packets, or whose packets have another length than its mode implies, has no figure. Known flows
//! are 64 in turn; each packet of new flows has another source, counted up. See [`row::Workload`].
//!
//! IPVS runs its Maglev scheduler over addresses and ports, as Director does, and has 2^20 hash
//! buckets; nftables picks a backend by a hash of source address and port. None of them resolves
//! neighbours, or checks what a router need not check. Each starts in a new namespace.

mod guest;
mod machine;
mod row;
mod table;

use std::{fs, path::PathBuf, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use xtask::vm::{Kernel, KernelVersion, Packages};

use self::row::{N_BACKENDS, Row, Wire};
use crate::{
    measurement::{Part, Spread},
    session::Session,
};

/// Maximum excess of the median of a floor's repeats over their minimum, as a fraction. A few
/// tenths of a percent are usual: from ticks during a run, and from where a batch ends. Once in a
/// hundred runs the kernel does other work meanwhile, so the maximum is not significant; and of the
/// forwarders, IPVS since Linux 7 enlarges its table while it is measured.
const MAX_SPREAD: f64 = 0.02;
/// Maximum cost of Director's forwarding, net of the floor, relative to IPVS in the same mode.
const MAX_OF_IPVS: [(Wire, f64); 2] = [(Wire::VirtioNet, 0.30), (Wire::Veth, 0.45)];

pub(crate) use self::guest::Args as GuestArgs;

/// Runs inside a machine: see [`guest`].
pub(crate) fn inside(args: &GuestArgs) -> Result<ExitCode> {
    guest::run(args)
}

/// Arguments of `bench vm`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only this kernel's series (6.1, 6.12, newest); may be repeated
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<KernelVersion>,
}

/// Measures on every available kernel.
pub(crate) fn run(session: &mut Session, args: &Args) -> Result<()> {
    let kernels: &[KernelVersion] = match (&args.kernels[..], session.quick) {
        ([], true) => &[KernelVersion::V6_1],
        ([], false) => &[KernelVersion::V6_1, KernelVersion::V6_12, KernelVersion::Newest],
        (named, _) => named,
    };
    let peers = match Packages::fetch("peers", &["ipvsadm", "nftables"]) {
        Ok(peers) => Some(peers),
        Err(error) => {
            session.skip(format!("IPVS and nftables in virtual machines: {error:#}"));
            None
        }
    };
    let programs = match Programs::slim() {
        Ok(programs) => programs,
        Err(error) => {
            session.skip(format!("virtual machines: {error:#}"));
            return Ok(());
        }
    };
    for &version in kernels {
        if let Err(error) = Kernel::fetch(version) {
            session.skip(format!("Linux {version} in a virtual machine: {error:#}"));
            continue;
        }
        match machine::run(session, version, &programs, peers.as_ref()) {
            Ok(rows) => record(session, &rows),
            Err(error) => session.skip(format!("Linux {version} in a virtual machine: {error:#}")),
        }
    }
    println!("{}", table::of(session.results()));
    check_figures(session);
    Ok(())
}

/// Records rows of one boot, net of their floors.
fn record(session: &mut Session, rows: &[Row]) {
    for row in rows {
        let floor = rows.iter().find(|floor| {
            floor.program == "floor-drop"
                && (floor.wire, &floor.family, &floor.workload)
                    == (row.wire, &row.family, &row.workload)
        });
        let mut measurement =
            session.blank(Part::Vm, &row.program, "instructions/packet", &row.samples);
        measurement.net = floor.map(|floor| measurement.median - Spread::of(&floor.samples).median);
        measurement.mode.clone_from(&row.mode);
        measurement.family.clone_from(&row.family);
        measurement.workload.clone_from(&row.workload);
        row.wire.name().clone_into(&mut measurement.wire);
        measurement.flows = row.flows;
        measurement.size = row.size;
        measurement.services = 1;
        measurement.backends = N_BACKENDS as u32;
        measurement.kernel.clone_from(&row.kernel);
        "QEMU, TCG".clone_into(&mut measurement.cpu);
        "off".clone_into(&mut measurement.mitigations);
        session.record(measurement);
    }
}

/// Checks the figures against their limits, and the spread of the floors.
fn check_figures(session: &mut Session) {
    let results = session.results().iter().filter(|m| m.part == Part::Vm).collect::<Vec<_>>();
    if results.is_empty() {
        return;
    }
    let floors = results.iter().filter(|m| m.program.starts_with("floor"));
    let spread = floors.map(|m| (m.median - m.min) / m.median).fold(0.0, f64::max);
    let [most, found] = [MAX_SPREAD, spread].map(|part| part * 100.0);
    let what = format!("floors of virtual machines repeat within {most:.0} %: {found:.1} %");
    let mut checks = vec![(what, spread <= MAX_SPREAD)];
    for (wire, most) in MAX_OF_IPVS {
        let here = results.iter().filter(|m| m.wire == wire.name());
        let ratios = here.filter_map(|m| table::of_ipvs(m, &results)).collect::<Vec<f64>>();
        if let Some(worst) = ratios.iter().copied().max_by(f64::total_cmp) {
            let what = format!(
                "over {} Director costs at most {most:.2} of IPVS: {worst:.2}",
                wire.name()
            );
            checks.push((what, worst <= most));
        }
    }
    for (what, holds) in checks {
        session.check(&what, holds);
    }
}

/// The benchmark program and Director, without debug information, which is most of their size.
/// Removed when dropped.
struct Programs {
    dir: PathBuf,
}

impl Programs {
    fn slim() -> Result<Self> {
        let bench = std::env::current_exe().context("cannot find this program")?;
        let director = bench.with_file_name("director");
        if !director.is_file() {
            bail!("no {}: run `cargo xtask bench`, which builds it", director.display());
        }
        let dir = std::env::temp_dir().join(format!("director-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let programs = Self { dir };
        for (from, to) in [(&bench, programs.bench()), (&director, programs.director())] {
            // `strip` is installed with the linker that built the program.
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o").arg(to).arg(from);
            let status = strip.status().context("cannot run strip, of binutils")?;
            if !status.success() {
                bail!("cannot strip {}: {status}", from.display());
            }
        }
        Ok(programs)
    }

    fn bench(&self) -> PathBuf {
        self.dir.join("director-bench")
    }

    fn director(&self) -> PathBuf {
        self.dir.join("director")
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
