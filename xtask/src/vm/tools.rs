//! QEMU and busybox: the system's, or Debian's packages unpacked under `target/vm`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Apt};
use crate::sh;

const QEMU: &str = "qemu-system-x86_64";
/// Where Debian's packages have shared libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
/// Where they have firmware.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The programs that a machine is made with.
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
        if sh::find("apt-get").is_none() {
            bail!("install {QEMU} and busybox: without apt they cannot be fetched");
        }
        let root = apt::once("tools", |dir| {
            let apt = Apt::of_system()?;
            let packages = apt.closure(&["qemu-system-x86", "busybox-static"])?;
            apt.unpack(&packages, dir)
        })
        .context("cannot fetch QEMU for virtual machines")?;
        // busybox is in /bin or, where that is a link to /usr/bin, there.
        let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path));
        let busybox = busybox.into_iter().find(|path| path.is_file()).or(sh::find("busybox"));
        let busybox = busybox.context("the package busybox-static has no busybox")?;
        Ok(Self { busybox, qemu: root.join("usr/bin").join(QEMU), root: Some(root) })
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
