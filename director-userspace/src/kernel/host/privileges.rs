//! This process's privileges.

use std::{fs, io};

/// The effective capabilities of this thread, a bit each (capabilities(7)).
///
/// # Errors
///
/// If /proc is not mounted.
pub fn effective() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/thread-self/status has no CapEff line"))
}

/// What a command needs, and the capabilities of which any one grants it.
const NEEDS: [(&str, &[u32]); 3] = [
    ("CAP_BPF (or CAP_SYS_ADMIN), to load BPF programs", &[39, 21]),
    ("CAP_PERFMON (or CAP_SYS_ADMIN), for the program's pointer arithmetic", &[38, 21]),
    ("CAP_NET_ADMIN, to attach programs and read neighbours", &[12]),
];

/// What `effective` lacks to load and attach, as a message; `None` if nothing.
pub fn missing(effective: u64) -> Option<String> {
    let lacking: Vec<&str> = NEEDS
        .iter()
        .filter(|(_, any)| !any.iter().any(|bit| effective >> bit & 1 == 1))
        .map(|(what, _)| *what)
        .collect();
    if lacking.is_empty() {
        return None;
    }
    Some(format!("this process lacks {}; run it as root (sudo)", lacking.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        assert_eq!(missing(u64::MAX), None);
        let all = missing(0).unwrap_or_default();
        assert!(all.contains("CAP_BPF") && all.contains("CAP_NET_ADMIN") && all.contains("root"));
        let only_net = missing(1 << 39 | 1 << 38).unwrap_or_default();
        assert!(only_net.contains("CAP_NET_ADMIN") && !only_net.contains("CAP_BPF"));
        // Before 5.8 there was only CAP_SYS_ADMIN.
        assert_eq!(missing(1 << 21 | 1 << 12), None);
    }
}
