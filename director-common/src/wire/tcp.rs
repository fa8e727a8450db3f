//! TCP (RFC 9293).

use super::Header;

/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;

/// "No more data from sender".
pub const FIN: u8 = 0x01;
/// "Synchronize sequence numbers".
pub const SYN: u8 = 0x02;
/// "Reset the connection".
pub const RST: u8 = 0x04;
/// "Acknowledgment field is significant".
pub const ACK: u8 = 0x10;

/// A TCP header without options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    /// Source port, wire order.
    pub source_port: [u8; 2],
    /// Destination port, wire order.
    pub destination_port: [u8; 2],
    sequence: [u8; 4],
    acknowledgment: [u8; 4],
    offset_reserved: u8,
    /// Control bits: [`FIN`], [`SYN`], [`RST`], [`ACK`], ...
    pub flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

// SAFETY: repr(C) over bytes and byte arrays.
unsafe impl Header for TcpHeader {}

impl TcpHeader {
    /// Header length with options, bytes; at least 20 in a valid header.
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        (self.offset_reserved >> 4) as usize * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_offset_counts_words() {
        let header = TcpHeader {
            source_port: [0; 2],
            destination_port: [0; 2],
            sequence: [0; 4],
            acknowledgment: [0; 4],
            offset_reserved: 0x8f,
            flags: SYN | ACK,
            window: [0; 2],
            checksum: [0; 2],
            urgent: [0; 2],
        };
        assert_eq!(header.header_length(), 32);
        assert_eq!(TcpHeader::LEN, 20);
    }
}
