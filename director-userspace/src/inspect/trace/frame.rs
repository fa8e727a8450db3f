//! Builds the frame of a flow's packet, as the director's NIC would receive it.

use std::net::SocketAddr;

use director_common::{
    address::Address,
    checksum::Sum,
    wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac},
};

use super::flow::{FlowSpec, Packet};
use crate::policy::config::model::Protocol;

/// The source MAC address: it is not evaluated.
const SENDER: Mac = [2, 0, 0, 0, 0, 0xfe];
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

impl FlowSpec {
    /// A frame of this flow to `mac`, with valid checksums.
    pub fn frame(&self, packet: Packet, mac: Mac) -> Vec<u8> {
        let ip_header = if self.source.is_ipv4() { 20 } else { 40 };
        let l4_header = match self.protocol {
            Protocol::Tcp => TCP_HEADER,
            Protocol::Udp => UDP_HEADER,
        };
        let payload = usize::from(packet.length).saturating_sub(ip_header + l4_header);
        let transport = self.transport(packet.flags, payload);
        let mut frame = [mac, SENDER].concat();
        let ethertype = if self.source.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        frame.extend(ethertype.to_be_bytes());
        frame.extend(self.ip_header(transport.len()));
        frame.extend(transport);
        frame
    }

    fn protocol_number(&self) -> u8 {
        self.protocol as u8
    }

    fn transport(&self, flags: u8, payload: usize) -> Vec<u8> {
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()];
        let mut bytes = ports.concat();
        let checksum_at = match self.protocol {
            Protocol::Tcp => {
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            Protocol::Udp => {
                bytes.extend(((UDP_HEADER + payload) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
        };
        bytes.resize(bytes.len() + payload, 0);
        let mut sum = Sum::ZERO;
        sum.add_address(Address::from(self.source.ip()));
        sum.add_address(Address::from(self.destination.ip()));
        sum.add_u16(u16::from(self.protocol_number()));
        sum.add_u16(bytes.len() as u16);
        for pair in bytes.chunks(2) {
            sum.add_u16(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&sum.finish());
        bytes
    }

    fn ip_header(&self, payload: usize) -> Vec<u8> {
        const HOPS: u8 = 64;
        match (self.source, self.destination) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                let mut header = vec![0x45, 0];
                header.extend(((20 + payload) as u16).to_be_bytes());
                // Don't fragment.
                header.extend([0, 0, 0x40, 0, HOPS, self.protocol_number(), 0, 0]);
                header.extend(source.ip().octets());
                header.extend(destination.ip().octets());
                let mut sum = Sum::ZERO;
                for pair in header.chunks(2) {
                    sum.add_u16(u16::from_be_bytes([pair[0], pair[1]]));
                }
                header[10..12].copy_from_slice(&sum.finish());
                header
            }
            (source, destination) => {
                let mut header = vec![0x60, 0, 0, 0];
                header.extend((payload as u16).to_be_bytes());
                header.extend([self.protocol_number(), HOPS]);
                header.extend(Address::from(source.ip()).bytes());
                header.extend(Address::from(destination.ip()).bytes());
                header
            }
        }
    }
}
