//! Frames built byte by byte, from the inside out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const PROTOCOL_V4: u8 = 4;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_V6: u8 = 41;

/// An IPv4 packet; `tweak` may modify the header before its checksum is computed.
pub(crate) fn v4(
    (source, destination): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    payload: &[u8],
    options: &[u8],
    tweak: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4), "options come in words");
    let header_len = 20 + options.len();
    let total = u16::try_from(header_len + payload.len()).expect("fits IPv4");
    let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    tweak(&mut packet);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet with a traffic class.
pub(crate) fn v6(
    (source, destination): (Ipv6Addr, Ipv6Addr),
    next_header: u8,
    payload: &[u8],
    traffic_class: u8,
) -> Vec<u8> {
    let mut packet = vec![0x60 | traffic_class >> 4, traffic_class << 4, 0, 0];
    packet.extend(u16::try_from(payload.len()).expect("fits IPv6").to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A packet of either family with plain headers.
pub(crate) fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => v4((a, b), protocol, payload, &[], |_| {}),
        (IpAddr::V6(a), IpAddr::V6(b)) => v6((a, b), protocol, payload, 0),
        mixed => panic!("no packet goes from family to family: {mixed:?}"),
    }
}

/// The protocol number of an IP packet inside another.
pub(crate) fn protocol_of(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { PROTOCOL_V4 } else { PROTOCOL_V6 }
}

/// A frame around a packet, with VLAN tags.
pub(crate) fn frame(to: [u8; 6], from: [u8; 6], tags: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend(tags.concat());
    let v6 = packet[0] >> 4 == 6;
    frame.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    frame.extend(packet);
    frame
}

/// RFC 1071, of an even number of bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
