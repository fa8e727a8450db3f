//! `cargo xtask fuzz`: runs the fuzz targets of `tests/src/fuzz` under libFuzzer, guided by coverage.
//!
//! Any stable compiler does: LLVM's coverage instrumentation needs no unstable flag, and memory
//! safety is the language's, so there is no sanitizer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Need},
    sh, workspace,
};

/// Coverage of edges, and the operands of comparisons, for libFuzzer.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                         -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                         -Cllvm-args=-sanitizer-coverage-pc-table \
                         -Cllvm-args=-sanitizer-coverage-trace-compares";
/// The target that loads the XDP program.
const ROOT_TARGET: &str = "packet";
/// Limits of one input, seconds of a machine that may be busy, and of the process, MiB.
const LIMITS: [&str; 2] = ["-timeout=25", "-rss_limit_mb=2048"];

/// Runs one target, or all, each for this time. With `keep`, inputs that reach code which the corpus
/// does not are added to it.
///
/// # Errors
///
/// Something needed is missing, the build fails, there is no such target, or an input broke a
/// promise; its file is named.
pub fn verb(target: Option<&str>, seconds: u32, keep: bool) -> Result<()> {
    setup::ensure(&[Need::Build], false)?;
    let corpora = workspace::root().join("tests/fuzz/corpus");
    let mut targets = names(&corpora)?;
    if let Some(wanted) = target {
        if !targets.iter().any(|name| name == wanted) {
            bail!("no target {wanted}; there are: {}", targets.join(", "));
        }
        targets = vec![wanted.to_owned()];
    }
    let binary = build()?;
    let mut broken = Vec::new();
    for name in &targets {
        let found = workspace::root().join("target/fuzz/corpus").join(name);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        let corpus = corpora.join(name);
        let mut run = command(&binary, name)?;
        run.arg(format!("-max_total_time={seconds}")).args([&found, &corpus]);
        if sh::run(&mut run).is_err() {
            broken.push(name.as_str());
        }
        if keep {
            // Without counts of how often code runs, which would keep ten times as many inputs.
            let smallest = ["-set_cover_merge=1", "-use_counters=0"];
            sh::run(command(&binary, name)?.args(smallest).args([&corpus, &found]))?;
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{}: see above for the file in target/fuzz of the input", broken.join(", "))
}

/// The names of the corpora, which are those of the targets.
fn names(corpora: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(corpora).with_context(|| format!("cannot list {}", corpora.display()))?;
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Builds all targets into one instrumented program.
fn build() -> Result<PathBuf> {
    if sh::find("c++").is_none() {
        bail!("libFuzzer is C++, and there is no compiler for it: apt-get install g++");
    }
    let version = sh::read(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV does not name its host")?;
    let directory = workspace::root().join("target/fuzz");
    // For a named target the flags are not those of build scripts.
    let mut cargo = sh::cargo();
    cargo.env("RUSTFLAGS", RUSTFLAGS).args(["build", "--profile", "fuzz", "--target", host]);
    cargo.args(["--package", "director-tests", "--features", "guided", "--bin", "director-fuzz"]);
    sh::run(cargo.arg("--target-dir").arg(&directory))?;
    Ok(directory.join(host).join("fuzz/director-fuzz"))
}

/// libFuzzer with a target and its limits; crashes become files in `target/fuzz`.
fn command(binary: &Path, target: &str) -> Result<Command> {
    let env = "env";
    let mut command = if target == ROOT_TARGET { sh::as_root(env)? } else { Command::new(env) };
    let prefix = workspace::root().join("target/fuzz").join(target);
    command.arg(format!("DIRECTOR_FUZZ_TARGET={target}")).arg(binary).args(LIMITS);
    command.arg(format!("-artifact_prefix={}-", prefix.display()));
    Ok(command)
}
