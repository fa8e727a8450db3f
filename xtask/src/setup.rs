//! `cargo xtask setup`: finds a toolchain for eBPF and installs what a verb needs.
//!
//! `facts` inspects the machine, `plan` decides what to do, `ensure` does it.

mod plan;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use plan::{Apt, Facts, LINKER_LLVM, Linker, Plan};

pub use plan::Need;

use crate::{
    bpf_toolchain::{self, Choice},
    sh,
    vm::{self, KernelVersion},
    workspace,
};

/// The version of bpf-linker that this code was tested with.
const LINKER_VERSION: &str = "0.13.0";

/// Makes `needs` available, asking before anything is installed unless `yes`, CI, or no terminal.
///
/// # Errors
///
/// The user declined, an installation failed, or this program has no method for it; the message
/// then lists what to install manually.
pub fn ensure(needs: &[Need], yes: bool) -> Result<()> {
    install_missing(needs, yes)?;
    if needs.contains(&Need::Vm) {
        vm::prepare(KernelVersion::V6_1)?;
    }
    Ok(())
}

fn install_missing(needs: &[Need], yes: bool) -> Result<()> {
    let mut plan = plan::plan(needs, &facts(needs, false)?);
    if plan.is_done() {
        return Ok(());
    }
    if plan.manual.is_some() && sh::find("apt-get").is_some() {
        // A fresh machine often has apt without package lists. If they cannot be fetched, the
        // advice below applies.
        let _ = refresh_lists();
        plan = plan::plan(needs, &facts(needs, true)?);
    }
    if let Some(advice) = &plan.manual {
        bail!("{advice}");
    }
    consent(&plan, yes)?;
    if !plan.packages.is_empty() {
        refresh_lists()?;
        install(&plan.packages)?;
    }
    if let Some(linker) = &plan.linker {
        build_linker(linker)?;
    }

    let after = plan::plan(needs, &facts(needs, true)?);
    if !after.is_done() {
        bail!("still missing after the installation: {after}");
    }
    Ok(())
}

/// The compiler and linker for `director-ebpf`.
///
/// # Errors
///
/// There is none.
pub(crate) fn bpf() -> Result<Choice> {
    let found = bpf_toolchain::choose(&bpf_toolchain::probe(&workspace::root()));
    found.map_err(|missing| anyhow::anyhow!("{missing}; {}", bpf_toolchain::HINT))
}

/// Finds out what `needs` depend on. apt is queried only if something is missing, as that takes
/// time; `query_apt` queries it in any case.
fn facts(needs: &[Need], query_apt: bool) -> Result<Facts> {
    let bpf = bpf_toolchain::probe(&workspace::root());
    let commands: BTreeSet<&'static str> = plan::tools(needs)
        .map(|tool| tool.command)
        .filter(|name| sh::find(name).is_some())
        .collect();
    let system_clippy = Path::new("/usr/bin/cargo-clippy").exists();
    let llvm_prefixes = llvm_prefixes();
    let mut facts = Facts { bpf, commands, llvm_prefixes, apt: None, system_clippy };
    let incomplete = !plan::plan(needs, &facts).is_done() || plan::wants_clippy(needs, &facts);
    if sh::find("apt-cache").is_some() && (query_apt || incomplete) {
        facts.apt = Some(apt_facts(needs)?);
    }
    Ok(facts)
}

/// The LLVM versions whose development files are installed.
fn llvm_prefixes() -> BTreeSet<u32> {
    LINKER_LLVM.filter(|llvm| llvm_prefix(*llvm).join("bin/llvm-config").exists()).collect()
}

fn llvm_prefix(llvm: u32) -> PathBuf {
    Path::new("/usr/lib").join(format!("llvm-{llvm}"))
}

/// Which packages apt can install, and which LLVM its compiler has.
fn apt_facts(needs: &[Need]) -> Result<Apt> {
    let mut names: Vec<String> = plan::DEBIAN_PAIR.map(str::to_owned).to_vec();
    names.push(plan::DEBIAN_CLIPPY.to_owned());
    names.extend(LINKER_LLVM.flat_map(plan::llvm_packages));
    names.extend(plan::tools(needs).map(|tool| tool.package.to_owned()));
    let policy = sh::read(Command::new("apt-cache").arg("policy").args(&names))?;
    let (available, installed) = plan::read_policy(&policy);
    let mut rustc_llvm = None;
    if available.contains("rustc-web") {
        let args = ["depends", "--recurse", "--important", "--no-suggests", "rustc-web"];
        rustc_llvm = plan::llvm_of(&sh::read(Command::new("apt-cache").args(args))?);
    }
    Ok(Apt { available, installed, rustc_llvm })
}

/// Shows the plan and asks for consent.
fn consent(plan: &Plan, yes: bool) -> Result<()> {
    eprintln!("Missing, and about to be installed:\n{plan}");
    let interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
    if yes || env::var_os("CI").is_some() || !interactive {
        return Ok(());
    }
    eprint!("Continue? [Y/n] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "" | "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was installed"),
    }
}

fn refresh_lists() -> Result<()> {
    let mut update = sh::as_root("apt-get")?;
    sh::run_quietly("refreshing apt's package lists", update.args(["update", "-q"]))
}

/// Installs packages. Debian starts a service when it is installed: a policy forbids it meanwhile,
/// and nginx, which only ever runs with the project's own configuration, is not left enabled.
fn install(packages: &[String]) -> Result<()> {
    // Exit status 101 of policy-rc.d means "forbidden by policy".
    const SCRIPT: &str = r#"
        set -e
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT INT TERM
            printf '#!/bin/sh\nexit 101\n' > "$policy"
            chmod 755 "$policy"
        fi
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -q -y --no-install-recommends --no-remove "$@"
        for package in "$@"; do
            case "$package" in
                nginx*) update-rc.d nginx disable || true ;;
            esac
        done
    "#;
    let mut shell = sh::as_root("sh")?;
    shell.args(["-c", SCRIPT, "sh"]).args(packages);
    sh::run_quietly(&format!("installing {} packages", packages.len()), &mut shell)
        .with_context(|| format!("to see why, try: apt-get install {}", packages.join(" ")))
}

/// Builds bpf-linker into the project's own tools.
fn build_linker(linker: &Linker) -> Result<()> {
    let (root, tools) = (workspace::root(), workspace::tools());
    let build_dir = tools.join("build");
    let mut cargo = sh::cargo();
    cargo
        .env("LLVM_PREFIX", llvm_prefix(linker.llvm))
        .env("CARGO_TARGET_DIR", &build_dir)
        .args(["install", "bpf-linker", "--locked", "--force", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", &format!("llvm-{}", linker.llvm)])
        .arg("--root")
        .arg(&tools);
    sh::run_quietly(&format!("building bpf-linker for LLVM {}", linker.llvm), &mut cargo)?;
    let file = bpf_toolchain::linker_llvm_file(&root);
    fs::write(&file, format!("{}\n", linker.llvm))
        .with_context(|| format!("cannot write {}", file.display()))?;
    // Best effort: it is only disk space.
    let _ = fs::remove_dir_all(&build_dir);
    Ok(())
}

/// `cargo xtask setup`.
///
/// # Errors
///
/// As [`ensure`].
pub fn verb(yes: bool) -> Result<()> {
    ensure(&Need::ALL, yes)?;
    let choice = bpf()?;
    println!(
        "ready: eBPF is built by {} (LLVM {}) and {}",
        choice.toolchain.name,
        choice.toolchain.llvm,
        choice.linker.path.display()
    );
    Ok(())
}
