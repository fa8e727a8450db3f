//! Finds a toolchain that can compile `director-ebpf`, and builds the command for it.
//!
//! Shared by `director-userspace/build.rs` (through `#[path]`) and xtask, so it uses the standard
//! library only. `probe` inspects the machine, `choose` decides; only `choose` contains rules.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The compilation target of every XDP program here.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The cargo profile of `director-ebpf`, defined in the root manifest.
pub(crate) const PROFILE: &str = "bpf";
/// One more argument for bpf-linker, to inspect a program: `--dump-module=DIR`, for example.
pub(crate) const LINK_ARG: &str = "DIRECTOR_BPF_LINK_ARG";
/// The hint if nothing is found, the same everywhere.
pub(crate) const HINT: &str = "run `cargo xtask setup`";

/// A compiler and its cargo, with the sources of the standard library beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// `nightly-x86_64-unknown-linux-gnu`, or `system` for the pair in /usr/bin.
    pub(crate) name: String,
    /// Absolute path of `rustc`.
    pub(crate) rustc: PathBuf,
    /// Absolute path of `cargo`.
    pub(crate) cargo: PathBuf,
    /// The major version of the LLVM inside `rustc`.
    pub(crate) llvm: u32,
}

/// A `bpf-linker` and the version of its LLVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    /// Absolute path of the binary.
    pub(crate) path: PathBuf,
    /// The major version it was built with; known for the one that setup builds.
    pub(crate) llvm: Option<u32>,
}

/// What was found on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Toolchains that have the standard library's source.
    pub(crate) toolchains: Vec<Toolchain>,
    /// Linkers, the project's own first.
    pub(crate) linkers: Vec<Linker>,
}

/// A compiler with a linker that understands its bitcode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// What compiles.
    pub(crate) toolchain: Toolchain,
    /// What links.
    pub(crate) linker: Linker,
}

/// Why nothing can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No toolchain carries the standard library's source.
    Toolchain,
    /// There is a toolchain but no linker at all.
    Linker {
        /// The toolchain that would be used.
        toolchain: Toolchain,
    },
    /// There is a linker, but older than the compiler: it cannot read the bitcode.
    LinkerTooOld {
        /// The toolchain that would be used.
        toolchain: Toolchain,
        /// The LLVM of the linker found.
        linker_llvm: u32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toolchain => {
                write!(f, "no Rust toolchain with the standard library's source (rust-src)")
            }
            Self::Linker { toolchain } => {
                write!(f, "no bpf-linker for the toolchain {}", toolchain.name)
            }
            Self::LinkerTooOld { toolchain, linker_llvm } => write!(
                f,
                "bpf-linker has LLVM {linker_llvm}, the toolchain {} needs LLVM {}",
                toolchain.name, toolchain.llvm
            ),
        }
    }
}

/// Picks the first toolchain, nightlies before the others, that one of the linkers supports.
///
/// # Errors
///
/// What is missing for the toolchain that would be preferred.
pub(crate) fn choose(facts: &Facts) -> Result<Choice, Missing> {
    let mut toolchains: Vec<&Toolchain> = facts.toolchains.iter().collect();
    toolchains.sort_by_key(|toolchain| !toolchain.name.starts_with("nightly"));
    for toolchain in &toolchains {
        // A linker reads bitcode of its own LLVM and older. The LLVM of one that the user put on
        // PATH is unknown; it is trusted.
        let fits = |linker: &&Linker| linker.llvm.is_none_or(|llvm| llvm >= toolchain.llvm);
        if let Some(linker) = facts.linkers.iter().find(fits) {
            return Ok(Choice { toolchain: (*toolchain).clone(), linker: linker.clone() });
        }
    }
    let Some(&toolchain) = toolchains.first() else { return Err(Missing::Toolchain) };
    let toolchain = toolchain.clone();
    Err(match facts.linkers.iter().find_map(|linker| linker.llvm) {
        Some(linker_llvm) => Missing::LinkerTooOld { toolchain, linker_llvm },
        None => Missing::Linker { toolchain },
    })
}

/// The directory of the tools that the project builds for itself.
pub(crate) fn tools_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/tools")
}

/// The directory in which the XDP programs are built.
pub(crate) fn target_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/ebpf")
}

/// The name of the toolchain in /usr/bin.
pub(crate) const SYSTEM: &str = "system";

/// The file with the LLVM version that the linker in [`tools_dir`] was built with.
pub(crate) fn linker_llvm_file(workspace: &Path) -> PathBuf {
    tools_dir(workspace).join("bpf-linker.llvm")
}

/// Looks for toolchains and linkers. Spawns one `rustc -vV` per toolchain that has sources.
pub(crate) fn probe(workspace: &Path) -> Facts {
    let rustup_home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")));
    let mut roots: Vec<(String, PathBuf)> = rustup_home
        .and_then(|home| fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    roots.sort();
    roots.push((SYSTEM.to_owned(), PathBuf::from("/usr")));
    let toolchains =
        roots.into_iter().filter_map(|(name, root)| toolchain_at(name, &root)).collect();

    let own = tools_dir(workspace).join("bin/bpf-linker");
    // It is linked with the system's LLVM, which may have been removed since.
    let own = can_run(&own).then(|| Linker {
        path: own,
        llvm: fs::read_to_string(linker_llvm_file(workspace))
            .ok()
            .and_then(|text| text.trim().parse().ok()),
    });
    let on_path = find_on_path("bpf-linker").map(|path| Linker { path, llvm: None });
    Facts { toolchains, linkers: own.into_iter().chain(on_path).collect() }
}

/// The executable `name` on PATH, or among cargo's installed binaries.
fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_bin = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    env::split_paths(&path).chain(cargo_bin).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether a program can be started.
fn can_run(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// The toolchain under `root`, if it is complete and has sources.
fn toolchain_at(name: String, root: &Path) -> Option<Toolchain> {
    let (rustc, cargo) = (root.join("bin/rustc"), root.join("bin/cargo"));
    let source = root.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if ![&rustc, &cargo, &source].iter().all(|path| path.is_file()) {
        return None;
    }
    let output = Command::new(&rustc).arg("-vV").output().ok()?;
    let llvm = llvm_major(&String::from_utf8_lossy(&output.stdout))?;
    Some(Toolchain { name, rustc, cargo, llvm })
}

/// Reads the LLVM major version from what `rustc -vV` prints.
fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.trim().parse().ok()
}

impl Choice {
    /// `cargo build` of both programs of `director-ebpf`, output under [`target_dir`], where all
    /// profiles of the host build share it.
    pub(crate) fn build(&self, workspace: &Path) -> Command {
        let mut cargo = Command::new(&self.toolchain.cargo);
        cargo.arg("build");
        self.prepare(&mut cargo, workspace);
        cargo
    }

    /// Sets a cargo (or cargo-clippy) command up for the BPF target.
    pub(crate) fn prepare(&self, cargo: &mut Command, workspace: &Path) {
        // The outer cargo (or clippy, or rustup) passes these to its own compiler.
        for (key, _) in env::vars_os() {
            if is_outer(&key) {
                cargo.env_remove(key);
            }
        }
        let mut rustflags: Vec<String> = vec![
            // v3: 32-bit instructions, and atomics that return the old value. Kernel 5.12.
            "-Ctarget-cpu=v3".into(),
            // Headers are at unaligned offsets; without this every field is read byte by byte. The
            // kernel accepts such loads where the machine does (x86_64, arm64). Passed to the
            // linker, which generates the code, since rustc warns of unknown features.
            "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".into(),
            format!("-Clinker={}", self.linker.path.display()),
            "-Clink-arg=--btf".into(),
        ];
        if let Ok(argument) = env::var(LINK_ARG) {
            rustflags.push(format!("-Clink-arg={argument}"));
        }
        cargo
            .current_dir(workspace)
            .env("RUSTC", &self.toolchain.rustc)
            // build-std is unstable; a stable compiler allows it only with this.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
            .args(["--profile", PROFILE, "-Zbuild-std=core", "--target", TARGET])
            .args(["--package", "director-ebpf", "--bins", "--target-dir"])
            .arg(target_dir(workspace));
    }
}

/// Whether an environment variable belongs to the cargo that runs this code.
fn is_outer(key: &OsString) -> bool {
    let Some(key) = key.to_str() else { return false };
    // The location of registries and credentials, and the user's network settings, are kept.
    let kept = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_TERM_"];
    (key.starts_with("CARGO") && !kept.iter().any(|prefix| key.starts_with(prefix)))
        || key.starts_with("RUSTC")
        || key.starts_with("CLIPPY")
        || ["RUSTFLAGS", "RUSTDOCFLAGS", "RUSTDOC", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"]
            .contains(&key)
        || ["OUT_DIR", "TARGET", "PROFILE", "OPT_LEVEL", "DEBUG", "HOST", "MAKEFLAGS"]
            .contains(&key)
}
