//! Waits until no packet can still hold what it read before.

use std::{thread, time::Duration};

/// `MEMBARRIER_CMD_GLOBAL` of linux/membarrier.h, kernel 4.3.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Returns when every packet in flight at the call is finished. XDP programs run in an RCU
/// read-side section, and this membarrier waits for all of those.
pub(super) fn wait() {
    // SAFETY: a system call without pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Refused on kernels with nohz_full CPUs. No packet takes a tenth of a second.
        thread::sleep(Duration::from_millis(100));
    }
}
