//! Downloads Debian packages and unpacks them under `target/`, without root: neither the system's
//! packages nor its package lists change.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{sh, workspace};

/// apt with separate package lists. Signatures are checked with the system's keys.
pub(super) struct Apt {
    dir: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// The newest packages of the system's own release.
    pub(super) fn of_system() -> Result<Self> {
        let apt = Self::new("system")?;
        apt.update("fetching the package lists")?;
        Ok(apt)
    }

    /// The packages of another release of Debian, taken from the archive that the system uses.
    pub(super) fn of_release(codename: &str) -> Result<Self> {
        let site = debian_site()?;
        let mut apt = Self::new(codename)?;
        let sources = apt.dir.join("sources.list");
        fs::write(&sources, format!("deb [arch=amd64] {site} {codename} main\n"))
            .with_context(|| format!("cannot write {}", sources.display()))?;
        apt.options.extend([
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::State::status=/dev/null".to_owned(),
        ]);
        apt.update(&format!("fetching the package list of Debian {codename}"))?;
        Ok(apt)
    }

    fn new(name: &str) -> Result<Self> {
        let dir = workspace::vm().join(format!("apt-{name}"));
        for dir in ["lists/partial", "cache/archives/partial"].map(|path| dir.join(path)) {
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let options = vec![
            format!("Dir::State::lists={}", dir.join("lists").display()),
            format!("Dir::Cache={}", dir.join("cache").display()),
            // apt's own user may not be able to write here.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Self { dir, options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    fn update(&self, what: &str) -> Result<()> {
        sh::run_quietly(what, self.command("apt-get").args(["update", "-q"]))
    }

    /// The dependencies of `package`.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let mut cache = self.command("apt-cache");
        let depends = sh::read(cache.args(["depends", "--important", package]))?;
        let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// `packages`, and those that they need and the system lacks.
    pub(super) fn closure(&self, packages: &[&str]) -> Result<Vec<String>> {
        // What a real installation would remove does not matter: nothing is installed.
        let mut get = self.command("apt-get");
        get.args(["install", "--simulate", "--no-install-recommends", "-q"]).args(packages);
        let steps = sh::read(&mut get)?;
        let name = |line: &str| Some(line.strip_prefix("Inst ")?.split(' ').next()?.to_owned());
        Ok(steps.lines().filter_map(name).collect())
    }

    /// Downloads `packages` into `to` and returns the files.
    pub(super) fn download(&self, packages: &[String], to: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
        let mut get = self.command("apt-get");
        get.current_dir(to).args(["download", "-q"]).args(packages);
        let what = match packages {
            [package] => format!("downloading {package}"),
            _ => format!("downloading {} packages", packages.len()),
        };
        sh::run_quietly(&what, &mut get)?;
        let debs = fs::read_dir(to)
            .with_context(|| format!("cannot list {}", to.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
        Ok(debs.collect())
    }

    /// Downloads and unpacks `packages` into `to`, then removes the package lists.
    pub(super) fn unpack(self, packages: &[String], to: &Path) -> Result<()> {
        for deb in self.download(packages, to)? {
            sh::run_silently(Command::new("dpkg").arg("-x").arg(&deb).arg(to))?;
            fs::remove_file(&deb).with_context(|| format!("cannot remove {}", deb.display()))?;
        }
        self.remove_lists();
        Ok(())
    }

    /// Removes the package lists.
    pub(super) fn remove_lists(self) {
        // Best effort: only disk space.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The address of the Debian archive that this system uses.
fn debian_site() -> Result<String> {
    let args = ["indextargets", "--format", "$(SITE) $(RELEASE)"];
    let targets = sh::read(Command::new("apt-get").args(args).arg("Origin: Debian"))
        .context("kernels come from Debian's archive, with apt")?;
    let site = targets.lines().find_map(|line| {
        let (site, release) = line.split_once(' ')?;
        // Security updates have another address, without the other releases' kernels.
        (!release.contains("security")).then(|| site.to_owned())
    });
    site.ok_or_else(|| {
        anyhow!("Debian's archive is not among apt's sources: run `apt-get update`, or use Debian")
    })
}

/// Builds a directory under `target/vm` once: `fill` works on a temporary one, which is renamed
/// when complete. One process at a time; the others, such as parallel tests, wait.
pub(super) fn once(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let (vm, dir) = (workspace::vm(), workspace::vm().join(name));
    if dir.exists() {
        return Ok(dir);
    }
    fs::create_dir_all(&vm).with_context(|| format!("cannot create {}", vm.display()))?;
    let lock = vm.join("lock");
    let lock =
        fs::File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    lock.lock().context("cannot wait for another download")?;
    if dir.exists() {
        return Ok(dir);
    }
    let unfinished = vm.join(format!("{name}.part"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fill(&unfinished)?;
    fs::rename(&unfinished, &dir)
        .with_context(|| format!("cannot rename {}", unfinished.display()))?;
    Ok(dir)
}
