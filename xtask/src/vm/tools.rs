//! QEMU and busybox: the system's, or Debian's packages unpacked under `target/vm`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::packages::{LIBRARIES, Packages};
use crate::sh;

const QEMU: &str = "qemu-system-x86_64";
/// The directories of firmware in these packages.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The programs that build and run a machine.
pub(super) struct Tools {
    pub(super) busybox: PathBuf,
    qemu: PathBuf,
    /// The root of the unpacked packages, if QEMU is one of them.
    root: Option<PathBuf>,
}

impl Tools {
    /// Finds the tools, or fetches them with apt; needs no root and installs nothing.
    pub(super) fn fetch() -> Result<Self> {
        if let (Some(qemu), Some(busybox)) = (sh::find(QEMU), sh::find("busybox")) {
            return Ok(Self { busybox, qemu, root: None });
        }
        let packages = Packages::fetch("tools", &["qemu-system-x86", "busybox-static"])
            .context("install QEMU and busybox for virtual machines")?;
        let busybox =
            packages.program("busybox").or_else(|error| sh::find("busybox").ok_or(error))?;
        let root = packages.root();
        Ok(Self { busybox, qemu: root.join("usr/bin").join(QEMU), root: Some(root.to_owned()) })
    }

    /// QEMU, ready for arguments.
    pub(super) fn qemu(&self) -> Command {
        let mut command = Command::new(&self.qemu);
        if let Some(root) = &self.root {
            let libraries = LIBRARIES.map(|dir| root.join(dir).display().to_string());
            command.env("LD_LIBRARY_PATH", libraries.join(":"));
            command.env("QEMU_MODULE_DIR", root.join(Path::new(LIBRARIES[0])).join("qemu"));
            for firmware in FIRMWARE {
                command.arg("-L").arg(root.join(firmware));
            }
        }
        command
    }
}
