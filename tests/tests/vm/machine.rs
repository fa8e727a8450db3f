//! Runs a test in a virtual machine: the test binary and `director` go there, and the machine runs
//! this one test again.

use std::{env, time::Duration};

use director_tests::live::binary;
use xtask::vm::{KernelVersion, Vm};

/// Set inside a machine.
const INSIDE: &str = "DIRECTOR_TEST_MACHINE";
/// Emulation on a busy host takes its time.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Runs `body` in a machine. `test` is the name of the test function that calls this.
///
/// # Panics
/// If the machine does not boot, or the test fails in it.
pub(crate) fn within(kernel: KernelVersion, test: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Vm::new(kernel)
        .modules(["veth", "bridge", "af_packet", "ipv6", "ipip", "sit", "ip6_tunnel"])
        .file(env::current_exe().expect("known"), "/host/deps/tests")
        // Where a test looks for it.
        .file(binary(), "/host/director")
        .file("/usr/sbin/ip", "/host/ip")
        .script(format!(
            "export PATH=/host:$PATH {INSIDE}=1 RUST_BACKTRACE=0\n\
             /host/deps/tests --exact {test} --nocapture 2>&1"
        ))
        .timeout(TIMEOUT)
        .run()
        .expect("boots");
    assert_eq!(output.status, 0, "{kernel:?}: {}", output.text);
    assert!(output.text.contains("test result: ok. 1 passed"), "{kernel:?}: {}", output.text);
    println!("{}", output.text);
}
