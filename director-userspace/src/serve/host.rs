//! Validates the Host header: a name that another site points at this host (DNS rebinding) would let
//! that site's pages read what only this host's users should.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

/// Names that listeners answer to, besides addresses, localhost and the hostname.
pub type Names = Arc<[String]>;

/// Refuses foreign names in the Host header.
pub(super) async fn guard(State(names): State<Names>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| is_own_name(host, &names)) {
        return next.run(request).await;
    }
    let why = "use the host's IP address, its own name, localhost, or a name of `api.names`: another \
               name may belong to a site that points it here\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Whether a Host header has a name that another site cannot point here: an IP address, localhost,
/// the hostname, or one of `names`, which are in lower case.
fn is_own_name(host: &str, names: &[String]) -> bool {
    let Some(name) = without_port(host) else { return false };
    if name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || names.contains(&name)
        || Some(name) == hostname()
}

/// The host without its port, and an IPv6 address without brackets.
fn without_port(host: &str) -> Option<&str> {
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

fn hostname() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?.to_ascii_lowercase();
    // A hostname in the form of an IPv4 address is not accepted.
    (!name.is_empty() && name.parse::<Ipv4Addr>().is_err()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_accepted() {
        for own in [
            "127.0.0.1:9816",
            "127.0.0.1",
            "[::1]:9816",
            "[2001:db8::1]",
            "localhost:9816",
            "LOCALHOST",
            "director.localhost:1",
            "192.0.2.1:80",
        ] {
            assert!(is_own_name(own, &[]), "{own}");
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
            assert!(!is_own_name(other, &[]), "{other}");
        }
        assert!(is_own_name(&hostname().unwrap(), &[]));
        let names = ["lb1.example.net".to_owned()];
        for host in ["lb1.example.net:9815", "LB1.example.NET", "lb1.example.net."] {
            assert!(is_own_name(host, &names) && !is_own_name(host, &[]), "{host}");
        }
        assert!(!is_own_name("x.lb1.example.net", &names));
    }
}
