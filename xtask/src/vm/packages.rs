//! Programs of Debian that the host may lack, unpacked under `target/vm` for use in machines.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Apt};
use crate::sh;

/// The directories of shared libraries in Debian's packages.
pub(super) const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Some packages, and those that they need and the host lacks, in a separate directory.
#[derive(Clone, Debug)]
pub struct Packages {
    root: PathBuf,
}

impl Packages {
    /// Finds the packages under `target/vm/NAME`, or downloads them there with apt, for the host's
    /// own release. Needs no root and installs nothing.
    ///
    /// # Errors
    ///
    /// There is no apt, it does not have one of `packages`, or it cannot download.
    pub fn fetch(name: &str, packages: &[&str]) -> Result<Self> {
        if sh::find("apt-get").is_none() {
            bail!("without apt {} cannot be fetched", packages.join(", "));
        }
        let root = apt::once(name, |dir| {
            let apt = Apt::of_system()?;
            let mut wanted = apt.closure(packages)?;
            // Also packages that the host has: they must be in the directory.
            wanted.extend(packages.iter().map(|&package| package.to_owned()));
            wanted.sort();
            wanted.dedup();
            apt.unpack(&wanted, dir)
        })
        .with_context(|| format!("cannot fetch {}", packages.join(", ")))?;
        Ok(Self { root })
    }

    /// A program of the packages, on the host.
    ///
    /// # Errors
    ///
    /// There is no program of this name.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let directories = ["usr/sbin", "sbin", "usr/bin", "bin"];
        let found = directories.map(|directory| self.root.join(directory).join(name));
        let found = found.into_iter().find(|path| path.is_file());
        found.with_context(|| format!("there is no program {name} in {}", self.root.display()))
    }

    /// The unpacked packages.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file of these packages would be if they were installed; none for other files.
    pub(super) fn installed(&self, file: &Path) -> Option<String> {
        let inside = file.strip_prefix(&self.root).ok()?;
        Some(Path::new("/").join(inside).display().to_string())
    }

    /// The directories of their shared libraries, in the format of the loader.
    pub(super) fn libraries(&self) -> String {
        LIBRARIES.map(|dir| self.root.join(dir).display().to_string()).join(":")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_packages_are_placed_as_if_installed() {
        let packages = Packages { root: PathBuf::from("/somewhere") };
        let library = Path::new("/somewhere/usr/lib/libnl-3.so.200");
        assert_eq!(packages.installed(library).as_deref(), Some("/usr/lib/libnl-3.so.200"));
        assert_eq!(packages.installed(Path::new("/usr/lib/libnl-3.so.200")), None);
    }
}
