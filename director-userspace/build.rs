//! Builds the BPF programs and leaves them as `OUT_DIR/director.o`, `OUT_DIR/realserver.o` and
//! `OUT_DIR/path_probe.o`.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

#[path = "../xtask/src/bpf_toolchain.rs"]
mod bpf_toolchain;

use bpf_toolchain::{HINT, LINK_ARG, PROFILE, TARGET, choose, probe, target_dir};

/// The binaries of `director-ebpf`; each becomes `OUT_DIR/<name>.o`.
const PROGRAMS: [&str; 3] = ["director", "realserver", "path_probe"];

/// Features of this crate that director-ebpf has as well, and the variables that say they are on.
const FEATURES: [(&str, &str); 2] =
    [("CARGO_FEATURE_NEXT", "next"), ("CARGO_FEATURE_VERBOSE", "verbose")];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Cargo shows the script's stderr when it fails.
            let _ = writeln!(io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(var("OUT_DIR")?);
    let workspace = manifest_dir
        .parent()
        .ok_or_else(|| format!("{} has no parent directory", manifest_dir.display()))?;
    watch(workspace);

    let choice = choose(&probe(workspace))
        .map_err(|missing| format!("cannot build the XDP programs: {missing}; {HINT}"))?;
    let mut cargo = choice.build(workspace);
    cargo.args(["--color", "never"]);
    for (variable, feature) in FEATURES {
        if env::var_os(variable).is_some() {
            cargo.args(["--features", feature]);
        }
    }
    let output = cargo
        .output()
        .map_err(|error| format!("cannot run {}: {error}", choice.toolchain.cargo.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let (toolchain, linker) = (&choice.toolchain.name, choice.linker.path.display());
        return Err(format!(
            "the XDP programs do not compile (toolchain {toolchain}, linker {linker}):\n\n{log}"
        ));
    }
    forward_warnings(&log);

    let built = target_dir(workspace).join(TARGET).join(PROFILE);
    for program in PROGRAMS {
        let from = built.join(program);
        let to = out_dir.join(program).with_extension("o");
        fs::copy(&from, &to).map_err(|error| {
            format!("cannot copy {} to {}: {error}", from.display(), to.display())
        })?;
    }
    Ok(())
}

/// A variable that cargo sets for build scripts.
fn var(key: &str) -> Result<String, String> {
    env::var(key).map_err(|error| format!("{key}: {error}; cargo sets it for build scripts"))
}

/// Names what the objects depend on. A path that does not exist would rerun the script each time.
fn watch(workspace: &Path) {
    println!("cargo:rerun-if-env-changed={LINK_ARG}");
    let paths = [
        "Cargo.toml",
        "Cargo.lock",
        "director-common/Cargo.toml",
        "director-common/src",
        "director-ebpf/Cargo.toml",
        "director-ebpf/src",
        "director-userspace/build.rs",
        "xtask/src/bpf_toolchain.rs",
        "target/tools/bin/bpf-linker",
    ];
    for path in paths.iter().map(|path| workspace.join(path)).filter(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

/// Hands the inner compiler's warnings to the outer cargo, block by block, without the summary lines
/// ("`director-ebpf` generated 2 warnings") and cargo's own progress between them.
fn forward_warnings(log: &str) {
    let mut in_warning = false;
    for line in log.lines() {
        let starts = line.starts_with("warning") && !line.starts_with("warning: `director-");
        let progress = line.starts_with("   ") && line.trim_start().starts_with(char::is_uppercase);
        in_warning = starts || (in_warning && !progress && !line.trim().is_empty());
        if in_warning {
            println!("cargo:warning={line}");
        }
    }
}
