//! Which names this host is asked by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a Host header names this host in a way that nobody else can have arranged: by address,
/// as localhost, or by its own name.
pub(super) fn is_ours(host: &str) -> bool {
    let Some(name) = name_of(host) else { return false };
    if name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || Some(name) == own_name()
}

/// The host without its port, and an IPv6 address without brackets.
fn name_of(host: &str) -> Option<&str> {
    let is_port = |port: &str| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        return (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(address);
    }
    match host.split_once(':') {
        Some((name, port)) => is_port(port).then_some(name),
        None => Some(host),
    }
}

fn own_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?.to_ascii_lowercase();
    // A name of digits is nobody's.
    (!name.is_empty() && name.parse::<Ipv4Addr>().is_err()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_surely_ours_will_do() {
        for ours in [
            "127.0.0.1:9816",
            "127.0.0.1",
            "[::1]:9816",
            "[2001:db8::1]",
            "localhost:9816",
            "LOCALHOST",
            "director.localhost:1",
            "192.0.2.1:80",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in [
            "",
            "attacker.example",
            "attacker.example:9816",
            "localhost.attacker.example",
            "127.0.0.1.attacker.example:9816",
            "[::1]attacker.example",
            "[attacker.example]:80",
            "localhost:attacker.example",
            "notlocalhost",
            "127.0.0.1:",
        ] {
            assert!(!is_ours(other), "{other}");
        }
        assert!(is_ours(&own_name().unwrap()));
    }
}
