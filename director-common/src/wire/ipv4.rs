//! IPv4 (RFC 791).

use super::Header;
use crate::checksum::Sum;

/// Protocol number of an IPv4 packet inside another packet (RFC 2003).
pub const PROTOCOL_IPIP: u8 = 4;
/// TTL, or hop limit, of the outer header of tunnels.
pub const TUNNEL_TTL: u8 = 64;

/// "More fragments" in the flags and offset field.
const MORE_FRAGMENTS: u16 = 0x2000;
/// "Don't fragment" in the flags and offset field.
const DONT_FRAGMENT: u16 = 0x4000;
/// The offset bits of the flags and offset field, units of 8 bytes.
const OFFSET_MASK: u16 = 0x1fff;

/// An IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    total_length: [u8; 2],
    identification: [u8; 2],
    flags_offset: [u8; 2],
    /// Time to live, hops.
    pub ttl: u8,
    /// Protocol number of the payload.
    pub protocol: u8,
    checksum: [u8; 2],
    /// Source address, wire order.
    pub source: [u8; 4],
    /// Destination address, wire order.
    pub destination: [u8; 4],
}

// SAFETY: repr(C) over bytes and byte arrays.
unsafe impl Header for Ipv4Header {}

impl Ipv4Header {
    /// A header with don't-fragment set, identification 0 (RFC 6864: atomic datagrams need none)
    /// and a valid checksum. `total_length` includes this header, bytes.
    #[inline(always)]
    pub fn new(
        tos: u8,
        total_length: u16,
        ttl: u8,
        protocol: u8,
        source: [u8; 4],
        destination: [u8; 4],
    ) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            tos,
            total_length: total_length.to_be_bytes(),
            identification: [0; 2],
            flags_offset: DONT_FRAGMENT.to_be_bytes(),
            ttl,
            protocol,
            checksum: [0; 2],
            source,
            destination,
        };
        header.checksum = header.sum().finish();
        header
    }

    /// IP version: 4 in a valid header.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length with options, bytes; at least 20 in a valid header.
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        ((self.version_ihl & 0xf) as usize) * 4
    }

    /// Length of header and payload, bytes.
    #[inline(always)]
    pub const fn total_length(&self) -> u16 {
        u16::from_be_bytes(self.total_length)
    }

    /// Whether this is a fragment: more fragments is set, or the offset is not 0.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.flags_offset) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Whether the payload starts with the transport header.
    #[inline(always)]
    pub const fn is_first_fragment(&self) -> bool {
        u16::from_be_bytes(self.flags_offset) & OFFSET_MASK == 0
    }

    /// The ones' complement sum of these 20 bytes, checksum included; the caller adds options.
    #[inline(always)]
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::ZERO;
        sum.add_word(u32::from_ne_bytes([
            self.version_ihl,
            self.tos,
            self.total_length[0],
            self.total_length[1],
        ]));
        sum.add_word(u32::from_ne_bytes([
            self.identification[0],
            self.identification[1],
            self.flags_offset[0],
            self.flags_offset[1],
        ]));
        sum.add_word(u32::from_ne_bytes([
            self.ttl,
            self.protocol,
            self.checksum[0],
            self.checksum[1],
        ]));
        sum.add_word(u32::from_ne_bytes(self.source));
        sum.add_word(u32::from_ne_bytes(self.destination));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 45 00 00 73 00 00 40 00 40 11 b8 61 c0 a8 00 01 c0 a8 00 c7: a well-known worked example.
    #[test]
    fn checksum_of_a_known_header() {
        let header = Ipv4Header::new(0, 0x73, 64, 17, [192, 168, 0, 1], [192, 168, 0, 199]);
        assert_eq!(header.checksum, [0xb8, 0x61]);
        assert!(header.sum().is_valid());
        assert_eq!((header.version(), header.header_length()), (4, 20));
    }

    #[test]
    fn fragments_are_recognized() {
        let mut header = Ipv4Header::new(0, 40, 64, 6, [0; 4], [0; 4]);
        assert!(!header.is_fragment());
        header.flags_offset = [0x20, 0x00];
        assert!(header.is_fragment() && header.is_first_fragment());
        header.flags_offset = [0x00, 0xb9];
        assert!(header.is_fragment() && !header.is_first_fragment());
    }
}
