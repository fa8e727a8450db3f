//! Virtual machines with stock Debian kernels, for what the host's kernel lacks or may lack:
//! tunnel devices, IPVS, older verifiers.
//!
//! A machine is a kernel, an initramfs made of busybox and the files given, and a shell script. It
//! is emulated (no KVM needed), boots in seconds, and ends with the script:
//!
//! ```no_run
//! use xtask::vm::{KernelVersion, Vm};
//! let output = Vm::new(KernelVersion::V6_1).module("ipip").script("uname -r").run()?;
//! assert_eq!(output.status, 0, "{}", output.text);
//! # anyhow::Ok(())
//! ```
//!
//! In the script, applets of busybox shadow programs of the same name: call iproute2's `ip` by the
//! path it was put at, as in `.file("/usr/sbin/ip", "/host/ip")`.

mod apt;
mod cpio;
mod image;
mod kernel;
mod packages;
mod system;
mod tools;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{self, Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

pub use kernel::{Kernel, KernelVersion};
pub use packages::Packages;
pub use system::System;
use tools::Tools;

use crate::{sh, workspace};

/// Precedes the script's exit status on the console.
const STATUS_MARK: &str = "@@director-vm-status ";
/// Precedes what the script prints.
const BEGIN_MARK: &str = "@@director-vm-begin";

/// Everything that QEMU can emulate, except the 16-byte compare-and-swap: under QEMU 7.2 a trap on
/// it crashes the kernel's allocator (seen with 6.12: double fault in `__kmalloc`).
const CPU: &str = "max,cx16=off";

/// A machine to run.
#[derive(Clone, Debug)]
pub struct Vm {
    kernel: KernelVersion,
    files: Vec<(PathBuf, String)>,
    packages: Vec<Packages>,
    system: Option<System>,
    modules: Vec<String>,
    script: String,
    cpus: u32,
    memory_mib: u32,
    timeout: Duration,
    cmdline: Vec<String>,
    qemu: Vec<String>,
    accel: String,
    echo: bool,
    listener: Option<Sender<String>>,
}

/// Fetches QEMU, busybox and a kernel into `target/vm`, so that the first machine does not have to.
///
/// # Errors
///
/// There is no apt with Debian's archive among its sources, or it cannot download.
pub fn prepare(version: KernelVersion) -> Result<()> {
    Tools::fetch()?;
    Kernel::fetch(version)?;
    Ok(())
}

/// The result of a machine.
#[derive(Clone, Debug)]
pub struct Output {
    /// The output of the script, and of the kernel meanwhile; lines end in `\n`.
    pub text: String,
    /// The script's exit status.
    pub status: i32,
    /// From QEMU's start to its end.
    pub elapsed: Duration,
}

impl Vm {
    /// A machine with two CPUs, 1 GiB of memory, and one minute.
    pub fn new(kernel: KernelVersion) -> Self {
        Self {
            kernel,
            files: Vec::new(),
            packages: Vec::new(),
            system: None,
            modules: Vec::new(),
            script: String::new(),
            cpus: 2,
            memory_mib: 1024,
            timeout: Duration::from_secs(60),
            cmdline: Vec::new(),
            qemu: Vec::new(),
            accel: "tcg,thread=multi".to_owned(),
            echo: false,
            listener: None,
        }
    }

    /// Puts a file of the host into the machine, with the shared libraries that it needs and its
    /// permissions. A relative host path is one in the workspace.
    #[must_use]
    pub fn file(mut self, host: impl AsRef<Path>, guest: impl Into<String>) -> Self {
        self.files.push((workspace::root().join(host), guest.into()));
        self
    }

    /// Puts a program of unpacked packages into the machine, with its shared libraries.
    ///
    /// # Errors
    ///
    /// There is no program of this name.
    pub fn program(
        mut self,
        packages: &Packages,
        name: &str,
        guest: impl Into<String>,
    ) -> Result<Self> {
        self.files.push((packages.program(name)?, guest.into()));
        self.packages.push(packages.clone());
        Ok(self)
    }

    /// Boots an installed system instead of busybox alone: its init starts, and the script runs as
    /// a unit of it. What the machine writes to its disk is discarded.
    #[must_use]
    pub fn system(mut self, system: &System) -> Self {
        let drive = format!("file={},format=raw,if=virtio,snapshot=on", system.image().display());
        self.system = Some(system.clone());
        self.modules(["virtio_pci", "virtio_blk"]).qemu(["-drive", &drive])
    }

    /// Loads a module, and those it depends on, before the script starts. Parameters may follow
    /// the name, as in `ip_vs conn_tab_bits=16`.
    #[must_use]
    pub fn module(mut self, name: impl Into<String>) -> Self {
        self.modules.push(name.into());
        self
    }

    /// Loads several modules.
    #[must_use]
    pub fn modules<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        self.modules.extend(names.into_iter().map(Into::into));
        self
    }

    /// Appends to the script, which `sh -e` runs.
    #[must_use]
    pub fn script(mut self, script: impl AsRef<str>) -> Self {
        self.script.push_str(script.as_ref());
        self.script.push('\n');
        self
    }

    /// The number of CPUs.
    #[must_use]
    pub fn cpus(mut self, n_cpus: u32) -> Self {
        self.cpus = n_cpus;
        self
    }

    /// The memory in MiB; it holds the image as well.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// After this the machine is killed and [`Self::run`] fails.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Appends to the kernel's command line.
    #[must_use]
    pub fn cmdline(mut self, parameters: impl Into<String>) -> Self {
        self.cmdline.push(parameters.into());
        self
    }

    /// Appends arguments for QEMU: devices, for example.
    #[must_use]
    pub fn qemu<I: IntoIterator<Item: Into<String>>>(mut self, arguments: I) -> Self {
        self.qemu.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Makes guest time count instructions, one nanosecond each, on one CPU: figures are then
    /// reproducible and comparable, while emulated time is noise.
    #[must_use]
    pub fn count_instructions(mut self) -> Self {
        self.cpus = 1;
        self.accel = "tcg".to_owned();
        self.cmdline("init_on_alloc=0 init_on_free=0 mitigations=off clocksource=tsc tsc=reliable")
            .qemu(["-icount", "shift=0,sleep=off"])
    }

    /// Shows the console on stderr while the machine runs.
    #[must_use]
    pub fn echo(mut self) -> Self {
        self.echo = true;
        self
    }

    /// Sends every line of the console, without its end, while the machine runs.
    #[must_use]
    pub fn listen(mut self, listener: Sender<String>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Fetches the kernel if it is missing, boots, runs the script, and powers off.
    ///
    /// # Errors
    ///
    /// QEMU, busybox, the kernel, a module or a file is missing; the machine did not reach the end
    /// of the script in time. What it printed so far is part of the error. A script that fails is
    /// no error: see [`Output::status`].
    pub fn run(self) -> Result<Output> {
        let tools = Tools::fetch()?;
        let kernel = Kernel::fetch(self.kernel)?;
        let scratch = Scratch::create()?;
        let image = scratch.0.join("initramfs.cpio");
        image::write(&image, &tools.busybox, &kernel, &self)?;

        let mut command = tools.qemu();
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-monitor", "none", "-serial", "stdio"])
            .args(["-accel", &self.accel, "-cpu", CPU, "-smp", &self.cpus.to_string()])
            .args(["-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(&image)
            .args(["-append", &self.append()])
            .args(&self.qemu)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let child =
            command.spawn().with_context(|| format!("cannot run {}", sh::show(&command)))?;
        let forward = |line: &str| {
            if self.echo {
                eprint!("{line}");
            }
            if let Some(listener) = &self.listener {
                // The receiver may be gone before the end.
                let _ = listener.send(line.trim_end().to_owned());
            }
        };
        let console = Console::follow(child, started + self.timeout, forward)?;
        let elapsed = started.elapsed();
        if console.timed_out {
            let text = console.text;
            bail!("the machine was still running after {:?}:\n{text}", self.timeout);
        }
        let Some((text, status)) = parse(&console.text) else {
            bail!("the machine stopped before the script's end:\n{}", console.text)
        };
        Ok(Output { text, status, elapsed })
    }

    fn append(&self) -> String {
        // panic=-1 with -no-reboot: a panic ends QEMU at once instead of waiting for the timeout.
        let mut append = "console=ttyS0 quiet loglevel=4 panic=-1".to_owned();
        for parameters in &self.cmdline {
            append.push(' ');
            append.push_str(parameters);
        }
        append
    }
}

/// Splits the console's text into what the script printed and its exit status.
fn parse(console: &str) -> Option<(String, i32)> {
    let (_, rest) = console.split_once(BEGIN_MARK)?;
    let (text, rest) = rest.rsplit_once(STATUS_MARK)?;
    let status = rest.lines().next()?.trim().parse().ok()?;
    Some((text.trim_start_matches('\n').to_owned(), status))
}

/// The console output of a machine.
struct Console {
    text: String,
    timed_out: bool,
}

impl Console {
    /// Collects the console and QEMU's own messages until the machine ends or `deadline` passes.
    fn follow(mut child: Child, deadline: Instant, forward: impl Fn(&str)) -> Result<Self> {
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().context("QEMU's console is not piped")?;
        let stderr = child.stderr.take().context("QEMU's messages are not piped")?;
        let readers: [Box<dyn std::io::Read + Send>; 2] = [Box::new(stdout), Box::new(stderr)];
        for reader in readers {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(reader);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    let text = String::from_utf8_lossy(&line).replace('\r', "");
                    line.clear();
                    if sender.send(text).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut console = Self { text: String::new(), timed_out: false };
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    forward(&line);
                    console.text.push_str(&line);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    console.timed_out = true;
                    child.kill().context("cannot kill QEMU")?;
                    break;
                }
            }
        }
        child.wait().context("cannot wait for QEMU")?;
        Ok(console)
    }
}

/// A directory for one run, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = workspace::vm().join(format!("run-{}-{number}", process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_output_and_status_are_extracted() {
        let console = format!("boot\n{BEGIN_MARK}\none\ntwo\n{STATUS_MARK}3\nreboot: Power down\n");
        assert_eq!(parse(&console), Some(("one\ntwo\n".to_owned(), 3)));
    }

    #[test]
    fn a_machine_that_died_has_no_status() {
        assert_eq!(parse(&format!("boot\n{BEGIN_MARK}\none\nKernel panic\n")), None);
        assert_eq!(parse("Kernel panic\n"), None);
    }
}
