//! Packets, built byte by byte: nothing here shares code with the data plane.

use std::net::{IpAddr, SocketAddr};

/// Destination MAC address of packets.
pub const DIRECTOR_MAC: [u8; 6] = [0x02, 0xdd, 0, 0, 0, 1];
/// Source MAC address of packets.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0xee, 0, 0, 0, 1];

/// TCP flags.
pub const FIN: u8 = 1;
/// TCP flags.
pub const SYN: u8 = 2;
/// TCP flags.
pub const RST: u8 = 4;
/// TCP flags.
pub const ACK: u8 = 16;

/// Protocol numbers.
pub const ICMP: u8 = 1;
/// Protocol numbers.
pub const TCP: u8 = 6;
/// Protocol numbers.
pub const UDP: u8 = 17;
/// Protocol numbers.
pub const ICMPV6: u8 = 58;

/// IPv6 extension headers, by protocol number.
pub const HOP_BY_HOP: u8 = 0;
/// See [`HOP_BY_HOP`].
pub const ROUTING: u8 = 43;
/// See [`HOP_BY_HOP`].
pub const FRAGMENT: u8 = 44;
/// See [`HOP_BY_HOP`].
pub const AUTHENTICATION: u8 = 51;
/// See [`HOP_BY_HOP`].
pub const DESTINATION: u8 = 60;

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    tos: u8,
    ttl: u8,
    /// IPv4 options.
    options: Vec<u8>,
    /// IPv6 extension headers: number, and bytes of which the first is filled in.
    extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4: "more fragments", and the offset in bytes.
    fragment: Option<(bool, u16)>,
    /// Tags, outermost first: EtherType and control information.
    tags: Vec<(u16, u16)>,
    transport: Vec<u8>,
    shortest: usize,
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

impl Packet {
    /// A packet with this payload after its IP header.
    pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, transport: Vec<u8>) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "{source} to {destination}");
        Self {
            source,
            destination,
            protocol,
            tos: 0,
            ttl: 61,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            tags: Vec::new(),
            transport,
            shortest: 0,
        }
    }

    /// A TCP SYN from `from` to `to`, each address and port.
    pub fn tcp(from: &str, to: &str) -> Self {
        Self::tcp_with(from, to, SYN)
    }

    /// A TCP packet with these flags.
    pub fn tcp_with(from: &str, to: &str, flags: u8) -> Self {
        let (from, to) = (socket(from), socket(to));
        let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Self::ip(from.ip(), to.ip(), TCP, tcp)
    }

    /// A UDP packet with eight bytes of payload.
    pub fn udp(from: &str, to: &str) -> Self {
        let (from, to) = (socket(from), socket(to));
        let mut udp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        udp.extend([0, 16, 0, 0]);
        udp.extend(b"payload!");
        Self::ip(from.ip(), to.ip(), UDP, udp)
    }

    /// An ICMP or ICMPv6 message (by address family): type, code, last word of the header.
    pub fn icmp(from: &str, to: &str, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Self {
        let parse = |text: &str| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let (source, destination): (IpAddr, IpAddr) = (parse(from), parse(to));
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        message.extend(payload);
        let mut sum = sum_of(&message);
        if source.is_ipv6() {
            sum += pseudo_header(source, destination, ICMPV6, message.len());
        }
        message[2..4].copy_from_slice(&fold(sum).to_be_bytes());
        let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
        Self::ip(source, destination, protocol, message)
    }

    /// The packet in the reverse direction: sent by a backend, and quoted in ICMP errors.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        std::mem::swap(&mut self.source, &mut self.destination);
        let (a, b) = (self.transport[..2].to_vec(), self.transport[2..4].to_vec());
        self.transport[..4].copy_from_slice(&[b, a].concat());
        self
    }

    /// Sets DSCP and ECN.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Sets TTL or hop limit.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.ttl = hops;
        self
    }

    /// Appends this many bytes of payload.
    #[must_use]
    pub fn payload(mut self, bytes: usize) -> Self {
        self.transport.extend((0..bytes).map(|at| at as u8));
        if self.protocol == UDP {
            let length = self.transport.len() as u16;
            self.transport[4..6].copy_from_slice(&length.to_be_bytes());
        }
        self
    }

    /// Adds this many bytes of IPv4 options: no-operations and an end of options.
    #[must_use]
    pub fn options(mut self, bytes: usize) -> Self {
        assert!(self.source.is_ipv4() && bytes.is_multiple_of(4) && bytes <= 40);
        self.options = vec![1; bytes];
        if let Some(last) = self.options.last_mut() {
            *last = 0;
        }
        self
    }

    /// Appends an IPv6 extension header; `body` is the whole header.
    #[must_use]
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        assert!(self.source.is_ipv6());
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// Makes it a fragment at `offset` bytes.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        if self.source.is_ipv4() {
            self.fragment = Some((more, offset));
            return self;
        }
        let word = (offset & !7) | u16::from(more);
        let [high, low] = word.to_be_bytes();
        self.extension(FRAGMENT, &[0, 0, high, low, 0, 0, 0x12, 0x34])
    }

    /// Adds an inner VLAN tag.
    #[must_use]
    pub fn tag(mut self, ethertype: u16, control: u16) -> Self {
        self.tags.push((ethertype, control));
        self
    }

    /// Pads the frame with zeros to this length, bytes.
    #[must_use]
    pub fn padded(mut self, length: usize) -> Self {
        self.shortest = length;
        self
    }

    /// Overwrites bytes of the transport header or its payload.
    #[must_use]
    pub fn set(mut self, at: usize, bytes: &[u8]) -> Self {
        self.transport[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Truncates the payload of the IP header, whose length field is adjusted.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.transport.truncate(length);
        self
    }

    /// Offset of the IP header in the frame.
    pub fn l3_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Bytes after the IP header and its extensions.
    pub fn transport_length(&self) -> usize {
        self.transport.len()
    }

    /// The source address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// The destination address.
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// DSCP and ECN of this packet.
    pub fn tos_byte(&self) -> u8 {
        self.tos
    }

    /// The IP packet.
    pub fn ip_bytes(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + self.options.len();
                let total = (header + self.transport.len()) as u16;
                let mut ip = vec![0x40 | (header / 4) as u8, self.tos];
                ip.extend(total.to_be_bytes());
                ip.extend([0xab, 0xcd]);
                let fragment = match self.fragment {
                    None => 0x4000,
                    Some((more, offset)) => (u16::from(more) << 13) | (offset / 8),
                };
                ip.extend(fragment.to_be_bytes());
                ip.extend([self.ttl, self.protocol, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(&self.options);
                let sum = fold(sum_of(&ip));
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                ip.extend(&self.transport);
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let numbers: Vec<u8> = self
                    .extensions
                    .iter()
                    .map(|(number, _)| *number)
                    .chain([self.protocol])
                    .collect();
                let mut payload = Vec::new();
                for ((_, body), next) in self.extensions.iter().zip(&numbers[1..]) {
                    payload.push(*next);
                    payload.extend(&body[1..]);
                }
                payload.extend(&self.transport);
                let mut ip = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 7];
                ip.extend((payload.len() as u16).to_be_bytes());
                ip.extend([numbers[0], self.ttl]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(payload);
                ip
            }
            _ => unreachable!("both addresses are of one family"),
        }
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = [DIRECTOR_MAC, ROUTER_MAC].concat();
        let ethertype = if self.source.is_ipv4() { 0x0800u16 } else { 0x86dd };
        for (tag, control) in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(self.ip_bytes());
        if frame.len() < self.shortest {
            frame.resize(self.shortest, 0);
        }
        frame
    }
}

/// An extension header of `8 * (1 + more)` bytes, whose length field counts units of eight.
pub fn options_header(more: u8) -> Vec<u8> {
    let mut header = vec![0, more];
    header.resize(8 * (1 + usize::from(more)), 1);
    header
}

/// A routing header with this many segments left.
pub fn routing_header(segments_left: u8) -> Vec<u8> {
    vec![0, 2, 4, segments_left, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]
}

/// An authentication header of 24 bytes, whose length field counts units of four, less two.
pub fn authentication_header() -> Vec<u8> {
    let mut header = vec![0, 4];
    header.resize(24, 0x5a);
    header
}

/// The sum of 16-bit words, big-endian, an odd byte padded.
pub fn sum_of(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

/// The Internet checksum of this sum (RFC 1071).
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The sum of the pseudo-header (RFC 8200 8.1; also IPv4's).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    sum_of(&bytes(source)) + sum_of(&bytes(destination)) + u32::from(protocol) + length as u32
}

/// Corrects the checksum of the IPv4 header, if there is one.
pub fn correct(frame: &mut [u8], at: usize) {
    let Some(first) = frame.get(at).copied() else { return };
    let length = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || length < 20 || frame.len() < at + length {
        return;
    }
    frame[at + 10..at + 12].fill(0);
    let sum = fold(sum_of(&frame[at..at + length]));
    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
}
