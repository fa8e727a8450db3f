//! `cargo xtask demo`: real clients reach real web servers through a director, and a backend is
//! removed meanwhile.
//!
//! `lab` builds the network and starts its processes, `load` is its clients, `screen` shows them,
//! `verdict` evaluates the results.

mod counters;
mod interrupt;
mod lab;
mod load;
mod scene;
mod screen;
mod servers;
mod show;
mod tally;
mod verdict;

use std::{
    env,
    io::{self, IsTerminal as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use counters::Counters;
use interrupt::{Interrupt, Interrupted};
use lab::Lab;
use load::{Load, Transfer};
use scene::{REMOVED, Service};
use screen::thousands;
use show::Show;
use tally::Phase;
use verdict::{AFTER_REQUESTS, Check, STEADY_REQUESTS};

use crate::{
    build,
    progress::Progress,
    setup::{self, Need},
    sh,
};

/// How long requests run before the removal and after it, if enough of them are answered.
const STEADY_TIME: Duration = Duration::from_secs(4);
const AFTER_TIME: Duration = Duration::from_secs(3);
/// How long the director may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Builds `director` unless it is `built`, and runs the demo. `yes`: installs what is missing
/// without asking.
///
/// # Errors
///
/// Something cannot be built or started. A failed check is no error: then the exit code is 1. After
/// a signal it is 128 and the signal's number.
pub fn verb(yes: bool, built: Option<PathBuf>) -> Result<ExitCode> {
    let binary = match built {
        Some(binary) => binary,
        None => {
            setup::ensure(&[Need::Build, Need::Demo], yes)?;
            build::unoptimised()?
        }
    };
    if !sh::is_root() {
        return become_root(&binary);
    }
    let interrupt = Interrupt::catch()?;
    match perform(binary, &interrupt) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) => match error.downcast::<Interrupted>() {
            Ok(interrupted) => {
                eprintln!("interrupted; nothing is left behind");
                Ok(ExitCode::from(interrupted.exit_status()))
            }
            Err(error) => Err(error),
        },
    }
}

/// Continues as root. The build ran as this user, who owns its files.
fn become_root(binary: &Path) -> Result<ExitCode> {
    let xtask = env::current_exe().context("cannot find this program")?;
    let mut command = sh::as_root(xtask)?;
    eprintln!("network namespaces and XDP need root: continuing through sudo");
    // Returns only if it fails.
    let error = command.args(["demo", "--built"]).arg(binary).exec();
    Err(error).context("cannot run sudo")
}

/// Runs the demo, from the lab to the summary, and returns whether all checks passed.
fn perform(binary: PathBuf, interrupt: &Interrupt) -> Result<bool> {
    let started = Instant::now();
    let services = scene::services();
    let what = format!(
        "a lab: {} clients, a director, {} web servers",
        load::CLIENTS,
        scene::nodes().count()
    );
    let progress = Progress::start(&what);
    let mut lab = Lab::build(binary, &services)?;
    progress.done();
    let played = play(&mut lab, &services, interrupt);
    let left = lab.remove().unwrap_or_else(|error| vec![format!("{error:#}")]).join(", ");
    let mut checks = match played {
        Ok(checks) => checks,
        Err(error) if left.is_empty() => return Err(error),
        Err(error) => bail!("{error:#}; left behind: {left}"),
    };
    let text = if left.is_empty() { "no namespace, no pin, no process" } else { &left };
    checks.push(Check::new(left.is_empty(), format!("left behind: {text}")));

    let passed = checks.iter().all(|check| check.passed);
    let rows = checks.iter().map(|check| format!("  {}  {}\n", mark(check.passed), check.what));
    let summary = if passed { "all checks passed" } else { "a check failed" };
    let seconds = started.elapsed().as_secs_f64();
    screen::print_line(&format!("\n{}\n{summary} in {seconds:.1} s", rows.collect::<String>()));
    Ok(passed)
}

fn mark(passed: bool) -> &'static str {
    let colours = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
    match (passed, colours) {
        (true, true) => "\x1b[32mPASS\x1b[0m",
        (true, false) => "PASS",
        (false, true) => "\x1b[31mFAIL\x1b[0m",
        (false, false) => "FAIL",
    }
}

/// Requests with all backends, then the removal of one, then requests without it.
fn play(lab: &mut Lab, services: &[Service], interrupt: &Interrupt) -> Result<Vec<Check>> {
    interrupt.check()?;
    let progress = Progress::start("director: its XDP program is attached and forwards");
    lab.run_director()?;
    wait_for_answers(lab, services, interrupt)?;
    progress.done();

    let load = Load::start(lab.name(), services)?;
    let mut show = Show::new(lab, &load, services, interrupt);
    let title = format!("{} clients send requests, each from another port", load::CLIENTS);
    show.begin(Phase::Steady, title)?;
    show.run(|now| now.elapsed >= STEADY_TIME && now.answered >= STEADY_REQUESTS)?;

    // Downloads that are in progress when their backend is removed.
    for service in 0..services.len() {
        show.follow(Transfer::through(show.lab.name(), services, service, REMOVED)?);
    }
    show.keep()?;
    load.set_phase(Phase::Changing);
    let deleted = scene::deleted_lines(services, REMOVED).join("\n-");
    screen::print_line(&format!("\nMeanwhile {REMOVED} is deleted from the YAML:\n-{deleted}"));
    let changed_at = Instant::now();
    show.lab.configure(services, Some(REMOVED))?;
    show.wait_for_removal()?;
    load.set_phase(Phase::After);
    screen::print_line(&format!("In effect after {:.1} s.", changed_at.elapsed().as_secs_f64()));
    show.begin(Phase::After, format!("Since then, without {REMOVED}"))?;
    show.run(|now| {
        now.elapsed >= AFTER_TIME && now.answered >= AFTER_REQUESTS && now.transfers_are_over
    })?;
    show.keep()?;

    let transfers = show.end();
    let tally = load.finish();
    let counters = Counters::read(&lab.query("stats")?, services)?;
    let mut checks = verdict::requests(services, &tally, &counters);
    checks.extend(transfers.into_iter().map(|transfer| check_transfer(transfer, services)));
    Ok(checks)
}

/// Whether a download through the removed backend was completed.
fn check_transfer(mut transfer: Transfer, services: &[Service]) -> Check {
    let service = services[transfer.service].name;
    match transfer.outcome() {
        Ok(()) => {
            let kib = thousands(servers::large_file_len() / 1024);
            let text =
                format!("{service}: the download through {REMOVED} was completed, {kib} KiB");
            Check::new(true, text)
        }
        Err(error) => {
            let text = format!("{service}: the download through {REMOVED} failed: {error:#}");
            Check::new(false, text)
        }
    }
}

/// Waits until both services answer.
fn wait_for_answers(lab: &mut Lab, services: &[Service], interrupt: &Interrupt) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    for service in services {
        while !load::is_answered(lab.name(), service)? {
            lab.check()?;
            ensure!(
                Instant::now() < deadline,
                "{} does not answer within {} s; the director's log:\n{}",
                service.url("/"),
                START_TIMEOUT.as_secs(),
                lab.log()
            );
            interrupt.sleep(Duration::from_millis(20))?;
        }
    }
    Ok(())
}
