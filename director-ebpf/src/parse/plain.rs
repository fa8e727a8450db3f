//! The packets that nearly all traffic is made of: no VLAN tag, no options, no fragments, no
//! extension headers, TCP or UDP. All others are left to the full parser.

use director_common::{
    address::Address,
    flow::Family,
    wire::{
        Header,
        ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
    },
};

use super::{Content, Packet, transport};
use crate::{constants, frame::Frame};

/// Both headers under one check against the frame's end.
#[repr(C)]
#[derive(Clone, Copy)]
struct Plain<T>(EthernetHeader, T);

// SAFETY: alignment 1 and no padding, as its parts.
unsafe impl<T: Header> Header for Plain<T> {}

/// The family of a frame without a tag; `None` if it is neither IPv4 nor IPv6.
#[inline(always)]
pub fn family(frame: &Frame) -> Option<Family> {
    match frame.header::<EthernetHeader>(0)?.ethertype() {
        ETHERTYPE_IPV4 => Some(Family::V4),
        ETHERTYPE_IPV6 => Some(Family::V6),
        _ => None,
    }
}

/// The IPv4 packet, if it is a plain one for this machine. Returns `None` for all others.
#[inline(always)]
pub fn v4(frame: &Frame) -> Option<Packet> {
    let Plain(ethernet, ip) = *frame.header::<Plain<Ipv4Header>>(0)?;
    let end = EthernetHeader::LEN + ip.total_length() as usize;
    if ip.version() != 4
        || ip.header_length() != Ipv4Header::LEN
        || ip.is_fragment()
        || ip.ttl == 0
        || !frame.reaches(end)
        || !ip.sum().is_valid()
    {
        return None;
    }
    let mut packet = addressed(&ethernet)?;
    packet.tos = u32::from(ip.tos);
    packet.l3_length = u32::from(ip.total_length());
    packet.flow.family = Family::V4 as u8;
    packet.flow.protocol = ip.protocol;
    packet.flow.source = Address::v4(ip.source);
    packet.flow.destination = Address::v4(ip.destination);
    transport::whole(frame, &mut packet, EthernetHeader::LEN + Ipv4Header::LEN, end).ok()?;
    Some(packet)
}

/// The same of IPv6.
#[inline(always)]
pub fn v6(frame: &Frame) -> Option<Packet> {
    let Plain(ethernet, ip) = *frame.header::<Plain<Ipv6Header>>(0)?;
    let length = Ipv6Header::LEN + ip.payload_length() as usize;
    let end = EthernetHeader::LEN + length;
    if ip.version() != 6 || ip.hop_limit == 0 || length > 0xffff || !frame.reaches(end) {
        return None;
    }
    let mut packet = addressed(&ethernet)?;
    packet.tos = u32::from(ip.traffic_class());
    packet.l3_length = length as u32;
    packet.flow.family = Family::V6 as u8;
    packet.flow.protocol = ip.next_header;
    let (source, destination) = (Address::v6(ip.source), Address::v6(ip.destination));
    // Sources that may be impossible are left to the slow path here, where their words are at hand: kept
    // until the flow is known to be new, they cost 4 to 7 ns a packet.
    if source.first == 0 || source.first.to_ne_bytes()[0] == 0xff || source == destination {
        return None;
    }
    packet.flow.source = source;
    packet.flow.destination = destination;
    transport::whole(frame, &mut packet, EthernetHeader::LEN + Ipv6Header::LEN, end).ok()?;
    Some(packet)
}

/// An unparsed packet, if the frame is for this machine.
#[inline(always)]
fn addressed(ethernet: &EthernetHeader) -> Option<Packet> {
    let destination_mac = ethernet.destination();
    // Frames to another MAC of the interface, new or additional, take the slow path.
    if constants::mode().has_interfaces() && destination_mac != constants::own_mac() {
        return None;
    }
    let packet = Packet::unread();
    Some(Packet {
        destination_mac,
        l3_offset: EthernetHeader::LEN,
        content: Content::Whole,
        // A constant, so that the fast path does not look at it.
        flaw: 0,
        ..packet
    })
}
