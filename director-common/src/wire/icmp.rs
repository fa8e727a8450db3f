//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors, and the packet they quote.

use super::Header;

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Next header number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// ICMP destination unreachable.
pub const V4_UNREACHABLE: u8 = 3;
/// ICMP unreachable: no socket listens on the port.
pub const V4_PORT_UNREACHABLE: u8 = 3;
/// ICMP unreachable: too big, and don't-fragment is set (RFC 1191: next-hop MTU in the last word).
pub const V4_FRAGMENTATION_NEEDED: u8 = 4;
/// ICMPv6 destination unreachable.
pub const V6_UNREACHABLE: u8 = 1;
/// ICMPv6 unreachable: no socket listens on the port.
pub const V6_PORT_UNREACHABLE: u8 = 4;
/// ICMPv6 packet too big: MTU in the last word.
pub const V6_PACKET_TOO_BIG: u8 = 2;

/// The first eight bytes of every ICMP and ICMPv6 message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpHeader {
    /// Message type.
    pub kind: u8,
    /// Message code.
    pub code: u8,
    /// Internet checksum of the message (ICMPv6: with the pseudo-header), wire order.
    pub checksum: [u8; 2],
    /// Meaning depends on the type; the MTU of "too big" messages, wire order.
    pub rest: [u8; 4],
}

// SAFETY: repr(C) over bytes and byte arrays.
unsafe impl Header for IcmpHeader {}

impl IcmpHeader {
    /// Whether an ICMP message of this type reports an error about the packet that it quotes:
    /// unreachable, source quench, time exceeded, parameter problem.
    #[inline(always)]
    pub const fn is_v4_error(&self) -> bool {
        matches!(self.kind, 3 | 4 | 11 | 12)
    }

    /// Whether an ICMPv6 message of this type is an error (RFC 4443 2.1: types below 128).
    #[inline(always)]
    pub const fn is_v6_error(&self) -> bool {
        matches!(self.kind, 1..=4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_is_no_error() {
        let message = |kind| IcmpHeader { kind, code: 0, checksum: [0; 2], rest: [0; 4] };
        assert!(!message(8).is_v4_error() && !message(0).is_v4_error());
        assert!(message(3).is_v4_error() && message(11).is_v4_error());
        assert!(!message(128).is_v6_error() && !message(135).is_v6_error());
        assert!(message(2).is_v6_error());
        assert_eq!(IcmpHeader::LEN, 8);
    }
}
