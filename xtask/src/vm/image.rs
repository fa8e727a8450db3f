//! Builds a machine's initramfs: busybox, modules, files with their libraries, and an init script.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::BufWriter,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{BEGIN_MARK, Kernel, Packages, STATUS_MARK, Vm, cpio::Archive, kernel::Module, system};

/// Writes the image to `path`.
pub(super) fn write(path: &Path, busybox: &Path, kernel: &Kernel, vm: &Vm) -> Result<()> {
    let Vm { modules, files, packages, script, system: installed, .. } = vm;
    let out = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut archive = Archive::new(BufWriter::new(out));
    let cannot_write = || format!("cannot write {}", path.display());
    for directory in ["proc", "sys", "dev", "tmp", "run", "root", "etc"] {
        archive.directory(directory).with_context(cannot_write)?;
    }

    let mut init = INIT_HEAD.to_owned();
    for module in kernel.modules(modules)? {
        let guest = format!("/modules/{}.ko", module.name);
        archive.file(&guest, 0o644, &module.content).with_context(cannot_write)?;
        let Module { name, parameters, .. } = module;
        let _ = writeln!(init, "insmod {guest} {parameters} || echo \"cannot load {name}\"");
    }
    if installed.is_some() {
        let guests: Vec<&str> = files.iter().map(|(_, guest)| guest.as_str()).collect();
        let _ = write!(init, "{}", system::switch_root(&guests));
        let unit = system::unit(BEGIN_MARK, STATUS_MARK);
        archive.file(system::UNIT, 0o644, unit.as_bytes()).with_context(cannot_write)?;
    } else {
        let _ = write!(
            init,
            "echo {BEGIN_MARK}\n/bin/busybox sh -e /script </dev/null\n\
             echo \"{STATUS_MARK}$?\"\npoweroff -f\n"
        );
    }
    archive.file("/init", 0o755, init.as_bytes()).with_context(cannot_write)?;
    archive.file("/script", 0o755, script.as_bytes()).with_context(cannot_write)?;

    let busybox = (busybox.to_owned(), "/bin/busybox".to_owned());
    let mut libraries = BTreeSet::new();
    for (host, guest) in files.iter().chain([&busybox]) {
        let content = read(host)?;
        let mode = fs::metadata(host).map_or(0o644, |meta| meta.permissions().mode());
        archive.file(guest, mode, &content).with_context(cannot_write)?;
        // An installed system has its own libraries.
        if content.starts_with(b"\x7fELF") && (installed.is_none() || guest == "/bin/busybox") {
            libraries.extend(libraries_of(host, packages));
        }
    }
    for library in libraries {
        let content = read(Path::new(&library))?;
        let inside = packages.iter().find_map(|package| package.installed(Path::new(&library)));
        let guest = inside.unwrap_or(library);
        archive.file(&guest, 0o755, &content).with_context(cannot_write)?;
    }
    archive.finish().with_context(cannot_write)?;
    Ok(())
}

const INIT_HEAD: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
";

/// The shared libraries of an executable, and its loader, by their paths on the host; none for a
/// static one.
fn libraries_of(executable: &Path, packages: &[Packages]) -> Vec<String> {
    let mut ldd = Command::new("ldd");
    ldd.arg(executable);
    if let Some(package) = packages.iter().find(|package| package.installed(executable).is_some()) {
        ldd.env("LD_LIBRARY_PATH", package.libraries());
    }
    let output = ldd.output();
    // ldd fails on a static executable, which has none.
    output.map(|output| parse_ldd(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

/// Reads the absolute paths from ldd's output.
fn parse_ldd(text: &str) -> Vec<String> {
    let path_of = |line: &str| {
        let line = line.trim();
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or(path);
        path.starts_with('/').then(|| path.to_owned())
    };
    text.lines().filter_map(path_of).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {} for the machine", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_s_paths_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(text), expected);
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }
}
