//! The Debian package, built by `dpkg-deb`, which every Debian has: what cargo-deb adds is less
//! than the cost of building cargo-deb.

use std::{
    env::consts::ARCH,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Package, needs, strip};
use crate::{sh, workspace};

macro_rules! asset {
    ($name:literal) => {
        include_str!(concat!("assets/", $name))
    };
}

const SERVICE: &str = asset!("director.service");
const UNITS: &str = "usr/lib/systemd/system";
const DOC: &str = "usr/share/doc/director";

/// Files of the package whose content does not depend on the build.
const FILES: [(&str, &str); 7] = [
    ("usr/lib/systemd/system/director.service", SERVICE),
    ("usr/lib/systemd/system/director-realserver.service", asset!("director-realserver.service")),
    ("usr/lib/sysusers.d/director.conf", asset!("director.sysusers")),
    ("etc/director/director.yaml", asset!("director.yaml")),
    ("etc/default/director-realserver", asset!("director-realserver.default")),
    ("usr/share/doc/director/examples/tunnel.yaml", asset!("examples/tunnel.yaml")),
    ("usr/share/doc/director/examples/direct.yaml", asset!("examples/direct.yaml")),
];

const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", asset!("debian/postinst")),
    ("prerm", asset!("debian/prerm")),
    ("postrm", asset!("debian/postrm")),
];

/// Where shells look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/director"),
    ("zsh", "usr/share/zsh/vendor-completions/_director"),
    ("fish", "usr/share/fish/vendor_completions.d/director.fish"),
];

/// Documents of the project that are for users.
const DOCUMENTS: [&str; 5] =
    ["config.md", "guide.md", "install.md", "operations.md", "troubleshooting.md"];

pub(super) fn build(package: &Package) -> Result<PathBuf> {
    if sh::find("dpkg-deb").is_none() {
        bail!("there is no dpkg-deb: install the package `dpkg`, or build on Debian or Ubuntu");
    }
    fs::create_dir_all(&package.to)
        .with_context(|| format!("cannot create {}", package.to.display()))?;
    let tree = Tree { root: package.to.join(format!("director-{}.tree", package.version)) };
    tree.clear()?;
    tree.fill(package)?;
    let deb = format!("director_{}_{}.deb", package.version, architecture()?);
    let deb = package.to.join(deb);
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.args(["--root-owner-group", "-Zxz", "--build"]).arg(&tree.root).arg(&deb);
    sh::run_silently(&mut dpkg)?;
    tree.clear()?;
    Ok(deb)
}

/// Debian's name of the architecture that this program, and hence the package, was built for.
fn architecture() -> Result<&'static str> {
    match ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no package is built for {other}"),
    }
}

/// The package's files as they will be installed, and dpkg's control files.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn clear(&self) -> Result<()> {
        if self.root.exists() {
            fs::remove_dir_all(&self.root)
                .with_context(|| format!("cannot remove {}", self.root.display()))?;
        }
        Ok(())
    }

    fn fill(&self, package: &Package) -> Result<()> {
        for (path, content) in FILES {
            self.write(path, content.as_bytes(), 0o644)?;
        }
        let template = format!("{UNITS}/director@.service");
        self.write(&template, instance_unit().as_bytes(), 0o644)?;
        for name in DOCUMENTS {
            let path = workspace::root().join("docs").join(name);
            let content =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            self.write(&format!("{DOC}/{name}"), &content, 0o644)?;
        }
        self.write(&format!("{DOC}/copyright"), copyright()?.as_bytes(), 0o644)?;

        let binary = self.new_path("usr/bin/director")?;
        strip(&package.binary, &binary)?;
        set_mode(&binary, 0o755)?;
        self.write_generated(&binary)?;
        self.control(package, &binary)
    }

    /// Files that the program generates.
    fn write_generated(&self, binary: &Path) -> Result<()> {
        let man = self.root.join("usr/share/man/man8");
        sh::run_silently(Command::new(binary).args(["man", "--dir"]).arg(&man))?;
        for page in files(&man)? {
            set_mode(&page, 0o644)?;
            // -n: without a time, so that the same page gives the same file.
            sh::run_silently(Command::new("gzip").args(["-9", "-n"]).arg(&page))?;
        }
        for (shell, path) in COMPLETIONS {
            let text = sh::read(Command::new(binary).args(["completions", shell]))?;
            self.write(path, text.as_bytes(), 0o644)?;
        }
        let schema = sh::read(Command::new(binary).arg("schema"))?;
        self.write("usr/share/director/director.schema.json", schema.as_bytes(), 0o644)
    }

    /// dpkg's control files.
    fn control(&self, package: &Package, binary: &Path) -> Result<()> {
        let installed = files(&self.root)?;
        let bytes: u64 = installed
            .iter()
            .map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len()))
            .sum();
        let control = asset!("debian/control")
            .replace("@VERSION@", &package.version)
            .replace("@ARCHITECTURE@", architecture()?)
            .replace("@HOMEPAGE@", env!("CARGO_PKG_REPOSITORY"))
            .replace("@GLIBC@", &needs::glibc(binary)?);
        let control = format!("Installed-Size: {}\n", bytes.div_ceil(1024)) + &control;
        let mut sums = Command::new("md5sum");
        sums.current_dir(&self.root);
        let inside = |file: &PathBuf| file.strip_prefix(&self.root).map(Path::to_owned).ok();
        sums.args(installed.iter().filter_map(inside));
        self.write("DEBIAN/md5sums", sh::read(&mut sums)?.as_bytes(), 0o644)?;
        self.write("DEBIAN/control", control.as_bytes(), 0o644)?;
        let conffiles = FILES.iter().filter(|(path, _)| path.starts_with("etc/"));
        let conffiles: String = conffiles.map(|(path, _)| format!("/{path}\n")).collect();
        self.write("DEBIAN/conffiles", conffiles.as_bytes(), 0o644)?;
        for (name, script) in SCRIPTS {
            self.write(&format!("DEBIAN/{name}"), script.as_bytes(), 0o755)?;
        }
        Ok(())
    }

    /// The path of a new file, whose directory is created.
    fn new_path(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.join(path);
        let mut missing = Vec::new();
        for parent in path.ancestors().skip(1).take_while(|parent| !parent.exists()) {
            missing.push(parent);
        }
        for directory in missing.into_iter().rev() {
            fs::create_dir(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            // Independent of the umask: they are installed with this mode.
            set_mode(directory, 0o755)?;
        }
        Ok(path)
    }

    fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.new_path(path)?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        set_mode(&path, mode)
    }
}

/// The unit for further directors of a host: `director@NAME`, by `/etc/director/NAME.yaml`.
fn instance_unit() -> String {
    SERVICE
        .replace("layer-4 load balancer", "layer-4 load balancer (%i)")
        .replace("run -c /etc/director/director.yaml", "run --instance %i -c /etc/director/%i.yaml")
}

fn copyright() -> Result<String> {
    let path = workspace::root().join("LICENSE-MIT");
    let mit =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // Paragraphs of this format: an indent, and a dot for an empty line.
    let text: String = mit
        .lines()
        .skip_while(|line| !line.starts_with("Permission"))
        .map(|line| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") })
        .collect();
    let text = asset!("debian/copyright").replace("@MIT@", text.trim_end_matches('\n'));
    Ok(text.replace("@HOMEPAGE@", env!("CARGO_PKG_REPOSITORY")))
}

/// Every file below a directory, in order.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the permissions of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_an_instance_is_that_of_the_director_with_its_own_file() {
        let unit = instance_unit();
        assert!(
            unit.contains(
                "ExecStart=/usr/bin/director run --instance %i -c /etc/director/%i.yaml\n"
            )
        );
        assert_eq!(unit.lines().count(), SERVICE.lines().count());
        assert!(!unit.contains("director.yaml"));
    }

    #[test]
    fn the_copyright_file_has_its_licence_in_one_paragraph() {
        let text = copyright().unwrap();
        let (_, mit) = text.split_once("License: MIT\n Permission").unwrap();
        let (mit, _) = mit.split_once("\n\n").unwrap();
        assert!(mit.ends_with("SOFTWARE.") && mit.contains("\n .\n"), "{mit}");
        assert!(!text.contains('@'), "{text}");
    }
}
