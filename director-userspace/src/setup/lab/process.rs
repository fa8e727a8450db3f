//! The processes of a lab: the one that built it, and those that still run in it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::LabError;
use crate::kernel::net::NetNs;

/// How long processes may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// A process, distinct from a later one with the same PID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: u32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

impl Identity {
    pub(super) fn own() -> Result<Self, LabError> {
        let pid = std::process::id();
        let started = started(pid).ok_or_else(|| {
            let why = std::io::Error::other("is /proc mounted?");
            LabError::system("read /proc/self/stat", why)
        })?;
        Ok(Self { pid, started })
    }

    pub(super) fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// The 22nd field of /proc/PID/stat, counted after the command, which may hold blanks.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Ends every process whose main thread is in one of these namespaces: SIGTERM, then SIGKILL.
pub(super) fn end_all_in(namespaces: impl Iterator<Item = NetNs>) -> Result<(), LabError> {
    // Held open until the end, so that no inode number is reused.
    let namespaces: Vec<NetNs> = namespaces.collect();
    let ids: Vec<(u64, u64)> = namespaces.iter().filter_map(|netns| netns.id().ok()).collect();
    let began = Instant::now();
    let mut signalled = Vec::new();
    loop {
        let left = processes_in(&ids)?;
        if left.is_empty() {
            return Ok(());
        }
        let waited = began.elapsed();
        if waited > 2 * GRACE {
            let why = std::io::Error::other(format!("still there after SIGKILL: {left:?}"));
            return Err(LabError::system("end the lab's processes", why));
        }
        for pid in left {
            // An error means that the process ended meanwhile.
            if waited > GRACE {
                let _ = kill(pid, Signal::SIGKILL);
            } else if !signalled.contains(&pid) {
                let _ = kill(pid, Signal::SIGTERM);
                signalled.push(pid);
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn processes_in(namespaces: &[(u64, u64)]) -> Result<Vec<Pid>, LabError> {
    let own = std::process::id();
    let proc = fs::read_dir("/proc").map_err(|e| LabError::system("list /proc", e))?;
    let pids = proc.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids
        .filter(|&pid: &u32| pid != own)
        .filter(|pid| {
            // A zombie has no namespace any more, and no file here.
            let netns = fs::metadata(format!("/proc/{pid}/ns/net"));
            netns.is_ok_and(|meta| namespaces.contains(&(meta.dev(), meta.ino())))
        })
        .map(|pid| Pid::from_raw(pid as i32))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_identified_by_its_start() {
        let own = Identity::own().expect("proc");
        assert!(own.is_alive());
        let earlier = Identity { started: own.started.wrapping_sub(1), ..own };
        assert!(!earlier.is_alive(), "another process with the same PID");
    }
}
