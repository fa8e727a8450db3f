//! `cargo xtask test`: all tests, with one summary line for all test binaries.

mod tally;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use tally::Tally;

use crate::{
    setup::{self, Need},
    sh,
};

/// The crate whose tests need root.
const ROOT_CRATE: &str = "director-tests";
/// The crate that only compiles for the BPF target.
const BPF_CRATE: &str = "director-ebpf";
/// Builds of the program that some tests run: what upgrade tests replace it by, and the one whose
/// slow path logs. Each with its feature.
const OTHER_BUILDS: [(&str, &str); 2] =
    [("next", "director-next"), ("verbose", "director-verbose")];
const BPFFS: &str = "/sys/fs/bpf";

/// Runs the tests whose name contains `filter`, of one package or of all.
///
/// # Errors
///
/// Something needed is missing, a build or a test fails, or no test ran at all.
pub fn verb(filter: Option<&str>, package: Option<&str>) -> Result<()> {
    setup::ensure(&[Need::Build, Need::Test, Need::Vm], false)?;
    let with_root_crate = package.is_none_or(|name| name == ROOT_CRATE);
    if with_root_crate {
        mount_bpffs()?;
    }

    let mut tally = Tally::default();
    let mut built = true;
    if package == Some(ROOT_CRATE) {
        // Its tests run the program, which belongs to another package and might be outdated.
        sh::run(sh::cargo().args(["build", "--package", "director-userspace"]))?;
    }
    if package != Some(ROOT_CRATE) {
        let mut cargo = sh::cargo();
        cargo.args(["test", "--no-fail-fast"]);
        match package {
            Some(name) => cargo.args(["--package", name]),
            None => cargo.args(["--workspace", "--exclude", ROOT_CRATE, "--exclude", BPF_CRATE]),
        };
        built &= run(&mut cargo, filter, &mut tally)?;
    }
    if with_root_crate {
        for (feature, program) in OTHER_BUILDS {
            let mut build = sh::cargo();
            build.args(["build", "--package", "director-userspace", "--features", feature]);
            sh::run(build.args(["--bin", program]))?;
        }
        let mut cargo = sh::cargo();
        cargo.args(["test", "--no-fail-fast", "--package", ROOT_CRATE]);
        if !sh::is_root() {
            // Builds as this user, runs the test binaries as root.
            cargo.args(["--config", r#"target."cfg(all())".runner = ["sudo", "-E"]"#]);
        }
        built &= run(&mut cargo, filter, &mut tally)?;
    }

    println!();
    for name in &tally.failures {
        println!("failed: {name}");
    }
    let error = if !built && tally.failed == 0 {
        Some("cargo test failed without a failed test: see above")
    } else if tally.is_empty() {
        Some("no test ran")
    } else if tally.failed > 0 {
        Some("some tests failed")
    } else {
        None
    };
    println!("{tally}");
    match error {
        Some(text) => bail!("{text}"),
        None => Ok(()),
    }
}

/// Runs one `cargo test`, showing what it prints and counting; returns whether it succeeded.
fn run(cargo: &mut Command, filter: Option<&str>, tally: &mut Tally) -> Result<bool> {
    cargo.args(filter).stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot run {}", sh::show(cargo)))?;
    let stdout = child.stdout.take().context("cargo's output is not piped")?;
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).context("cannot read cargo's output")? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        tally.add(text.trim_end());
        line.clear();
    }
    Ok(child.wait().context("cannot wait for cargo")?.success())
}

/// Programs and maps are pinned in bpffs; some systems do not mount it.
fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let mounted = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some(BPFFS), Some("bpf"))
    });
    if mounted || !Path::new(BPFFS).exists() {
        return Ok(());
    }
    sh::run(sh::as_root("mount")?.args(["-t", "bpf", "bpf", BPFFS]))
}
