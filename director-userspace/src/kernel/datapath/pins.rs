//! Restores pins that another process removed.
//!
//! A map or link without a pin lives while a process has it open. The daemon does, so nothing is
//! lost with a pin: packets are forwarded as before, and the pin is created again.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::{DatapathError, Instance, link, open::make_directory};

/// Everything that an instance has pinned, held open.
#[derive(Debug, Default)]
pub struct Pins(Vec<(PathBuf, OwnedFd)>);

impl Pins {
    /// Opens what is pinned now.
    ///
    /// # Errors
    ///
    /// If it cannot be listed or opened.
    pub fn hold(instance: &Instance) -> Result<Self, DatapathError> {
        let mut held = Vec::new();
        for directory in [instance.pins().join("maps"), instance.link_pins()] {
            let failed = |error| DatapathError::File { path: directory.clone(), error };
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                match link::open(&path) {
                    Ok(fd) => held.push((path, fd)),
                    Err(error) => return Err(DatapathError::File { path, error }),
                }
            }
        }
        Ok(Self(held))
    }

    /// Opens what is pinned now, after pins were changed deliberately. What another process removed
    /// meanwhile stays open, to be restored: a link that was detached deliberately has no interface
    /// any more.
    ///
    /// # Errors
    ///
    /// As [`Pins::hold`]; what was open stays so.
    pub fn hold_new(&mut self, instance: &Instance) -> Result<(), DatapathError> {
        let mut held = Self::hold(instance)?;
        let links = instance.link_pins();
        for (path, fd) in self.0.drain(..) {
            let is_link = path.parent() == Some(&links);
            let is_alive = !is_link || link::attached(fd.as_fd()).is_some();
            if is_alive && !held.0.iter().any(|(there, _)| *there == path) {
                held.0.push((path, fd));
            }
        }
        *self = held;
        Ok(())
    }

    /// The ids of the programs that its links attach to interfaces.
    pub fn programs(&self) -> Vec<u32> {
        let links = self.0.iter().filter_map(|(_, fd)| link::attached(fd.as_fd()));
        links.map(|(_, program)| program).collect()
    }

    /// Holds a map no longer: another takes its place.
    pub fn forget(&mut self, map: &Path) {
        self.0.retain(|(path, _)| path != map);
    }

    /// Creates missing pins again; returns their paths.
    ///
    /// # Errors
    ///
    /// If that fails; pins restored before that stay.
    pub fn restore(&self) -> Result<Vec<PathBuf>, DatapathError> {
        let mut made = Vec::new();
        for (path, fd) in self.0.iter().filter(|(path, _)| !path.exists()) {
            if let Some(directory) = path.parent() {
                make_directory(directory)?;
            }
            let failed = |error| DatapathError::File { path: path.clone(), error };
            link::pin(fd.as_fd(), path).map_err(failed)?;
            made.push(path.clone());
        }
        Ok(made)
    }
}
