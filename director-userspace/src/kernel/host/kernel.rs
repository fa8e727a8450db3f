//! The kernel's version, and whether it suffices.

use nix::sys::utsname::uname;

/// The oldest kernel that Director runs on: `bpf_ktime_get_coarse_ns` came with 5.11, the newest
/// instructions that the program is compiled to with 5.12.
pub const NEEDED: (u32, u32) = (5, 12);

/// The kernel's release, such as `6.1.0-18-amd64`.
pub fn release() -> String {
    uname().map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned())
}

/// The first two numbers of a release.
pub fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    }
}

/// Why a kernel of this release does not suffice, as a message; `None` if it does, or if the
/// release has no version.
pub fn too_old(release: &str) -> Option<String> {
    let version = parse(release)?;
    let (major, minor) = NEEDED;
    (version < NEEDED)
        .then(|| format!("Linux {release} is too old: Director needs {major}.{minor} or newer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (release, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.10.0", Some((5, 10))),
            ("7.2-rc1", Some((7, 2))),
            ("", None),
            ("unknown", None),
        ] {
            assert_eq!(parse(release), version, "{release}");
        }
    }

    #[test]
    fn old_kernels_are_named() {
        let message = too_old("5.10.0-8-amd64").unwrap_or_default();
        assert!(message.contains("5.10.0-8-amd64") && message.contains("5.12"), "{message}");
        assert_eq!(too_old("5.12.0"), None);
        assert_eq!(too_old("6.1.0"), None);
        assert_eq!(too_old("odd"), None);
    }
}
