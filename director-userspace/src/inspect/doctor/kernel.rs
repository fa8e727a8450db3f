//! Checks of the kernel and of this process's capabilities.

use super::{
    Finding,
    facts::{Bpffs, HostFacts},
};
use crate::kernel::host::kernel::NEEDED;

/// NTF_EXT_MANAGED: the kernel keeps next hops fresh by itself.
const MANAGED_NEIGHBOURS: (u32, u32) = (5, 16);
/// The netdev netlink family: drivers report their XDP features.
const XDP_FEATURES: (u32, u32) = (6, 3);

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

pub(super) fn version(host: &HostFacts) -> Vec<Finding> {
    let release = host.kernel_release.as_str();
    let (major, minor) = host.kernel;
    if host.kernel < NEEDED {
        return vec![Finding::fail(
            "kernel",
            release,
            format!("kernel {major}.{minor} lacks features that the program needs"),
            format!("install kernel {}.{} or later", NEEDED.0, NEEDED.1),
        )];
    }
    if host.kernel < MANAGED_NEIGHBOURS {
        return vec![Finding::warn(
            "kernel",
            release,
            "does not keep next hops fresh by itself: they go stale when `director run` stops",
            "keep the daemon running, give backends a `mac:`, or install kernel 5.16 or later",
        )];
    }
    if host.kernel < XDP_FEATURES {
        let message = "has all that Director uses; does not report which drivers have native XDP";
        return vec![Finding::ok("kernel", release, message)];
    }
    vec![Finding::ok("kernel", release, "has all that Director uses")]
}

pub(super) fn jit(host: &HostFacts) -> Vec<Finding> {
    // A kernel without the setting always compiles.
    match host.sysctl_number("net/core/bpf_jit_enable") {
        Some(0) => vec![Finding::warn(
            "jit",
            "net.core.bpf_jit_enable",
            "BPF programs are interpreted, which is many times slower",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        )],
        _ => Vec::new(),
    }
}

pub(super) fn btf(host: &HostFacts) -> Vec<Finding> {
    if host.btf {
        return Vec::new();
    }
    vec![Finding::warn(
        "btf",
        "/sys/kernel/btf/vmlinux",
        "the kernel has no BTF: forwarding works, BPF tools show less",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (every distribution's is)",
    )]
}

pub(super) fn bpffs(host: &HostFacts) -> Vec<Finding> {
    let path = "/sys/fs/bpf";
    match host.bpffs {
        Bpffs::Mounted => vec![Finding::ok("bpffs", path, "is mounted")],
        Bpffs::Missing => vec![Finding::warn(
            "bpffs",
            path,
            "no BPF filesystem is mounted, and without it forwarding ends with the process",
            "`mount -t bpf bpf /sys/fs/bpf` (`director attach` as root does it by itself)",
        )],
        Bpffs::ReadOnly => vec![Finding::fail(
            "bpffs",
            path,
            "is mounted read-only here, so nothing can be pinned",
            "in a systemd unit with ProtectKernelTunables=, add `ReadWritePaths=/sys/fs/bpf`",
        )],
    }
}

pub(super) fn capabilities(host: &HostFacts) -> Vec<Finding> {
    let has = |capability: u32| host.capabilities >> capability & 1 == 1;
    let mut missing = Vec::new();
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push(("CAP_BPF", "loading the program"));
    }
    if !has(CAP_NET_ADMIN) {
        missing.push(("CAP_NET_ADMIN", "attaching it and resolving next hops"));
    }
    if !has(CAP_NET_RAW) {
        missing.push((
            "CAP_NET_RAW",
            "announcing VIPs, looking up their owners, and learning the path MTUs of tunnels",
        ));
    }
    if missing.is_empty() {
        return vec![Finding::ok("capabilities", "this process", "has all that Director needs")];
    }
    let fail = |(name, what_for): (&str, &str)| {
        Finding::fail(
            "capabilities",
            name,
            format!("is missing; needed for {what_for}"),
            format!("run as root, or add {name} to AmbientCapabilities= of the unit"),
        )
    };
    missing.into_iter().map(fail).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn host() -> HostFacts {
        HostFacts {
            kernel: (6, 12),
            btf: true,
            bpffs: Bpffs::Mounted,
            capabilities: u64::MAX,
            ..HostFacts::default()
        }
    }

    #[test]
    fn kernels() {
        for (kernel, level) in [
            ((4, 19), Level::Fail),
            ((5, 11), Level::Fail),
            ((5, 12), Level::Warn),
            ((5, 15), Level::Warn),
            ((5, 16), Level::Ok),
            ((6, 1), Level::Ok),
            ((7, 2), Level::Ok),
        ] {
            let findings = version(&HostFacts { kernel, ..host() });
            assert_eq!(findings[0].level, level, "{kernel:?}");
        }
    }

    #[test]
    fn a_disabled_jit_is_a_warning() {
        let mut facts = host();
        assert!(jit(&facts).is_empty());
        for (value, findings) in [("1", 0), ("0", 1)] {
            facts.sysctls.insert("net/core/bpf_jit_enable".into(), value.into());
            assert_eq!(jit(&facts).len(), findings, "{value}");
        }
    }

    #[test]
    fn the_bpf_filesystem() {
        for (state, level, fix) in [
            (Bpffs::Mounted, Level::Ok, None),
            (Bpffs::Missing, Level::Warn, Some("mount -t bpf")),
            (Bpffs::ReadOnly, Level::Fail, Some("ReadWritePaths")),
        ] {
            let findings = bpffs(&HostFacts { bpffs: state, ..host() });
            assert_eq!(findings[0].level, level, "{state:?}");
            let given = findings[0].fix.clone().unwrap_or_default();
            assert!(given.contains(fix.unwrap_or_default()), "{given}");
        }
    }

    #[test]
    fn missing_type_information_is_a_warning() {
        assert!(btf(&host()).is_empty());
        assert_eq!(btf(&HostFacts { btf: false, ..host() })[0].level, Level::Warn);
    }

    #[test]
    fn each_missing_capability_is_named() {
        let named = |mask: u64| -> Vec<String> {
            let findings = capabilities(&HostFacts { capabilities: mask, ..host() });
            findings.into_iter().filter(|f| f.level == Level::Fail).map(|f| f.subject).collect()
        };
        assert_eq!(named(0), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW"]);
        assert_eq!(named(1 << CAP_SYS_ADMIN | 1 << CAP_NET_RAW), ["CAP_NET_ADMIN"]);
        let enough = 1 << CAP_BPF | 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW;
        assert_eq!(named(enough), [""; 0]);
    }
}
