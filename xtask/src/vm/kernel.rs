//! Fetches Debian's cloud kernels with apt, without installing them, and finds their modules.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::apt::{self, Apt};

/// A kernel series, by the Debian release that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelVersion {
    /// Debian 11.
    V5_10,
    /// Debian 12.
    V6_1,
    /// Debian 13.
    V6_12,
    /// Debian unstable: the newest when it was fetched.
    Newest,
}

impl KernelVersion {
    /// Every series.
    pub const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::Newest];

    pub(super) fn codename(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::Newest => "sid",
        }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        })
    }
}

impl FromStr for KernelVersion {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|version| version.to_string() == text);
        found.ok_or_else(|| {
            let known = Self::ALL.map(|version| version.to_string()).join(", ");
            anyhow!("no kernel {text:?}; there are {known}")
        })
    }
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    release: String,
    image: PathBuf,
    modules: PathBuf,
}

/// A module's object, uncompressed.
pub(super) struct Module {
    pub(super) name: String,
    /// Its parameters, such as `conn_tab_bits=16`; empty if there are none.
    pub(super) parameters: String,
    pub(super) content: Vec<u8>,
}

impl Kernel {
    /// Finds the kernel under `target/vm`, or downloads it there with apt.
    ///
    /// # Errors
    ///
    /// There is no apt with Debian's archive among its sources, or it cannot download.
    pub fn fetch(version: KernelVersion) -> Result<Self> {
        let dir = apt::once(&format!("linux-{version}"), |dir| {
            let apt = Apt::of_release(version.codename())?;
            let packages = packages(&apt)?;
            apt.unpack(&packages, dir)
        })
        .with_context(|| format!("cannot fetch the kernel {version} for virtual machines"))?;
        Self::at(&dir).ok_or_else(|| anyhow!("there is no kernel in {}", dir.display()))
    }

    /// What `uname -r` prints in the machine.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The bootable file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    fn at(dir: &Path) -> Option<Self> {
        let modules = ["lib/modules", "usr/lib/modules"].map(|place| dir.join(place));
        let modules = modules.into_iter().find(|modules| modules.is_dir())?;
        let release = fs::read_dir(&modules).ok()?.flatten().next()?.file_name().into_string();
        let release = release.ok()?;
        let modules = modules.join(&release);
        // Since Linux 7 beside its modules.
        let images = [dir.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        let image = images.into_iter().find(|image| image.is_file())?;
        Some(Self { release, image, modules })
    }

    /// The named modules and their dependencies, in loading order. A name that is built into the
    /// kernel is left out. Parameters may follow a name.
    pub(super) fn modules(&self, names: &[String]) -> Result<Vec<Module>> {
        let root = &self.modules;
        let mut paths = HashMap::new();
        collect(&root.join("kernel"), &mut paths)
            .with_context(|| format!("cannot list the modules in {}", root.display()))?;
        let builtin = fs::read_to_string(root.join("modules.builtin")).unwrap_or_default();
        let builtin = |name: &str| {
            builtin.lines().any(|line| module_name(Path::new(line)).as_deref() == Some(name))
        };
        let mut ordered = Vec::new();
        for named in names {
            let (name, parameters) = named.split_once(' ').unwrap_or((named, ""));
            let name = name.replace('-', "_");
            self.add(&name, &paths, &builtin, &mut ordered)?;
            if let Some(module) = ordered.iter_mut().find(|module| module.name == name) {
                parameters.clone_into(&mut module.parameters);
            }
        }
        Ok(ordered)
    }

    fn add(
        &self,
        name: &str,
        paths: &HashMap<String, PathBuf>,
        builtin: &dyn Fn(&str) -> bool,
        ordered: &mut Vec<Module>,
    ) -> Result<()> {
        if ordered.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(path) = paths.get(name) else {
            if builtin(name) {
                return Ok(());
            }
            bail!("the kernel {} has no module {name}", self.release)
        };
        let content = read_module(path)?;
        for dependency in dependencies(&content) {
            self.add(&dependency, paths, builtin, ordered)?;
        }
        ordered.push(Module { name: name.to_owned(), parameters: String::new(), content });
        Ok(())
    }
}

/// The packages of the release's kernel. Since Linux 7 the image is a dependency of another
/// package, and so are the modules.
fn packages(apt: &Apt) -> Result<Vec<String>> {
    let of = |package: &str, beginnings: &[&str]| -> Result<Vec<String>> {
        let mut names = apt.dependencies(package)?;
        names.retain(|name| beginnings.iter().any(|beginning| name.starts_with(beginning)));
        Ok(names)
    };
    let meta = "linux-image-cloud-amd64";
    let images = of(meta, &["linux-image-"])?;
    let image = images.first().with_context(|| format!("{meta} depends on no kernel"))?;
    let mut packages = of(image, &["linux-base-", "linux-binary-", "linux-modules-"])?;
    packages.push(image.clone());
    Ok(packages)
}

/// A module's name, from a path such as `kernel/net/ipv4/ip_tunnel.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn collect(dir: &Path, paths: &mut HashMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if let Some(name) = module_name(&path) {
            paths.insert(name, path);
        }
    }
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output().context("cannot run xz")?;
        if !output.status.success() {
            bail!("xz cannot unpack {}", path.display());
        }
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The names in a module's `depends=a,b` entry (section .modinfo, NUL-separated strings).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let entry = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(KEY));
    let names = String::from_utf8_lossy(entry.unwrap_or_default()).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_a_module_are_parsed() {
        let module = b"\x7fELF\0license=GPL\0depends=ip_tunnel,tunnel4\0name=ipip\0";
        assert_eq!(dependencies(module), ["ip_tunnel", "tunnel4"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
    }

    #[test]
    fn module_names_use_underscores() {
        let name = |path| module_name(Path::new(path));
        assert_eq!(name("kernel/net/act-x.ko.xz").as_deref(), Some("act_x"));
        assert_eq!(name("modules.builtin"), None);
    }

    #[test]
    fn versions_parse_as_they_print() {
        for version in KernelVersion::ALL {
            assert_eq!(version.to_string().parse::<KernelVersion>().unwrap(), version);
        }
        assert!("2.6".parse::<KernelVersion>().unwrap_err().to_string().contains("6.1"));
    }
}
