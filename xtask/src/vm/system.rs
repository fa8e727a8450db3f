//! A bare Debian: the essential packages, systemd and iproute2, installed on a disk image that
//! machines boot from. For tests that need a package manager and an init: those of Director's own
//! package.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    KernelVersion,
    apt::{self, Apt},
};
use crate::sh;

/// What is installed. usr-is-merged avoids the perl that converts old systems.
const PACKAGES: [&str; 5] =
    ["?and(?essential,?not(?name(^apt$)))", "usr-is-merged", "systemd", "systemd-sysv", "iproute2"];

/// The unit that runs a machine's script, in the initramfs and on the disk.
pub(super) const UNIT: &str = "/etc/systemd/system/vm-script.service";

/// Units without which a machine boots faster under emulation, and which no test needs.
const MASKED: [&str; 9] = [
    "getty.target",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-timesyncd.service",
    "systemd-random-seed.service",
    "systemd-update-utmp.service",
    "systemd-firstboot.service",
    "e2scrub_reap.service",
    "ldconfig.service",
];

/// An installed Debian 12.
#[derive(Clone, Debug)]
pub struct System {
    image: PathBuf,
}

impl System {
    /// Finds the image under `target/vm`, or installs it there with packages from apt; this takes
    /// about a minute and needs root.
    ///
    /// # Errors
    ///
    /// There is no apt with Debian's archive among its sources, it cannot download, this process is
    /// not root, or e2fsprogs is missing.
    pub fn fetch() -> Result<Self> {
        let dir = apt::once("debian-12", install)
            .context("cannot install a Debian for virtual machines")?;
        Ok(Self { image: dir.join("disk.img") })
    }

    /// The disk, an ext4 file system.
    pub(super) fn image(&self) -> &Path {
        &self.image
    }
}

fn install(dir: &Path) -> Result<()> {
    let apt = Apt::of_release(KernelVersion::V6_1.codename())?;
    let debs = dir.join("debs");
    apt.download(&apt.closure(&PACKAGES)?, &debs)?;
    apt.remove_lists();
    let script = dir.join("install.sh");
    fs::write(&script, INSTALL).with_context(|| format!("cannot write {}", script.display()))?;
    // In a separate mount namespace: no mount can be left behind.
    let mut command = sh::as_root("unshare")?;
    command.args(["--mount", "--", "sh", "-e"]).arg(&script).arg(dir);
    sh::run_quietly("installing a Debian for virtual machines", &mut command)?;
    fs::remove_dir_all(&debs).with_context(|| format!("cannot remove {}", debs.display()))
}

/// Installs the packages in `$1/debs` on `$1/disk.img`: unpacked by tar first, so that dpkg and the
/// programs of the maintainer scripts exist, then by dpkg itself. In memory, as dpkg syncs the disk
/// after every file.
const INSTALL: &str = r#"
root=$1/root
mkdir "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
for dir in bin sbin lib lib64; do
    mkdir -p "$root/usr/$dir"
    ln -s "usr/$dir" "$root/$dir"
done
mkdir "$root/debs"
cp "$1"/debs/*.deb "$root/debs/"
for deb in "$root"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root"
done
: >"$root/var/lib/dpkg/status"
: >"$root/var/lib/dpkg/available"
mount -t proc proc "$root/proc"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
chroot "$root" sh -ec '
    dpkg --force-depends --force-unsafe-io --install /debs/base-passwd_* /debs/base-files_*
    dpkg --force-depends --force-unsafe-io --unpack /debs/*.deb
    dpkg --force-unsafe-io --configure --pending
    test -z "$(dpkg --audit)"'
rm -r "$root/debs"
umount "$root/proc"
echo debian >"$root/etc/hostname"
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$1/disk.img" 512M
umount "$root"
rmdir "$root"
"#;

/// The end of a machine's init: copies the machine's files onto the disk and starts the system.
pub(super) fn switch_root(guests: &[&str]) -> String {
    let mut script = String::from(
        "mkdir -p /disk\nmount -t ext4 -o noatime /dev/vda /disk || exec poweroff -f\n\
         mkdir -p /disk/etc/systemd/system/multi-user.target.wants\n",
    );
    for guest in guests.iter().copied().chain([UNIT, "/script"]) {
        let parent = Path::new(guest).parent().unwrap_or(Path::new("/")).display();
        let _ = writeln!(script, "mkdir -p /disk{parent}; cp -p {guest} /disk{guest}");
    }
    let _ = writeln!(script, "ln -s {UNIT} /disk/etc/systemd/system/multi-user.target.wants/");
    for unit in MASKED {
        let _ = writeln!(script, "ln -sf /dev/null /disk/etc/systemd/system/{unit}");
    }
    script.push_str(
        "umount /sys/fs/bpf /sys/kernel/tracing /run /tmp\n\
         for dir in proc sys dev; do mount -o move /$dir /disk/$dir; done\n\
         exec switch_root /disk /sbin/init\n",
    );
    script
}

/// The unit that runs the script when the system is up, and ends the machine.
pub(super) fn unit(begin_mark: &str, status_mark: &str) -> String {
    format!(
        "[Unit]\nDescription=The machine's script\n\
         [Service]\nType=oneshot\nEnvironment=HOME=/root\n\
         StandardOutput=file:/dev/ttyS0\nStandardError=inherit\n\
         ExecStart=/bin/sh -c 'echo {begin_mark}; sh -e /script; echo \"{status_mark}$?\"; \
         exec systemctl poweroff --force --force'\n"
    )
}
