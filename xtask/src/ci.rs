//! `cargo xtask ci`: the checks that a change must pass.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    progress::Progress,
    setup::{self, Need},
    sh, workspace,
};

/// How long the download of the advisory database may take.
const ADVISORIES_TIMEOUT: Duration = Duration::from_secs(60);

/// Formatting, lints, dependencies, `cargo xtask demo`, and then `cargo xtask test`.
///
/// # Errors
///
/// The first step that fails.
pub fn verb() -> Result<()> {
    let started = Instant::now();
    setup::ensure(&[Need::Build, Need::Lint, Need::Test, Need::Vm], false)?;
    format(true)?;
    lint()?;
    dependencies()?;
    // Separate processes, as a developer runs them.
    let xtask = env::current_exe().context("cannot find this program")?;
    for verb in ["demo", "test"] {
        step(verb);
        sh::run(Command::new(&xtask).arg(verb).current_dir(workspace::root()))?;
    }
    eprintln!("ci passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Formats every crate, or only checks.
///
/// # Errors
///
/// A file is not formatted, or rustfmt is missing.
pub fn format(check: bool) -> Result<()> {
    step("format");
    let mut cargo = sh::cargo();
    cargo.args(["fmt", "--all"]);
    if check {
        cargo.args(["--", "--check"]);
    }
    sh::run(&mut cargo).context("`cargo xtask fmt` formats; rustfmt is a component of rustup")
}

/// Clippy on the host's crates and on the XDP programs, warnings denied.
///
/// # Errors
///
/// There is a warning, or clippy is missing.
pub fn lint() -> Result<()> {
    setup::ensure(&[Need::Build, Need::Lint], false)?;
    step("clippy, host");
    let workspace = ["--workspace", "--exclude", "director-ebpf", "--all-targets"];
    sh::run(sh::cargo().arg("clippy").args(workspace).args(["--", "-Dwarnings"]))?;

    step("clippy, XDP programs");
    let bpf = setup::bpf()?;
    let clippy = bpf.toolchain.cargo.with_file_name("cargo-clippy");
    if !clippy.is_file() {
        // Without clippy the compiler's own warnings still count.
        let mut build = bpf.build(&workspace::root());
        build.args(["-Zwarnings", "--config", r#"build.warnings="deny""#]);
        return sh::run(&mut build);
    }
    let mut command = Command::new(clippy);
    command.arg("clippy");
    bpf.prepare(&mut command, &workspace::root());
    sh::run(command.env("CARGO", &bpf.toolchain.cargo).args(["--", "-Dwarnings"]))
}

/// Licences, sources, duplicates and known vulnerabilities of what the crates depend on.
fn dependencies() -> Result<()> {
    step("dependencies");
    let deny = cargo_deny()?;
    let mut check = Command::new(&deny);
    sh::run(check.current_dir(workspace::root()).args([
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))?;

    if fetch_advisories(&deny)? {
        let mut check = Command::new(&deny);
        check.current_dir(workspace::root()).args(["check", "--disable-fetch", "advisories"]);
        sh::run(&mut check)
    } else {
        eprintln!("SKIPPED: advisories, as their database cannot be fetched from here");
        Ok(())
    }
}

/// Finds cargo-deny or builds it into the project's own tools.
fn cargo_deny() -> Result<PathBuf> {
    let own = workspace::tools().join("bin/cargo-deny");
    if own.is_file() {
        return Ok(own);
    }
    if let Some(installed) = sh::find("cargo-deny") {
        return Ok(installed);
    }
    let mut cargo = sh::cargo();
    cargo
        .env("CARGO_TARGET_DIR", workspace::tools().join("build"))
        // Unoptimised: it runs for a second and takes minutes to optimise.
        .args(["install", "cargo-deny", "--locked", "--debug", "--root"])
        .arg(workspace::tools());
    sh::run_quietly("building cargo-deny", &mut cargo)?;
    Ok(own)
}

/// Downloads the advisory database and returns whether that succeeded.
fn fetch_advisories(deny: &Path) -> Result<bool> {
    let progress = Progress::start("fetching the advisory database");
    let mut fetch = Command::new(deny);
    fetch
        .current_dir(workspace::root())
        .args(["fetch", "db"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = fetch.spawn().with_context(|| format!("cannot run {}", sh::show(&fetch)))?;
    let deadline = Instant::now() + ADVISORIES_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().context("cannot wait for cargo-deny")? {
            drop(progress);
            return Ok(status.success());
        }
        thread::sleep(Duration::from_millis(100));
    }
    child.kill().context("cannot stop cargo-deny")?;
    child.wait().context("cannot wait for cargo-deny")?;
    drop(progress);
    Ok(false)
}

fn step(name: &str) {
    eprintln!("\n== {name}");
}
