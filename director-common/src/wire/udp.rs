//! UDP (RFC 768).

use super::Header;

/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// A UDP header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHeader {
    /// Source port, wire order.
    pub source_port: [u8; 2],
    /// Destination port, wire order.
    pub destination_port: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}

// SAFETY: repr(C) over byte arrays.
unsafe impl Header for UdpHeader {}

impl UdpHeader {
    /// Length of header and payload, bytes; at least 8 in a valid header.
    #[inline(always)]
    pub const fn length(&self) -> u16 {
        u16::from_be_bytes(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_read_in_network_order() {
        let header = UdpHeader {
            source_port: [0; 2],
            destination_port: [0; 2],
            length: [1, 2],
            checksum: [0; 2],
        };
        assert_eq!(header.length(), 0x102);
        assert_eq!(UdpHeader::LEN, 8);
    }
}
