//! Stage 1: bytes to [`Packet`]. Next: `filter`. Reads INTERFACES.
//!
//! Every header is read here, once, and checked against the frame; later stages do not parse it
//! again. A packet that cannot be for a service is passed to the host, with the reason.

mod icmp;
mod ipv6;
pub mod plain;
mod transport;

use director_common::{
    address::Address,
    flow::{Family, FlowKey},
    interface::INTERFACE_MACS,
    verdict::{DropReason, PassReason},
    wire::{
        Header as _,
        ethernet::{
            ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, EthernetHeader, VlanTag,
        },
        icmp::{PROTOCOL_ICMP, PROTOCOL_ICMPV6},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
    },
};

use ipv6::Part;
pub use transport::Word;

use crate::{constants, frame::Frame, maps};

/// What a packet carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A whole TCP or UDP packet.
    Whole,
    /// An ICMP error: `flow` is the flow that it quotes, in the direction to the VIP.
    IcmpError,
    /// A fragment: `flow` has addresses and protocol, and no ports.
    Fragment,
}

/// Values of `Packet::flaw`.
const HOP_LIMIT: u32 = 1;
const MARTIAN_SOURCE: u32 = 2;

/// The parsed packet, for the later stages. Fields are words where bytes would suffice: the
/// verifier requires aligned stack accesses, and LLVM merges those of neighbouring bytes.
pub struct Packet {
    /// The flow it belongs to.
    pub flow: FlowKey,
    /// What it carries.
    pub content: Content,
    /// Where the IP header starts, bytes from the start of the frame: 14, 18 or 22.
    pub l3_offset: usize,
    /// Length of the IP packet, its header included, bytes.
    pub l3_length: u32,
    /// DSCP and ECN.
    pub tos: u32,
    /// Why no host can have sent the packet, as its headers alone tell: see [`Packet::flaw`].
    flaw: u32,
    /// TCP control bits; 0 for anything else.
    pub tcp_flags: u32,
    /// Destination MAC, as `mac_to_u64` returns it.
    pub destination_mac: u64,
}

impl Packet {
    /// A packet that has not been parsed yet.
    #[inline(always)]
    pub fn unread() -> Self {
        let zero = constants::zero();
        let nothing = Address { first: zero, second: zero };
        let port = (zero as u16).to_ne_bytes();
        Self {
            flow: FlowKey {
                source: nothing,
                destination: nothing,
                source_port: port,
                destination_port: port,
                protocol: zero as u8,
                family: zero as u8,
                _pad: port,
            },
            content: Content::Whole,
            l3_offset: zero as usize,
            l3_length: zero as u32,
            tos: zero as u32,
            flaw: zero as u32,
            tcp_flags: zero as u32,
            destination_mac: zero,
        }
    }

    /// Why it must be dropped if it is for a service, whatever its flow. The fast path leaves such
    /// packets to the slow path.
    #[inline(always)]
    pub fn flaw(&self) -> Option<DropReason> {
        match self.flaw {
            0 => None,
            HOP_LIMIT => Some(DropReason::HopLimit),
            _ => Some(DropReason::MartianSource),
        }
    }

    /// The same of a packet whose flow is not known: flows from an impossible source never become
    /// known, so those that are need no look at their source. A packet from the VIP to itself is forged
    /// (a host that has the VIP does not send it), one from another VIP need not be.
    #[inline(always)]
    pub fn flaw_of_new(&self) -> Option<DropReason> {
        let source = self.flow.source;
        if !source.is_possible_source(self.is_v6()) || source == self.flow.destination {
            return Some(DropReason::MartianSource);
        }
        self.flaw()
    }

    #[inline(always)]
    fn check_hops(&mut self, hops: u8) {
        if hops == 0 {
            self.flaw = HOP_LIMIT;
        }
    }

    /// Whether it is IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.flow.family == Family::V6 as u8
    }
}

/// Parses a frame into `packet`, which comes from [`Packet::unread`]. (Filled in place: a large
/// structure returned by value is copied, and the copy takes as much stack again.)
#[inline(always)]
pub fn parse(frame: &Frame, packet: &mut Packet) -> Result<(), PassReason> {
    let ethernet = frame.header::<EthernetHeader>(0).ok_or(PassReason::Truncated)?;
    packet.destination_mac = ethernet.destination();
    let (ethertype, l3_offset) = untag(frame, ethernet.ethertype())?;
    if ethertype != ETHERTYPE_IPV4 && ethertype != ETHERTYPE_IPV6 {
        return Err(PassReason::NotIp);
    }
    if !is_our_mac(packet.destination_mac) {
        return Err(PassReason::NotOurMac);
    }
    packet.l3_offset = l3_offset;
    if ethertype == ETHERTYPE_IPV4 {
        packet.flow.family = Family::V4 as u8;
        ipv4(frame, packet)
    } else {
        packet.flow.family = Family::V6 as u8;
        ipv6(frame, packet)
    }
}

/// Skips up to two VLAN tags. Returns the EtherType behind them, and where its payload starts.
#[inline(always)]
fn untag(frame: &Frame, mut ethertype: u16) -> Result<(u16, usize), PassReason> {
    let mut offset = EthernetHeader::LEN;
    for _ in 0..2 {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            return Ok((ethertype, offset));
        }
        let tag = frame.header::<VlanTag>(offset).ok_or(PassReason::Truncated)?;
        ethertype = tag.ethertype();
        offset += VlanTag::LEN;
    }
    if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
        return Err(PassReason::TooManyHeaders);
    }
    Ok((ethertype, offset))
}

/// Whether frames to `mac` are for this machine. A switch that floods, or a NIC in promiscuous
/// mode, also delivers frames for others: forwarding those would duplicate them.
#[inline(always)]
fn is_our_mac(mac: u64) -> bool {
    if !constants::mode().has_interfaces() {
        return true;
    }
    let Some(interface) = maps::INTERFACES.get(constants::interface_slot()) else { return false };
    if interface.macs[0] == mac {
        return true;
    }
    for at in 1..INTERFACE_MACS {
        if interface.macs[at] == mac && mac != 0 {
            return true;
        }
    }
    false
}

#[inline(always)]
fn ipv4(frame: &Frame, packet: &mut Packet) -> Result<(), PassReason> {
    let ip = frame.header::<Ipv4Header>(packet.l3_offset).ok_or(PassReason::Truncated)?;
    let header_length = ip.header_length();
    let total_length = ip.total_length();
    if ip.version() != 4
        || header_length < Ipv4Header::LEN
        || (total_length as usize) < header_length
        || packet.l3_offset + total_length as usize > frame.len()
    {
        return Err(PassReason::Malformed);
    }
    let mut sum = ip.sum();
    let (protocol, is_fragment) = (ip.protocol, ip.is_fragment());
    packet.check_hops(ip.ttl);
    packet.tos = u32::from(ip.tos);
    packet.l3_length = u32::from(total_length);
    packet.flow.protocol = protocol;
    packet.flow.source = Address::v4(ip.source);
    packet.flow.destination = Address::v4(ip.destination);
    if header_length > Ipv4Header::LEN {
        sum.add_folded(sum_options(frame, packet.l3_offset, header_length));
    }
    // RFC 1812 5.2.2: a router verifies the header checksum before it forwards.
    if !sum.is_valid() {
        return Err(PassReason::Malformed);
    }
    if is_fragment {
        return transport::fragment(packet);
    }
    let end = packet.l3_offset + total_length as usize;
    let l4_offset = packet.l3_offset + header_length;
    if protocol == PROTOCOL_ICMP {
        return icmp::v4_error(frame, packet, l4_offset, end);
    }
    transport::whole(frame, packet, l4_offset, end)
}

/// The ones' complement sum of the options of an IPv4 header; 0 if the frame ends before them. Not
/// inlined, so that its ten exits become one for the verifier.
#[inline(never)]
fn sum_options(frame: &Frame, l3_offset: usize, header_length: usize) -> u64 {
    let mut sum = 0;
    // Ten words of options at most: IHL is four bits.
    for word in 0..10 {
        let at = Ipv4Header::LEN + word * 4;
        if at >= header_length {
            break;
        }
        let Some(option) = frame.header::<Word>(l3_offset + at) else { return 0 };
        sum += u64::from(option.native());
    }
    sum
}

#[inline(always)]
fn ipv6(frame: &Frame, packet: &mut Packet) -> Result<(), PassReason> {
    let ip = frame.header::<Ipv6Header>(packet.l3_offset).ok_or(PassReason::Truncated)?;
    let length = Ipv6Header::LEN + ip.payload_length() as usize;
    // A payload length of 0 means a jumbogram (RFC 2675) or no payload.
    if ip.version() != 6 || length > 0xffff || packet.l3_offset + length > frame.len() {
        return Err(PassReason::Malformed);
    }
    packet.check_hops(ip.hop_limit);
    packet.tos = u32::from(ip.traffic_class());
    packet.l3_length = length as u32;
    packet.flow.source = Address::v6(ip.source);
    packet.flow.destination = Address::v6(ip.destination);
    let end = packet.l3_offset + length;
    let first = packet.l3_offset + Ipv6Header::LEN;
    let upper = ipv6::skip_extensions(frame, ip.next_header, first, end)?;
    packet.flow.protocol = upper.protocol as u8;
    match upper.part {
        Part::Whole => {}
        Part::First => return transport::fragment(packet),
        Part::Later => return transport::later_fragment(packet),
    }
    if packet.flow.protocol == PROTOCOL_ICMPV6 {
        return icmp::v6_error(frame, packet, upper.offset, end);
    }
    transport::whole(frame, packet, upper.offset, end)
}
