//! ICMP and ICMPv6 echo messages, and the ICMP errors about them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of a request without IP header, bytes.
pub(super) const REQUEST: usize = 8 + 32;

/// Message types of a family.
struct Types {
    request: u8,
    reply: u8,
}

const V4: Types = Types { request: 8, reply: 0 };
const V6: Types = Types { request: 128, reply: 129 };

fn types(v6: bool) -> Types {
    if v6 { V6 } else { V4 }
}

/// An echo request. Its payload begins with `token`, which only a receiver of the request can
/// return. The kernel fills in ICMPv6's checksum.
pub(super) fn request(v6: bool, id: u16, sequence: u16, token: u64) -> [u8; REQUEST] {
    let mut packet = [0; REQUEST];
    packet[0] = types(v6).request;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[8..16].copy_from_slice(&token.to_be_bytes());
    packet[16..].copy_from_slice(b"director's health check!");
    if !v6 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// RFC 1071. The length is even.
fn checksum(packet: &[u8]) -> u16 {
    let words =
        packet.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A message about a request.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Message {
    /// A reply.
    Reply { id: u16, sequence: u16, token: u64 },
    /// A router or the host reports that a request to `about` failed.
    Error { id: u16, sequence: u16, about: IpAddr, what: &'static str },
}

/// The ICMP message in an IPv4 packet, as raw sockets receive it.
pub(in super::super) fn without_ipv4_header(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(length..)
}

/// Parses a message; none if it is not about an echo request.
pub(in super::super) fn parse(v6: bool, packet: &[u8]) -> Option<Message> {
    let (&kind, &code) = (packet.first()?, packet.get(1)?);
    if kind == types(v6).reply && code == 0 {
        let token = packet.get(8..16)?.try_into().ok()?;
        let (id, sequence) = (word(packet, 4)?, word(packet, 6)?);
        return Some(Message::Reply { id, sequence, token: u64::from_be_bytes(token) });
    }
    let what = if v6 { v6_error(kind, code) } else { v4_error(kind, code) }?;
    let quoted = packet.get(8..)?;
    let (about, inner) = if v6 { v6_quoted(quoted) } else { v4_quoted(quoted) }?;
    if *inner.first()? != types(v6).request {
        return None;
    }
    Some(Message::Error { id: word(inner, 4)?, sequence: word(inner, 6)?, about, what })
}

fn v4_quoted(packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    if packet[9] != 1 {
        return None;
    }
    Some((Ipv4Addr::from(to).into(), without_ipv4_header(packet)?))
}

fn v6_quoted(packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
    // Our requests have no extension headers.
    if packet[6] != 58 {
        return None;
    }
    Some((Ipv6Addr::from(to).into(), packet.get(40..)?))
}

fn v4_error(kind: u8, code: u8) -> Option<&'static str> {
    Some(match (kind, code) {
        (3, 0 | 6 | 11) => "network unreachable",
        (3, 1 | 7 | 12) => "host unreachable",
        (3, 9 | 10 | 13) => "administratively prohibited",
        (3, _) => "unreachable",
        (11, _) => "TTL exceeded in transit (a routing loop?)",
        _ => return None,
    })
}

fn v6_error(kind: u8, code: u8) -> Option<&'static str> {
    Some(match (kind, code) {
        (1, 0) => "no route to the address",
        (1, 1 | 5 | 6) => "administratively prohibited",
        (1, 3) => "host unreachable",
        (1, _) => "unreachable",
        (3, _) => "hop limit exceeded in transit (a routing loop?)",
        _ => return None,
    })
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_as_a_reply() {
        for (v6, reply) in [(false, 0), (true, 129)] {
            let mut packet = request(v6, 7, 9, 0x1234_5678_9abc_def0);
            assert_eq!(parse(v6, &packet), None, "a request is not a reply");
            if !v6 {
                assert_eq!(checksum(&packet), 0, "its checksum makes it sum to nothing");
            }
            packet[0] = reply;
            let token = 0x1234_5678_9abc_def0;
            assert_eq!(parse(v6, &packet), Some(Message::Reply { id: 7, sequence: 9, token }));
            for length in 0..16 {
                assert_eq!(parse(v6, &packet[..length]), None, "{length} bytes of it");
            }
        }
    }

    #[test]
    fn an_error_names_the_request_it_is_about() {
        let mut v4 = vec![3, 1, 0, 0, 0, 0, 0, 0];
        v4.extend([0x46, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 9, 1, 1, 1, 1]);
        v4.extend(&request(false, 7, 9, 0)[..8]);
        let about = "10.0.0.9".parse().unwrap();
        let error = Message::Error { id: 7, sequence: 9, about, what: "host unreachable" };
        assert_eq!(parse(false, &v4), Some(error));
        let mut v6 = vec![1, 0, 0, 0, 0, 0, 0, 0];
        v6.extend([0x60, 0, 0, 0, 0, 40, 58, 64]);
        v6.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend("fd00::9".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend(&request(true, 7, 9, 0)[..8]);
        let about = "fd00::9".parse().unwrap();
        let error = Message::Error { id: 7, sequence: 9, about, what: "no route to the address" };
        assert_eq!(parse(true, &v6), Some(error));
        for length in 0..v4.len() {
            assert_eq!(parse(false, &v4[..length]), None, "{length} bytes of it");
        }
        for length in 0..v6.len() {
            assert_eq!(parse(true, &v6[..length]), None, "{length} bytes of it");
        }
        v4[17] = 17;
        assert_eq!(parse(false, &v4), None, "about UDP");
    }

    #[test]
    fn malformed_packets_are_ignored() {
        assert_eq!(without_ipv4_header(&[]), None);
        assert_eq!(without_ipv4_header(&[0x4f; 20]), None);
        for kind in 0..=255 {
            parse(false, &[kind; 100]);
            parse(true, &[kind; 100]);
        }
    }
}
