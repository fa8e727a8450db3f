//! Restores pins that another process removed.
//!
//! A map or link without a pin lives while a process has it open. The daemon does, so nothing is
//! lost with a pin: packets are forwarded as before, and the pin is created again.

use std::{
    ffi::CString,
    fs,
    os::{fd::AsRawFd as _, fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use super::{DatapathError, Instance, link, open::make_directory};

/// `BPF_OBJ_PIN` of linux/bpf.h.
const OBJ_PIN: libc::c_int = 6;

/// The part of `union bpf_attr` that `BPF_OBJ_PIN` reads.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

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
            pin(fd, path)?;
            made.push(path.clone());
        }
        Ok(made)
    }
}

fn pin(fd: &OwnedFd, path: &Path) -> Result<(), DatapathError> {
    let failed = |error| DatapathError::File { path: path.to_path_buf(), error };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    let bpf_fd = fd.as_raw_fd() as u32;
    let attr = ObjPin { pathname: name.as_ptr() as u64, bpf_fd, file_flags: 0 };
    link::bpf(OBJ_PIN, &attr).map(drop).map_err(failed)
}
