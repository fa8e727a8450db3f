//! Where an instance of Director keeps its things.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use super::{
    DatapathError,
    lock::{Lock, NotTaken},
};

/// Where the BPF file system is mounted.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;
/// The instance that is meant when none is named.
pub(super) const DEFAULT: &str = "default";

/// One of possibly several directors on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: String,
}

impl Default for Instance {
    fn default() -> Self {
        Self { name: DEFAULT.into() }
    }
}

impl Instance {
    /// The instance `name`, which becomes part of paths: 1 to 63 of `a-z`, `0-9`, `-`.
    ///
    /// # Errors
    ///
    /// What is wrong with the name.
    pub fn new(name: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 63 || !name.chars().all(good) {
            return Err(format!("{name:?} is no instance name: use 1 to 63 of a-z, 0-9 and -"));
        }
        Ok(Self { name: name.into() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its maps and links are pinned.
    pub fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join("director").join(&self.name)
    }

    /// Where the map `name` is pinned. One that was made larger counts from the moment that all of
    /// them are there, which is before its pin has taken the old one's place: see `grow`.
    pub(super) fn map_pin(&self, name: &str) -> PathBuf {
        let larger = self.larger_pins().join(name);
        if larger.exists() { larger } else { self.pins().join("maps").join(name) }
    }

    /// Where larger maps are pinned that are about to take the place of those in `maps`.
    pub(super) fn larger_pins(&self) -> PathBuf {
        self.pins().join("larger")
    }

    /// Where larger maps are pinned while they are made.
    pub(super) fn unfinished_pins(&self) -> PathBuf {
        self.pins().join("unfinished")
    }

    /// Where links are pinned, by interface.
    pub(super) fn link_pins(&self) -> PathBuf {
        self.pins().join("links")
    }

    /// Where it keeps what does not outlive a boot.
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/director").join(&self.name)
    }

    /// Takes the instance for this process: two at once would overwrite each other's maps. Freed
    /// when dropped, and by the kernel when the process ends.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Busy`] if another process has it.
    pub fn lock(&self) -> Result<Lock, DatapathError> {
        let path = self.run_dir().join("lock");
        Lock::take(&path).map_err(|why| match why {
            NotTaken::Held { holder } => {
                DatapathError::Busy { instance: self.name.clone(), holder }
            }
            NotTaken::Failed(error) => DatapathError::File { path, error },
        })
    }

    /// Gives the instance back, and leaves nothing of it in /run. For one that has nothing pinned.
    pub fn leave(&self, lock: Lock) {
        // What cannot be removed is a lock that nobody holds, or a note of VIPs.
        let directory = self.run_dir();
        let _ = fs::remove_file(directory.join("lock"));
        let _ = fs::remove_file(directory.join("trace"));
        let _ = fs::remove_dir(&directory);
        if let Some(parent) = directory.parent() {
            let _ = fs::remove_dir(parent);
        }
        drop(lock);
    }
}

/// Mounts the BPF file system where it belongs, unless it is there.
///
/// # Errors
///
/// What mount(2) says, with the command that does it by hand.
pub fn mount_bpffs() -> Result<(), DatapathError> {
    let is_bpffs = statfs(BPFFS).is_ok_and(|stat| stat.filesystem_type() == FsType(BPF_FS_MAGIC));
    if is_bpffs {
        return Ok(());
    }
    let none: Option<&str> = None;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).map_err(|errno| {
        DatapathError::Privilege(format!(
            "{BPFFS} is no BPF file system, and mounting it failed: {errno}. As root: \
             `mount -t bpf bpf {BPFFS}`"
        ))
    })
}
