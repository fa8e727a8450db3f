//! Runs a test in a virtual machine: the test binary and `director` are copied into it, and the
//! machine runs this one test again.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use director_tests::live::binary;
use xtask::vm::{KernelVersion, Vm};

/// Environment variable that is set inside a machine.
const INSIDE: &str = "DIRECTOR_TEST_MACHINE";
/// How often a machine may be started.
const BOOTS: u32 = 3;
/// Emulation on a busy host is slow.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Whether this process runs inside such a machine.
pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs `body` in a machine that `equip` adds to. `test` is the name of the test function that
/// calls this.
///
/// # Panics
/// If the machine does not boot, or the test fails in it.
pub(crate) fn within(
    kernel: KernelVersion,
    test: &str,
    equip: impl Fn(Vm) -> Vm,
    body: impl FnOnce(),
) {
    if is_inside() {
        return body();
    }
    let tests = Slim::of(&env::current_exe().expect("known"));
    let director = Slim::of(&binary());
    let machine = || {
        Vm::new(kernel)
            .modules(["veth", "bridge", "af_packet", "ipv6", "ipip", "sit", "ip6_tunnel"])
            .file(&tests.0, "/host/deps/tests")
            // The path where tests expect it.
            .file(&director.0, "/host/director")
            .file("/usr/sbin/ip", "/host/ip")
            .script(format!(
                "export PATH=/host:$PATH {INSIDE}=1 RUST_BACKTRACE=0\n\
             /host/deps/tests --exact {test} --nocapture 2>&1"
            ))
            .timeout(TIMEOUT)
    };
    let mut attempts = 1..BOOTS;
    let output = loop {
        match equip(machine()).run() {
            Ok(output) => break output,
            // On a busy host, emulated CPUs sometimes fail on an instruction that another one is
            // patching (`Oops: int3` in the kernel's own code), or find no timer.
            Err(error) if attempts.next().is_some() && is_emulation_failure(&error.to_string()) => {
                eprintln!("boots again: {error}");
            }
            Err(error) => panic!("boots: {error}"),
        }
    };
    assert_eq!(output.status, 0, "{kernel:?}: {}", output.text);
    assert!(output.text.contains("test result: ok. 1 passed"), "{kernel:?}: {}", output.text);
    println!("{}", output.text);
}

/// Whether a machine failed because of its emulation.
fn is_emulation_failure(error: &str) -> bool {
    error.contains("Oops: int3") || error.contains("IO-APIC + timer doesn't work")
}

/// A copy of a program without debug information, which is most of its size. Removed when dropped.
struct Slim(PathBuf);

impl Slim {
    fn of(program: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = program.file_name().and_then(|name| name.to_str()).expect("has a name");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let copy = format!("{name}-{}-{number}-slim", process::id());
        let copy = Self(env::temp_dir().join(copy));
        // `strip` is installed with the linker that built the program.
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("-o").arg(&copy.0).arg(program);
        assert!(strip.status().expect("binutils are installed").success(), "{}", program.display());
        copy
    }
}

impl Drop for Slim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
