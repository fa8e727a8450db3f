//! `192.0.2.10:80`, `[2001:db8::10]:443`, `www.example.net:http`.

use std::net::{IpAddr, Ipv6Addr};

use super::super::{names::Names, table::Protocol};

/// Reads an address and a port; the port is 0 if there is none.
///
/// An error is a text for people.
pub(super) fn endpoint(
    text: &str,
    protocol: Protocol,
    names: &Names,
) -> Result<(IpAddr, u16), String> {
    // Without brackets, all colons belong to the address.
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok((address.into(), 0));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| format!("{text}: no closing ]"))?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return Err(format!("{text}: a port follows ] after a colon")),
        };
        (host, port)
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let address = address(host, names)?;
    let port = match port {
        None => 0,
        Some(port) => match port.parse::<u16>() {
            Ok(port) => port,
            Err(_) if port.starts_with(|c: char| c.is_ascii_alphabetic()) => names
                .port(port, protocol)
                .ok_or_else(|| format!("/etc/services has no port {port}/{}", protocol.word()))?,
            Err(_) => return Err(format!("{port} is no port")),
        },
    };
    Ok((address, port))
}

fn address(host: &str, names: &Names) -> Result<IpAddr, String> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    // `1.2.3` and `300.1.1.1` are mistakes, not names.
    let is_name = host.starts_with(|c: char| c.is_ascii_alphabetic())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !is_name {
        return Err(format!("{host:?} is no IP address"));
    }
    names.host(host).ok_or_else(|| format!("/etc/hosts has no address of {host}"))
}
