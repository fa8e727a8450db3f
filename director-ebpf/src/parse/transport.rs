//! TCP and UDP: ports and flags.

use director_common::{
    verdict::PassReason,
    wire::{
        Header,
        tcp::{PROTOCOL_TCP, TcpHeader},
        udp::{PROTOCOL_UDP, UdpHeader},
    },
};

use super::{Content, Packet, ipv6::is_extension};
use crate::frame::Frame;

/// Four bytes of anything.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Word([u8; 4]);

// SAFETY: repr(C) over a byte array.
unsafe impl Header for Word {}

impl Word {
    /// As the checksum adds it.
    #[inline(always)]
    pub fn native(self) -> u32 {
        u32::from_ne_bytes(self.0)
    }

    /// The first and the second half.
    #[inline(always)]
    pub fn halves(self) -> ([u8; 2], [u8; 2]) {
        ([self.0[0], self.0[1]], [self.0[2], self.0[3]])
    }
}

/// The transport header of a whole packet that starts at `offset` and ends at `end`.
#[inline(always)]
pub fn whole(
    frame: &Frame,
    packet: &mut Packet,
    offset: usize,
    end: usize,
) -> Result<(), PassReason> {
    match packet.flow.protocol {
        PROTOCOL_TCP => {
            let tcp = frame.header::<TcpHeader>(offset).ok_or(PassReason::Truncated)?;
            let header_length = tcp.header_length();
            if header_length < TcpHeader::LEN || offset + header_length > end {
                return Err(PassReason::Malformed);
            }
            packet.flow.source_port = tcp.source_port;
            packet.flow.destination_port = tcp.destination_port;
            packet.tcp_flags = u32::from(tcp.flags);
        }
        PROTOCOL_UDP => {
            let udp = frame.header::<UdpHeader>(offset).ok_or(PassReason::Truncated)?;
            let length = udp.length() as usize;
            if length < UdpHeader::LEN || offset + length > end {
                return Err(PassReason::Malformed);
            }
            packet.flow.source_port = udp.source_port;
            packet.flow.destination_port = udp.destination_port;
        }
        _ => return Err(PassReason::OtherProtocol),
    }
    packet.content = Content::Whole;
    Ok(())
}

/// A fragment of a packet of this protocol.
#[inline(always)]
pub fn fragment(packet: &mut Packet) -> Result<(), PassReason> {
    if packet.flow.protocol != PROTOCOL_TCP && packet.flow.protocol != PROTOCOL_UDP {
        return Err(PassReason::OtherProtocol);
    }
    packet.content = Content::Fragment;
    Ok(())
}

/// A later fragment of an IPv6 packet: its protocol is not told if the first fragment has extension
/// headers in front of it.
#[inline(always)]
pub fn later_fragment(packet: &mut Packet) -> Result<(), PassReason> {
    if !is_extension(packet.flow.protocol) {
        return fragment(packet);
    }
    packet.content = Content::Fragment;
    Ok(())
}
