//! Parses a packet's headers. Frames start with an Ethernet header without a tag here: the kernel
//! keeps tags in the skb.

use aya_ebpf::programs::TcContext;
use director_common::{
    address::Address,
    flow::Protocol,
    wire::{
        Header as _,
        ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
    },
};

/// Offset of the EtherType.
pub const ETHERTYPE: usize = 12;
/// Bytes of an Ethernet header.
pub const LINK: usize = EthernetHeader::LEN;
/// Bytes of an IPv4 header without options.
pub const V4: usize = Ipv4Header::LEN;
/// Bytes of an IPv6 header.
pub const V6: usize = Ipv6Header::LEN;
/// Offset of the source address in an IPv4 frame; the destination follows.
pub const V4_SOURCE: usize = LINK + 12;
/// The same of an IPv6 frame.
pub const V6_SOURCE: usize = LINK + 8;

/// EtherTypes, as in `__sk_buff::protocol`: in network order.
pub const ETHERTYPE_V4: u16 = ETHERTYPE_IPV4.to_be();
/// See [`ETHERTYPE_V4`].
pub const ETHERTYPE_V6: u16 = ETHERTYPE_IPV6.to_be();

/// Protocol numbers.
pub const TCP: u8 = Protocol::Tcp as u8;
/// See [`TCP`].
pub const UDP: u8 = Protocol::Udp as u8;

/// "More fragments" and the offset, of an IPv4 header.
const FRAGMENT: u16 = 0x3fff;

/// The family of an unparsed packet. `None`: not IP.
#[inline(always)]
pub fn is_v6(ctx: &TcContext) -> Option<bool> {
    match ctx.skb.protocol() as u16 {
        ETHERTYPE_V4 => Some(false),
        ETHERTYPE_V6 => Some(true),
        _ => None,
    }
}

/// Source and destination.
#[derive(Clone, Copy)]
pub struct Addresses {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Whether they are IPv6.
    pub is_v6: bool,
}

/// A TCP or UDP packet.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Its addresses.
    pub addresses: Addresses,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// IPv4's type of service, or IPv6's traffic class.
    pub tos: u8,
    /// Hops left.
    pub hops: u8,
    /// Source and destination port as they are in the packet, loaded in native order.
    pub ports: u32,
}

impl Packet {
    /// Reads the headers. `None`: not a whole TCP or UDP packet, or one with IPv4 options or IPv6
    /// extension headers.
    #[inline(always)]
    pub fn parse(ctx: &TcContext) -> Option<Self> {
        if is_v6(ctx)? { Self::parse_v6(ctx) } else { Self::parse_v4(ctx) }
    }

    #[inline(always)]
    fn parse_v4(ctx: &TcContext) -> Option<Self> {
        // The header and the ports, in aligned words: LLVM merges loads, and the verifier requires
        // aligned reads of the stack ("misaligned stack access").
        let header: [u64; 3] = ctx.load(LINK).ok()?;
        let [first, second, third] = header.map(u64::from_be);
        let protocol = (second >> 48) as u8;
        if first >> 56 != 0x45 || first as u16 & FRAGMENT != 0 || !is_known(protocol) {
            return None;
        }
        let addresses = Addresses {
            source: v4((second as u32).to_be()),
            destination: v4(((third >> 32) as u32).to_be()),
            is_v6: false,
        };
        let ports = (third as u32).to_be();
        let (tos, hops) = ((first >> 48) as u8, (second >> 56) as u8);
        Some(Self { addresses, protocol, tos, hops, ports })
    }

    #[inline(always)]
    fn parse_v6(ctx: &TcContext) -> Option<Self> {
        let header: [u64; V6 / 8] = ctx.load(LINK).ok()?;
        let first = u64::from_be(header[0]);
        let protocol = (first >> 8) as u8;
        if first >> 60 != 6 || !is_known(protocol) {
            return None;
        }
        let addresses = Addresses {
            source: Address { first: header[1], second: header[2] },
            destination: Address { first: header[3], second: header[4] },
            is_v6: true,
        };
        let ports = ctx.load(LINK + V6).ok()?;
        let (tos, hops) = ((first >> 52) as u8, first as u8);
        Some(Self { addresses, protocol, tos, hops, ports })
    }
}

#[inline(always)]
fn is_known(protocol: u8) -> bool {
    protocol == TCP || protocol == UDP
}

/// An IPv4 address in network order.
#[inline(always)]
pub fn v4(address: u32) -> Address {
    Address { first: u64::from(address), second: 0 }
}
