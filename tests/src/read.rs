//! Transmitted frames, parsed with an independent parser.

use std::net::IpAddr;

use etherparse::{
    Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanHeaderSlice,
};

use crate::packet::{ICMP, ICMPV6, fold, pseudo_header, sum_of};

/// An Ethernet header with its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Destination address.
    pub destination: [u8; 6],
    /// Source address.
    pub source: [u8; 6],
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
    /// The next header.
    pub ethertype: u16,
    /// Offset of the next header.
    pub l3_offset: usize,
}

/// Reads the Ethernet header.
///
/// # Panics
///
/// If the frame is too short.
#[track_caller]
pub fn link(frame: &[u8]) -> Link {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).expect("an Ethernet header");
    let (mut ethertype, mut l3_offset) = (ethernet.ether_type().0, 14);
    let mut vlans = Vec::new();
    while ethertype == 0x8100 || ethertype == 0x88a8 {
        let tag = SingleVlanHeaderSlice::from_slice(&frame[l3_offset..]).expect("a tag");
        vlans.push(tag.vlan_identifier().value());
        ethertype = tag.ether_type().0;
        l3_offset += 4;
    }
    let (destination, source) = (ethernet.destination(), ethernet.source());
    Link { destination, source, vlans, ethertype, l3_offset }
}

/// An IP header built by the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The next header.
    pub protocol: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Hops left.
    pub ttl: u8,
    /// Length of the header.
    pub header_length: usize,
    /// Length of the packet, header included.
    pub total_length: usize,
    /// IPv6: the flow label.
    pub flow_label: u32,
}

/// Reads an IP header built by the data plane and checks its constant parts: no options, a valid
/// checksum, don't-fragment, identification 0.
///
/// # Panics
///
/// If a check fails.
#[track_caller]
pub fn outer(packet: &[u8]) -> Outer {
    if packet[0] >> 4 == 4 {
        let header = Ipv4HeaderSlice::from_slice(packet).expect("an IPv4 header");
        assert_eq!(header.slice().len(), 20, "no options");
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum(), "checksum");
        assert!(header.dont_fragment() && !header.is_fragmenting_payload(), "DF, no fragment");
        assert_eq!(header.identification(), 0, "RFC 6864");
        let total_length = usize::from(header.total_len());
        assert!(total_length <= packet.len(), "longer than the frame");
        return Outer {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: header.protocol().0,
            tos: header.dcp().value() << 2 | header.ecn().value(),
            ttl: header.ttl(),
            header_length: 20,
            total_length,
            flow_label: 0,
        };
    }
    let header = Ipv6HeaderSlice::from_slice(packet).expect("an IPv6 header");
    let total_length = 40 + usize::from(header.payload_length());
    assert!(total_length <= packet.len(), "longer than the frame");
    Outer {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.next_header().0,
        tos: header.traffic_class(),
        ttl: header.hop_limit(),
        header_length: 40,
        total_length,
        flow_label: header.flow_label().value(),
    }
}

/// An ICMP error that Director sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Its IP header.
    pub ip: Outer,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU field: the last 16 bits of the header.
    pub mtu: u16,
    /// The quoted part of the packet that caused it.
    pub quote: Vec<u8>,
}

/// Reads an ICMP error, and checks its checksum and lengths.
///
/// # Panics
///
/// If it is no ICMP error, or invalid.
#[track_caller]
pub fn error(packet: &[u8]) -> Error {
    let ip = outer(packet);
    assert_eq!(ip.total_length, packet.len(), "no bytes after an error");
    let expected = if ip.source.is_ipv4() { ICMP } else { ICMPV6 };
    assert_eq!(ip.protocol, expected, "{:?}", IpNumber(ip.protocol));
    let message = &packet[ip.header_length..];
    let mut sum = sum_of(message);
    if ip.source.is_ipv6() {
        sum += pseudo_header(ip.source, ip.destination, ICMPV6, message.len());
    }
    assert_eq!(fold(sum), 0, "the ICMP checksum of {message:02x?}");
    assert_eq!(message[4..6], [0, 0], "unused");
    Error {
        kind: message[0],
        code: message[1],
        mtu: u16::from_be_bytes([message[6], message[7]]),
        quote: message[8..].to_vec(),
        ip,
    }
}
