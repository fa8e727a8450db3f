//! What to install, given what exists: no I/O.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive};

use crate::bpf_toolchain::{self, Missing, Toolchain};

/// The LLVM versions that the linker can be built with.
pub(super) const LINKER_LLVM: RangeInclusive<u32> = 21..=23;
/// Debian's newer compiler, which comes with the standard library's source.
pub(super) const DEBIAN_PAIR: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// Its clippy.
pub(super) const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// What a verb depends on besides Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Compiling the XDP programs.
    Build,
    /// The demo: namespaces and web servers.
    Demo,
    /// The tests: namespaces, web servers, captures, a browser, a terminal.
    Test,
    /// Clippy for the XDP programs.
    Lint,
    /// Virtual machines. They install nothing: [`crate::vm`] keeps what it needs in `target/`.
    Vm,
}

impl Need {
    /// Everything.
    pub const ALL: [Self; 4] = [Self::Build, Self::Demo, Self::Test, Self::Vm];
}

/// A program, and the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tool {
    pub(super) command: &'static str,
    pub(super) package: &'static str,
}

const NGINX: Tool = Tool { command: "nginx", package: "nginx-light" };
const IP: Tool = Tool { command: "ip", package: "iproute2" };
const TCPDUMP: Tool = Tool { command: "tcpdump", package: "tcpdump" };
const CHROMIUM: Tool = Tool { command: "chromium", package: "chromium" };
const CHROMEDRIVER: Tool = Tool { command: "chromedriver", package: "chromium-driver" };
const TMUX: Tool = Tool { command: "tmux", package: "tmux" };
const TSHARK: Tool = Tool { command: "tshark", package: "tshark" };

/// The programs that `needs` require. The compiler is handled separately.
pub(super) fn tools(needs: &[Need]) -> impl Iterator<Item = Tool> {
    needs
        .iter()
        .flat_map(|need| match need {
            Need::Build | Need::Lint | Need::Vm => [].as_slice(),
            Need::Demo => &[NGINX, IP],
            Need::Test => &[NGINX, IP, TCPDUMP, CHROMIUM, CHROMEDRIVER, TMUX, TSHARK],
        })
        .copied()
}

/// Facts from apt.
#[derive(Clone, Debug, Default)]
pub(super) struct Apt {
    /// The queried packages that it can install.
    pub(super) available: BTreeSet<String>,
    /// Those that are installed.
    pub(super) installed: BTreeSet<String>,
    /// The LLVM of the compiler in [`DEBIAN_PAIR`].
    pub(super) rustc_llvm: Option<u32>,
}

/// What was found on the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) bpf: bpf_toolchain::Facts,
    /// The commands, of those in [`tools`], that exist.
    pub(super) commands: BTreeSet<&'static str>,
    /// The LLVM versions whose development files are installed.
    pub(super) llvm_prefixes: BTreeSet<u32>,
    /// `None`: no apt, or it was not queried.
    pub(super) apt: Option<Apt>,
    /// Whether the compiler in /usr/bin has clippy.
    pub(super) system_clippy: bool,
}

impl Facts {
    fn can_install(&self, package: &str) -> bool {
        self.apt.as_ref().is_some_and(|apt| apt.available.contains(package))
    }

    fn has(&self, package: &str) -> bool {
        self.apt.as_ref().is_some_and(|apt| apt.installed.contains(package))
    }

    /// The packages to build a linker for this LLVM with, if it can be built.
    fn linker_packages(&self, llvm: u32) -> Option<Vec<String>> {
        let packages = llvm_packages(llvm);
        if !LINKER_LLVM.contains(&llvm) {
            None
        } else if self.apt.is_none() {
            self.llvm_prefixes.contains(&llvm).then(Vec::new)
        } else {
            packages.iter().all(|name| self.can_install(name)).then(|| packages.into())
        }
    }
}

/// A linker to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Linker {
    pub(super) llvm: u32,
}

/// What to do; empty if nothing is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Packages for apt, each once.
    pub(super) packages: Vec<String>,
    pub(super) linker: Option<Linker>,
    /// What only the user can do.
    pub(super) manual: Option<String>,
}

impl Plan {
    pub(super) fn is_done(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.packages.is_empty() {
            writeln!(f, "  packages (apt): {}", self.packages.join(" "))?;
        }
        if let Some(linker) = &self.linker {
            writeln!(f, "  bpf-linker for LLVM {}, built into target/tools", linker.llvm)?;
        }
        if let Some(text) = &self.manual {
            writeln!(f, "  {text}")?;
        }
        Ok(())
    }
}

/// Makes the plan. An installed compiler is preferred to one that would be installed.
pub(super) fn plan(needs: &[Need], facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    if needs.contains(&Need::Build) {
        plan_build(facts, &mut plan);
    }
    let installs_compiler = plan.packages.iter().any(|name| name == DEBIAN_PAIR[0]);
    let lints_with_it = installs_compiler && needs.contains(&Need::Lint) && !facts.system_clippy;
    // Where it is not packaged, the lint uses the compiler's warnings only.
    if (lints_with_it || wants_clippy(needs, facts)) && facts.can_install(DEBIAN_CLIPPY) {
        plan.packages.push(DEBIAN_CLIPPY.to_owned());
    }
    for tool in tools(needs).filter(|tool| !facts.commands.contains(tool.command)) {
        if facts.apt.is_some() && !facts.can_install(tool.package) {
            let Tool { command, package } = tool;
            plan.ask_user(&format!(
                "`{command}` is missing and apt has no package {package}: install it manually"
            ));
        } else {
            plan.packages.push(tool.package.to_owned());
        }
    }
    plan.packages.retain(|name| !facts.has(name));
    plan.packages.sort();
    plan.packages.dedup();
    if facts.apt.is_none() && !plan.packages.is_empty() {
        let names = plan.packages.join(", ");
        plan.ask_user(&format!("install what your system has of: {names}"));
    }
    plan
}

impl Plan {
    fn ask_user(&mut self, text: &str) {
        let manual = self.manual.get_or_insert_default();
        if !manual.is_empty() {
            manual.push_str("\n  ");
        }
        manual.push_str(text);
    }
}

fn plan_build(facts: &Facts, plan: &mut Plan) {
    let Err(missing) = bpf_toolchain::choose(&facts.bpf) else { return };
    for Toolchain { llvm, .. } in &facts.bpf.toolchains {
        if let Some(packages) = facts.linker_packages(*llvm) {
            plan.packages.extend(packages);
            plan.linker = Some(Linker { llvm: *llvm });
            return;
        }
    }
    if let Some(llvm) = facts.apt.as_ref().and_then(|apt| apt.rustc_llvm)
        && let Some(packages) = facts.linker_packages(llvm)
        && DEBIAN_PAIR.iter().all(|name| facts.can_install(name))
    {
        plan.packages.extend(DEBIAN_PAIR.map(str::to_owned));
        plan.packages.extend(packages);
        plan.linker = Some(Linker { llvm });
        return;
    }
    plan.ask_user(&format!("eBPF cannot be built: {missing}. Install it manually:"));
    if missing == Missing::Toolchain {
        plan.ask_user("    rustup toolchain install nightly --component rust-src");
    }
    plan.ask_user("    cargo install bpf-linker   (needs LLVM's development files of the version");
    plan.ask_user("    that `rustc +nightly -vV` shows; `cargo binstall bpf-linker` needs none)");
}

/// Whether the compiler in /usr/bin is the one in use and lacks the clippy that is needed.
pub(super) fn wants_clippy(needs: &[Need], facts: &Facts) -> bool {
    let chosen = bpf_toolchain::choose(&facts.bpf);
    needs.contains(&Need::Lint)
        && !facts.system_clippy
        && chosen.is_ok_and(|choice| choice.toolchain.name == bpf_toolchain::SYSTEM)
}

/// What the linker needs to be built with this LLVM.
pub(super) fn llvm_packages(llvm: u32) -> [String; 5] {
    [
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".to_owned(),
        "zlib1g-dev".to_owned(),
        "g++".to_owned(),
    ]
}

/// Reads `apt-cache policy`: the packages that apt can install, and those that are installed.
pub(super) fn read_policy(policy: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut available, mut installed) = (BTreeSet::new(), BTreeSet::new());
    let mut package = "";
    for line in policy.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = name;
        }
        let has = |key| line.trim().strip_prefix(key).is_some_and(|version| version != "(none)");
        if has("Candidate: ") {
            available.insert(package.to_owned());
        }
        if has("Installed: ") {
            installed.insert(package.to_owned());
        }
    }
    (available, installed)
}

/// Reads from `apt-cache depends --recurse` which LLVM the compiler is linked with: the newest,
/// as an older one may come in through another package.
pub(super) fn llvm_of(depends: &str) -> Option<u32> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: libllvm")?.parse().ok())
        .max()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn toolchain(name: &str, llvm: u32) -> Toolchain {
        Toolchain { name: name.to_owned(), rustc: PathBuf::new(), cargo: PathBuf::new(), llvm }
    }

    fn apt(names: &[&str], rustc_llvm: Option<u32>) -> Option<Apt> {
        let mut available: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        available.extend(llvm_packages(22));
        Some(Apt { available, rustc_llvm, ..Apt::default() })
    }

    fn linker(llvm: Option<u32>) -> Vec<bpf_toolchain::Linker> {
        vec![bpf_toolchain::Linker { path: PathBuf::from("bpf-linker"), llvm }]
    }

    #[test]
    fn nothing_is_installed_when_nothing_is_missing() {
        let bpf = bpf_toolchain::Facts {
            toolchains: vec![toolchain("nightly-x", 23)],
            linkers: linker(None),
        };
        let commands = tools(&Need::ALL).map(|tool| tool.command).collect();
        let facts = Facts { bpf, commands, ..Facts::default() };
        assert!(plan(&Need::ALL, &facts).is_done());
    }

    #[test]
    fn an_installed_toolchain_only_needs_its_linker() {
        let toolchains = vec![toolchain("nightly-x", 22)];
        let bpf = bpf_toolchain::Facts { toolchains, linkers: vec![] };
        let facts = Facts { bpf, apt: apt(&DEBIAN_PAIR, Some(22)), ..Facts::default() };
        let plan = plan(&[Need::Build], &facts);
        assert_eq!(plan.linker, Some(Linker { llvm: 22 }));
        assert!(plan.packages.contains(&"llvm-22-dev".to_owned()));
        assert!(!plan.packages.contains(&"rustc-web".to_owned()));
        assert_eq!(plan.manual, None);
    }

    #[test]
    fn a_nightly_without_a_linker_is_replaced_by_debians_pair() {
        let toolchains = vec![toolchain("nightly-x", 24)];
        let bpf = bpf_toolchain::Facts { toolchains, linkers: linker(Some(22)) };
        let facts = Facts { bpf, apt: apt(&DEBIAN_PAIR, Some(22)), ..Facts::default() };
        let plan = plan(&[Need::Build], &facts);
        assert!(plan.packages.contains(&"rustc-web".to_owned()), "{plan}");
        assert_eq!(plan.linker, Some(Linker { llvm: 22 }));
    }

    #[test]
    fn the_lint_uses_debians_clippy_for_debians_compiler() {
        let mut names = DEBIAN_PAIR.to_vec();
        names.push(DEBIAN_CLIPPY);
        let mut facts = Facts { apt: apt(&names, Some(22)), ..Facts::default() };
        let has_clippy =
            |facts: &Facts| plan(&[Need::Build, Need::Lint], facts).to_string().contains("clippy");
        assert!(has_clippy(&facts));
        facts.system_clippy = true;
        assert!(!has_clippy(&facts));
        facts.system_clippy = false;
        facts.bpf.toolchains = vec![toolchain("nightly-x", 22)];
        assert!(!has_clippy(&facts));
    }

    #[test]
    fn an_installed_package_is_not_installed_again() {
        let toolchains = vec![toolchain("system", 22)];
        let bpf = bpf_toolchain::Facts { toolchains, linkers: vec![] };
        let mut apt = apt(&DEBIAN_PAIR, Some(22)).unwrap();
        apt.installed = apt.available.iter().filter(|name| *name != "g++").cloned().collect();
        let facts = Facts { bpf, apt: Some(apt), ..Facts::default() };
        let plan = plan(&[Need::Build], &facts);
        assert_eq!(plan.packages, ["g++"]);
        assert_eq!(plan.linker, Some(Linker { llvm: 22 }));
    }

    #[test]
    fn without_a_method_the_user_gets_the_commands() {
        for facts in [Facts::default(), Facts { apt: apt(&[], None), ..Facts::default() }] {
            let plan = plan(&[Need::Build], &facts);
            let text = plan.manual.unwrap();
            assert!(text.contains("rustup toolchain install nightly --component rust-src"));
            assert!(text.contains("cargo install bpf-linker"));
            assert!(plan.packages.is_empty() && plan.linker.is_none());
        }
    }

    #[test]
    fn each_verb_needs_its_own_tools_once() {
        let names =
            ["nginx-light", "iproute2", "tcpdump", "chromium", "chromium-driver", "tmux", "tshark"];
        let facts = Facts { apt: apt(&names, None), ..Facts::default() };
        let plan = |needs: &[Need]| plan(needs, &facts);
        assert_eq!(plan(&[Need::Demo]).packages, ["iproute2", "nginx-light"]);
        assert_eq!(
            plan(&[Need::Demo, Need::Test]).packages,
            ["chromium", "chromium-driver", "iproute2", "nginx-light", "tcpdump", "tmux", "tshark"]
        );
        let facts = Facts { apt: apt(&[], None), ..Facts::default() };
        let text = super::plan(&[Need::Demo], &facts).manual.unwrap();
        assert!(text.contains("nginx-light"), "{text}");
    }

    #[test]
    fn output_of_apt_is_parsed() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0\n  Version table:\n\
                      g++:\n  Installed: 12.2\n  Candidate: 12.2\n\
                      nothing:\n  Installed: (none)\n  Candidate: (none)\n";
        let (available, installed) = read_policy(policy);
        assert_eq!(available.into_iter().collect::<Vec<_>>(), ["g++", "rustc-web"]);
        assert_eq!(installed.into_iter().collect::<Vec<_>>(), ["g++"]);
        let depends = "rustc-web\n  Depends: libc6\nlibx\n  Depends: libllvm19\n  \
                       Depends: libllvm22\n";
        assert_eq!(llvm_of(depends), Some(22));
        assert_eq!(llvm_of("rustc-web\n  Depends: libc6\n"), None);
    }

    #[test]
    fn nightly_comes_first_and_an_old_linker_is_refused() {
        let toolchains = vec![toolchain("1.95.0-x", 22), toolchain("nightly-x", 23)];
        let mut facts = bpf_toolchain::Facts { toolchains, linkers: linker(None) };
        let name = |facts: &bpf_toolchain::Facts| {
            bpf_toolchain::choose(facts).map(|choice| choice.toolchain.name)
        };
        assert_eq!(name(&facts).as_deref(), Ok("nightly-x"));
        facts.linkers = linker(Some(22));
        assert_eq!(name(&facts).as_deref(), Ok("1.95.0-x"));
        facts.linkers = linker(Some(21));
        let missing = bpf_toolchain::choose(&facts).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "bpf-linker has LLVM 21, the toolchain nightly-x needs LLVM 23"
        );
        facts.linkers.clear();
        assert!(matches!(bpf_toolchain::choose(&facts), Err(Missing::Linker { .. })));
        facts.toolchains.clear();
        assert_eq!(bpf_toolchain::choose(&facts), Err(Missing::Toolchain));
    }
}
