//! A second implementation of what a director should do with a frame: written for clarity, from the
//! documentation, without the program's code.

use std::net::{IpAddr, Ipv6Addr};

use director_userspace::policy::config::model::{Config, Port, Protocol, Service};

use crate::packet::{
    AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, ROUTING, TCP, UDP, fold,
    sum_of,
};

/// Maximum offset of a header in the frame, bytes; headers beyond it are not parsed.
const FURTHEST: usize = 1023;
/// Maximum number of extension headers parsed.
const EXTENSIONS: usize = 6;

/// A flow, from the client to the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The client, or the client in a quoted packet.
    pub source: (IpAddr, u16),
    /// The VIP and its port.
    pub destination: (IpAddr, u16),
    /// TCP or UDP.
    pub protocol: u8,
}

/// Why no host can have sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// TTL or hop limit 0.
    HopLimit,
    /// Its source is no address of a host, or its own destination.
    Source,
}

/// Whether a host can have this address (RFC 6890).
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let class = v4.octets()[0];
            !(class == 0 || class == 127 || (224..=255).contains(&class))
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast())
                && v6.to_ipv4_mapped().is_none()
        }
    }
}

/// The flaw of a packet from `sender`, about a flow from `client` to `vip`.
fn flaw(hops: u8, sender: IpAddr, client: IpAddr, vip: IpAddr) -> Option<Flaw> {
    if !is_host(client) || client == vip || !is_host(sender) {
        return Some(Flaw::Source);
    }
    (hops == 0).then_some(Flaw::HopLimit)
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not for a service: not IP, another protocol, or an inconsistent header.
    Other,
    /// A fragment of a TCP or UDP packet to this address; `None`: of one of the two.
    Fragment(IpAddr, Option<u8>),
    /// A whole TCP or UDP packet, or an ICMP error about one.
    Flow {
        /// The flow it belongs to.
        flow: Flow,
        /// Whether it is an ICMP error.
        is_error: bool,
        /// Where the IP header starts.
        l3_offset: usize,
        /// Length of the IP packet.
        l3_length: usize,
        /// Why it is dropped whatever its service.
        flaw: Option<Flaw>,
    },
}

/// The expected result for a frame.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Passed, unchanged.
    Pass,
    /// Dropped as a fragment.
    Fragment,
    /// It belongs to this service.
    Service(&'a Service),
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A header of at least `length` bytes at `at`.
fn header(frame: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    if at > FURTHEST { None } else { frame.get(at..at + length) }
}

/// Reads a frame.
pub fn classify(frame: &[u8]) -> Class {
    read(frame).unwrap_or(Class::Other)
}

fn read(frame: &[u8]) -> Option<Class> {
    let mut ethertype = u16_at(frame.get(..14)?, 12);
    let mut at = 14;
    for _ in 0..2 {
        if ethertype == 0x8100 || ethertype == 0x88a8 {
            ethertype = u16_at(frame.get(at..at + 4)?, 2);
            at += 4;
        }
    }
    match ethertype {
        0x0800 => ipv4(frame, at),
        0x86dd => ipv6(frame, at),
        _ => None,
    }
}

/// An IPv4 header and its length.
struct V4<'a> {
    bytes: &'a [u8],
    length: usize,
}

fn v4_header(packet: &[u8]) -> Option<V4<'_>> {
    let first = packet.get(..20)?;
    let length = usize::from(first[0] & 0xf) * 4;
    (first[0] >> 4 == 4 && length >= 20).then_some(())?;
    Some(V4 { bytes: packet.get(..length)?, length })
}

impl V4<'_> {
    fn source(&self) -> IpAddr {
        IpAddr::from(<[u8; 4]>::try_from(&self.bytes[12..16]).expect("four bytes"))
    }

    fn destination(&self) -> IpAddr {
        IpAddr::from(<[u8; 4]>::try_from(&self.bytes[16..20]).expect("four bytes"))
    }
}

fn ipv4(frame: &[u8], l3_offset: usize) -> Option<Class> {
    let first = frame.get(l3_offset..l3_offset + 20)?;
    let l3_length = usize::from(u16_at(first, 2));
    // Bytes after the packet are padding.
    let packet = frame.get(l3_offset..l3_offset + l3_length)?;
    let ip = v4_header(packet)?;
    (fold(sum_of(ip.bytes)) == 0).then_some(())?;
    let (source, destination, protocol) = (ip.source(), ip.destination(), ip.bytes[9]);
    let payload = &packet[ip.length..];
    if u16_at(ip.bytes, 6) & 0x3fff != 0 {
        return (protocol == TCP || protocol == UDP)
            .then_some(Class::Fragment(destination, Some(protocol)));
    }
    let hops = ip.bytes[8];
    if protocol != ICMP {
        let (from, to) = ports(protocol, payload)?;
        let flow = Flow { source: (source, from), destination: (destination, to), protocol };
        let flaw = flaw(hops, source, source, destination);
        return Some(Class::Flow { flow, is_error: false, l3_offset, l3_length, flaw });
    }
    matches!(payload.get(..8)?[0], 3 | 4 | 11 | 12).then_some(())?;
    let quote = v4_header(&payload[8..])?;
    let behind = payload[8 + quote.length..].get(..8)?;
    (u16_at(quote.bytes, 6) & 0x1fff == 0 && quote.source() == destination).then_some(())?;
    let flow = quoted(quote.source(), quote.destination(), quote.bytes[9], behind)?;
    let flaw = flaw(hops, source, flow.source.0, destination);
    Some(Class::Flow { flow, is_error: true, l3_offset, l3_length, flaw })
}

/// Source and destination port of a TCP or UDP packet with consistent lengths.
fn ports(protocol: u8, packet: &[u8]) -> Option<(u16, u16)> {
    match protocol {
        TCP => {
            let header = usize::from(packet.get(..20)?[12] >> 4) * 4;
            (header >= 20 && header <= packet.len()).then_some(())?;
        }
        UDP => {
            let length = usize::from(u16_at(packet.get(..8)?, 4));
            (length >= 8 && length <= packet.len()).then_some(())?;
        }
        _ => return None,
    }
    Some((u16_at(packet, 0), u16_at(packet, 2)))
}

/// The flow that a quoted packet belongs to: the quote is a packet from the VIP to the client.
fn quoted(vip: IpAddr, client: IpAddr, protocol: u8, behind: &[u8]) -> Option<Flow> {
    (protocol == TCP || protocol == UDP).then_some(())?;
    let (vip_port, client_port) = (u16_at(behind, 0), u16_at(behind, 2));
    Some(Flow { source: (client, client_port), destination: (vip, vip_port), protocol })
}

fn v6_addresses(header: &[u8]) -> (IpAddr, IpAddr) {
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    (address(8), address(24))
}

fn ipv6(frame: &[u8], l3_offset: usize) -> Option<Class> {
    let ip = frame.get(l3_offset..l3_offset + 40)?;
    let l3_length = 40 + usize::from(u16_at(ip, 4));
    let end = l3_offset + l3_length;
    (ip[0] >> 4 == 6 && l3_length <= 0xffff && end <= frame.len()).then_some(())?;
    let frame = &frame[..end];
    let (source, destination) = v6_addresses(ip);
    let upper = skip(frame, ip[6], l3_offset + 40)?;
    let protocol = upper.protocol;
    if upper.is_later && is_extension(protocol) {
        return Some(Class::Fragment(destination, None));
    }
    if upper.is_later || upper.is_first {
        return (protocol == TCP || protocol == UDP)
            .then_some(Class::Fragment(destination, Some(protocol)));
    }
    let hops = ip[7];
    if protocol != ICMPV6 {
        let (from, to) = ports(protocol, frame.get(upper.at..)?)?;
        let flow = Flow { source: (source, from), destination: (destination, to), protocol };
        let flaw = flaw(hops, source, source, destination);
        return Some(Class::Flow { flow, is_error: false, l3_offset, l3_length, flaw });
    }
    matches!(header(frame, upper.at, 8)?[0], 1..=4).then_some(())?;
    let quote = header(frame, upper.at + 8, 40)?;
    (quote[0] >> 4 == 6).then_some(())?;
    let (vip, client) = v6_addresses(quote);
    (vip == destination).then_some(())?;
    let quoted_upper = skip(frame, quote[6], upper.at + 48)?;
    (!quoted_upper.is_later).then_some(())?;
    let behind = header(frame, quoted_upper.at, 8)?;
    let flow = quoted(vip, client, quoted_upper.protocol, behind)?;
    let flaw = flaw(hops, source, client, destination);
    Some(Class::Flow { flow, is_error: true, l3_offset, l3_length, flaw })
}

/// The upper layer after the extension headers.
struct Upper {
    protocol: u8,
    at: usize,
    /// The first fragment of several.
    is_first: bool,
    /// A fragment without the transport header.
    is_later: bool,
}

fn is_extension(protocol: u8) -> bool {
    [HOP_BY_HOP, ROUTING, DESTINATION, AUTHENTICATION, FRAGMENT].contains(&protocol)
}

fn skip(packet: &[u8], mut protocol: u8, mut at: usize) -> Option<Upper> {
    let mut is_first = false;
    for skipped in 0.. {
        if !is_extension(protocol) {
            return Some(Upper { protocol, at, is_first, is_later: false });
        }
        (skipped < EXTENSIONS).then_some(())?;
        let extension = header(packet, at, 8)?;
        let length = match protocol {
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            FRAGMENT => {
                let word = u16_at(extension, 2);
                if word & 0xfff8 != 0 {
                    return Some(Upper {
                        protocol: extension[0],
                        at,
                        is_first: false,
                        is_later: true,
                    });
                }
                is_first |= word & 1 != 0;
                8
            }
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        (protocol != ROUTING || extension[3] == 0).then_some(())?;
        protocol = packet[at];
        at += length;
        (at <= packet.len() && at <= FURTHEST).then_some(())?;
    }
    None
}

/// The expected result for a frame under a configuration.
pub fn expected<'a>(class: &Class, config: &'a Config) -> Expected<'a> {
    let is = |service: &&Service, address: IpAddr, protocol: Option<u8>| {
        let number = match service.frontend.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        service.frontend.address == address && protocol.is_none_or(|protocol| number == protocol)
    };
    match class {
        Class::Other => Expected::Pass,
        Class::Fragment(address, protocol) => {
            let mut services = config.services.iter();
            if services.any(|s| is(&s, *address, *protocol)) {
                Expected::Fragment
            } else {
                Expected::Pass
            }
        }
        Class::Flow { flow, .. } => {
            let (address, port) = flow.destination;
            let mut candidates: Vec<&Service> =
                config.services.iter().filter(|s| is(s, address, Some(flow.protocol))).collect();
            // An exact port takes precedence over `any`.
            candidates.sort_by_key(|service| service.frontend.port == Port::Any);
            let matching = candidates.into_iter().find(|service| match service.frontend.port {
                Port::Any => true,
                Port::Exact(exact) => exact.get() == port,
            });
            matching.map_or(Expected::Pass, Expected::Service)
        }
    }
}
