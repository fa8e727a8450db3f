//! The machine that the figures were measured on.

use std::fs;

/// The machine, as named in results.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// The CPU's model name.
    pub(crate) cpu: String,
    /// The kernel's mitigations of CPU vulnerabilities; those that do not affect the CPU are left
    /// out. A return costs four times as much with some of them.
    pub(crate) mitigations: String,
}

impl Host {
    /// This machine.
    pub(crate) fn here() -> Self {
        let kernel = nix::sys::utsname::uname()
            .map(|names| names.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        Self { kernel, cpu: cpu(), mitigations: mitigations() }
    }
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    // Virtual machines shorten the name; family and model identify it.
    format!("{} (family {}, model {})", field("model name"), field("cpu family"), field("model"))
}

fn mitigations() -> String {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return "unknown".to_owned();
    };
    let mut lines: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let what = fs::read_to_string(entry.path()).ok()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            (!what.starts_with("Not affected")).then(|| format!("{name}: {}", what.trim()))
        })
        .collect();
    lines.sort();
    lines.join(" | ")
}
