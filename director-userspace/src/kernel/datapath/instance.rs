//! The paths of an instance of Director.

use std::{
    fs,
    path::{Path, PathBuf},
};

use director_common::abi::map;
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
/// The instance that is used when none is named.
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
            return Err(format!("{name:?} is not an instance name: use 1 to 63 of a-z, 0-9 and -"));
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

    /// Where the map `name` is pinned. A larger one counts from the moment that all of them exist,
    /// which is before its pin has replaced the old one's: see `grow`.
    /// Maps of an earlier version have other names until they are adopted.
    pub(super) fn map_pin(&self, name: &str) -> PathBuf {
        let former = map::FORMER.iter().find(|(_, now)| *now == name).map(|(former, _)| *former);
        let names = || [Some(name), former].into_iter().flatten();
        let maps = self.pins().join("maps");
        let pins = [self.larger_pins(), maps.clone()];
        let mut pins = pins.iter().flat_map(|pins| names().map(|name| pins.join(name)));
        pins.find(|pin| pin.exists()).unwrap_or_else(|| maps.join(name))
    }

    /// Renames the pins of adopted maps to this version's names. If interrupted, the next call
    /// continues.
    pub(super) fn rename_pins(&self) -> Result<(), DatapathError> {
        let maps = self.pins().join("maps");
        for (former, now) in map::FORMER {
            let (from, to) = (maps.join(former), maps.join(now));
            if !from.exists() {
                continue;
            }
            // A map that grew while it was adopted has its new name already.
            let renamed = if to.exists() { fs::remove_file(&from) } else { fs::rename(&from, &to) };
            renamed.map_err(|error| DatapathError::File { path: to, error })?;
        }
        Ok(())
    }

    /// Where larger maps are pinned before they replace those in `maps`.
    pub(super) fn larger_pins(&self) -> PathBuf {
        self.pins().join("larger")
    }

    /// Where larger maps are pinned while they are created.
    pub(super) fn unfinished_pins(&self) -> PathBuf {
        self.pins().join("unfinished")
    }

    /// Where links are pinned, by interface.
    pub(super) fn link_pins(&self) -> PathBuf {
        self.pins().join("links")
    }

    /// Its directory for what does not survive a reboot.
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/director").join(&self.name)
    }

    /// Locks the instance for this process: two at once would overwrite each other's maps. Released
    /// when dropped, and by the kernel when the process ends.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Busy`] if another process holds it.
    pub fn lock(&self) -> Result<Lock, DatapathError> {
        let path = self.run_dir().join("lock");
        Lock::take(&path).map_err(|why| match why {
            NotTaken::Held { holder } => {
                DatapathError::Busy { instance: self.name.clone(), holder }
            }
            NotTaken::Failed(error) => DatapathError::File { path, error },
        })
    }

    /// Releases the instance and removes its files in /run. For one that has nothing pinned.
    pub fn release(&self, lock: Lock) {
        // What cannot be removed is a lock that is not held, or the record of assigned VIPs.
        let directory = self.run_dir();
        let _ = fs::remove_file(directory.join("lock"));
        let _ = fs::remove_file(directory.join("trace"));
        let _ = fs::remove_file(directory.join("revision"));
        let _ = fs::remove_dir(&directory);
        if let Some(parent) = directory.parent() {
            let _ = fs::remove_dir(parent);
        }
        drop(lock);
    }
}

/// Mounts the BPF file system, unless it is mounted.
///
/// # Errors
///
/// The error of mount(2), with the command that mounts it.
pub fn mount_bpffs() -> Result<(), DatapathError> {
    let is_bpffs = statfs(BPFFS).is_ok_and(|stat| stat.filesystem_type() == FsType(BPF_FS_MAGIC));
    if is_bpffs {
        return Ok(());
    }
    let none: Option<&str> = None;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).map_err(|errno| {
        DatapathError::Privilege(format!(
            "{BPFFS} is not a BPF file system, and mounting it failed: {errno}. As root: \
             `mount -t bpf bpf {BPFFS}`"
        ))
    })
}
