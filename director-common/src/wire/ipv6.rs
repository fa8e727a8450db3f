//! IPv6 (RFC 8200) and the extension headers a packet may carry in front of its transport header.

use super::Header;

/// Protocol number of an IPv6 packet inside another packet (RFC 2473, RFC 4213).
pub const PROTOCOL_IPV6: u8 = 41;
/// Hop-by-hop options.
pub const NEXT_HOP_BY_HOP: u8 = 0;
/// Routing header.
pub const NEXT_ROUTING: u8 = 43;
/// Fragment header.
pub const NEXT_FRAGMENT: u8 = 44;
/// Authentication header (RFC 4302).
pub const NEXT_AUTHENTICATION: u8 = 51;
/// Destination options.
pub const NEXT_DESTINATION: u8 = 60;

/// Bytes of packet that every IPv6 path takes (RFC 8200 5). Hosts ignore reports of less (RFC 8201 4).
pub const MINIMUM_MTU: u16 = 1280;

/// An IPv6 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    version_class_flow: [u8; 4],
    payload_length: [u8; 2],
    /// Protocol number of what follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address, wire order.
    pub source: [u8; 16],
    /// Destination address, wire order.
    pub destination: [u8; 16],
}

// SAFETY: repr(C) over bytes and byte arrays.
unsafe impl Header for Ipv6Header {}

impl Ipv6Header {
    /// A header of these fields. `payload_length` in bytes, without this header; `flow_label`
    /// 20 bits.
    #[inline(always)]
    pub const fn new(
        traffic_class: u8,
        flow_label: u32,
        payload_length: u16,
        next_header: u8,
        hop_limit: u8,
        source: [u8; 16],
        destination: [u8; 16],
    ) -> Self {
        let first = 6 << 28 | (traffic_class as u32) << 20 | (flow_label & 0xf_ffff);
        Self {
            version_class_flow: first.to_be_bytes(),
            payload_length: payload_length.to_be_bytes(),
            next_header,
            hop_limit,
            source,
            destination,
        }
    }

    /// IP version: 6 in a valid header.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_class_flow[0] >> 4
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        self.version_class_flow[0] << 4 | self.version_class_flow[1] >> 4
    }

    /// Length of what follows this header, bytes.
    #[inline(always)]
    pub const fn payload_length(&self) -> u16 {
        u16::from_be_bytes(self.payload_length)
    }
}

/// The first two bytes of every extension header but the fragment header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionHeader {
    /// Protocol number of what follows.
    pub next_header: u8,
    /// Length in units that depend on the header: see [`ExtensionHeader::length`].
    pub length_units: u8,
}

// SAFETY: repr(C) over bytes.
unsafe impl Header for ExtensionHeader {}

impl ExtensionHeader {
    /// Length of this extension header, bytes, given the protocol number that announced it: AH
    /// counts 4-byte units less 2 (RFC 4302 2.2), the others 8-byte units less 1 (RFC 8200 4.3).
    #[inline(always)]
    pub const fn length(&self, announced_as: u8) -> usize {
        if announced_as == NEXT_AUTHENTICATION {
            (self.length_units as usize + 2) * 4
        } else {
            (self.length_units as usize + 1) * 8
        }
    }
}

/// The start of a routing header (RFC 8200 4.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingHeader {
    /// The bytes that every extension header starts with.
    pub extension: ExtensionHeader,
    kind: u8,
    /// Nodes still to be visited: the packet has not reached its destination while this is not 0.
    pub segments_left: u8,
}

// SAFETY: repr(C) over bytes.
unsafe impl Header for RoutingHeader {}

/// The fragment extension header (RFC 8200 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Protocol number of what follows.
    pub next_header: u8,
    reserved: u8,
    offset_flags: [u8; 2],
    identification: [u8; 4],
}

// SAFETY: repr(C) over bytes and byte arrays.
unsafe impl Header for FragmentHeader {}

impl FragmentHeader {
    /// Offset 0 and no more fragments: a whole packet (RFC 6946, "atomic fragment").
    #[inline(always)]
    pub const fn is_atomic(&self) -> bool {
        u16::from_be_bytes(self.offset_flags) & 0xfff9 == 0
    }

    /// Whether the payload starts with the transport header.
    #[inline(always)]
    pub const fn is_first(&self) -> bool {
        u16::from_be_bytes(self.offset_flags) & 0xfff8 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_rfc_8200_offsets() {
        let header = Ipv6Header::new(0xb8, 0x12345, 20, 6, 64, [1; 16], [2; 16]);
        assert_eq!(header.version_class_flow, [0x6b, 0x81, 0x23, 0x45]);
        assert_eq!((header.version(), header.traffic_class()), (6, 0xb8));
        assert_eq!(header.payload_length(), 20);
        assert_eq!(Ipv6Header::LEN, 40);
    }

    #[test]
    fn extension_lengths() {
        let options = ExtensionHeader { next_header: 6, length_units: 1 };
        assert_eq!(options.length(NEXT_DESTINATION), 16);
        let ah = ExtensionHeader { next_header: 6, length_units: 4 };
        assert_eq!(ah.length(NEXT_AUTHENTICATION), 24);
    }

    #[test]
    fn atomic_fragments() {
        let mut header = FragmentHeader {
            next_header: 6,
            reserved: 0,
            offset_flags: [0, 0],
            identification: [0; 4],
        };
        assert!(header.is_atomic() && header.is_first());
        header.offset_flags = [0, 1];
        assert!(!header.is_atomic() && header.is_first());
        header.offset_flags = [0, 8];
        assert!(!header.is_atomic() && !header.is_first());
    }
}
