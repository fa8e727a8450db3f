//! ICMP errors, reduced to the flow that they quote.
//!
//! A router or the client reports an error about a packet that a backend sent from the VIP. The
//! backend must receive it (path MTU discovery depends on this), so the error takes the flow of the
//! client's own packets: the quoted addresses and ports, swapped. Eight quoted bytes behind the
//! quoted IP header are enough (RFC 792).

use director_common::{
    address::Address,
    verdict::PassReason,
    wire::{
        Header as _, icmp::IcmpHeader, ipv4::Ipv4Header, ipv6::Ipv6Header, tcp::PROTOCOL_TCP,
        udp::PROTOCOL_UDP,
    },
};

use super::{
    Content, MARTIAN_SOURCE, Packet,
    ipv6::{self, Part},
    transport::Word,
};
use crate::frame::Frame;

/// Quoted bytes of the transport header that every error has.
const QUOTED: usize = 8;

/// The flow of the error at `offset`, in a packet that ends at `end`.
#[inline(always)]
pub fn v4_error(
    frame: &Frame,
    packet: &mut Packet,
    offset: usize,
    end: usize,
) -> Result<(), PassReason> {
    let icmp = frame.header::<IcmpHeader>(offset).ok_or(PassReason::Truncated)?;
    if !icmp.is_v4_error() {
        return Err(PassReason::OtherProtocol);
    }
    let quoted_at = offset + IcmpHeader::LEN;
    let quoted = frame.header::<Ipv4Header>(quoted_at).ok_or(PassReason::Truncated)?;
    if quoted.version() != 4
        || quoted.header_length() < Ipv4Header::LEN
        || quoted_at + quoted.header_length() + QUOTED > end
    {
        return Err(PassReason::Malformed);
    }
    // Ports are in the first fragment only; and an error whose destination is not the quoted source
    // is not about a packet from the VIP.
    if !quoted.is_first_fragment() || Address::v4(quoted.source) != packet.flow.destination {
        return Err(PassReason::OtherProtocol);
    }
    let client = Address::v4(quoted.destination);
    let protocol = quoted.protocol;
    let ports_at = quoted_at + quoted.header_length();
    quoted_flow(frame, packet, client, protocol, ports_at)
}

/// The same for ICMPv6.
#[inline(always)]
pub fn v6_error(
    frame: &Frame,
    packet: &mut Packet,
    offset: usize,
    end: usize,
) -> Result<(), PassReason> {
    let icmp = frame.header::<IcmpHeader>(offset).ok_or(PassReason::Truncated)?;
    if !icmp.is_v6_error() {
        return Err(PassReason::OtherProtocol);
    }
    let quoted_at = offset + IcmpHeader::LEN;
    let quoted = frame.header::<Ipv6Header>(quoted_at).ok_or(PassReason::Truncated)?;
    if quoted.version() != 6 {
        return Err(PassReason::Malformed);
    }
    if Address::v6(quoted.source) != packet.flow.destination {
        return Err(PassReason::OtherProtocol);
    }
    let client = Address::v6(quoted.destination);
    let first = quoted_at + Ipv6Header::LEN;
    let upper = ipv6::skip_extensions(frame, quoted.next_header, first, end)?;
    // Ports are in the first fragment only.
    if upper.part == Part::Later {
        return Err(PassReason::OtherProtocol);
    }
    if upper.offset + QUOTED > end {
        return Err(PassReason::Malformed);
    }
    quoted_flow(frame, packet, client, upper.protocol as u8, upper.offset)
}

/// Swaps the quoted addresses and ports: the quoted destination is the client, the quoted source
/// the VIP.
#[inline(always)]
fn quoted_flow(
    frame: &Frame,
    packet: &mut Packet,
    client: Address,
    protocol: u8,
    ports_at: usize,
) -> Result<(), PassReason> {
    if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
        return Err(PassReason::OtherProtocol);
    }
    // The router's or host's that sends the error; the client's is checked as for any flow.
    if !packet.flow.source.is_possible_source(packet.is_v6()) {
        packet.flaw = MARTIAN_SOURCE;
    }
    let ports = frame.header::<Word>(ports_at).ok_or(PassReason::Truncated)?;
    let (vip_port, client_port) = ports.halves();
    packet.flow.source = client;
    packet.flow.source_port = client_port;
    packet.flow.destination_port = vip_port;
    packet.flow.protocol = protocol;
    packet.content = Content::IcmpError;
    Ok(())
}
