//! The frame that is sent.

use std::net::IpAddr;

use clap::ValueEnum;

/// Destination MAC of every frame: the interface's.
pub(crate) const OWN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0d, 0x01];
const SENDER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0c, 0x01];

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// TCP control bits.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Transport protocols of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// TCP: known flows send ACK, new ones SYN.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A frame that is sent repeatedly, each time as another flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The destination address.
    pub(crate) vip: IpAddr,
    /// The port.
    pub(crate) port: u16,
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// Whether it opens a connection.
    pub(crate) opens: bool,
    /// Its length, bytes.
    pub(crate) size: usize,
}

impl Frame {
    /// The bytes. Source 11.0.0.0 (or fd00:11::) and port 0, which the harness replaces; the IPv4
    /// checksum is set by the harness too, that of the transport header stays zero, as no program
    /// reads it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size);
        bytes.extend(OWN_MAC);
        bytes.extend(SENDER_MAC);
        let protocol = match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        match self.vip {
            IpAddr::V4(vip) => {
                bytes.extend([0x08, 0x00, 0x45, 0]);
                bytes.extend(((self.size - ETHERNET) as u16).to_be_bytes());
                bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 11, 0, 0, 0]);
                bytes.extend(vip.octets());
            }
            IpAddr::V6(vip) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                bytes.extend(((self.size - ETHERNET - IPV6) as u16).to_be_bytes());
                bytes.extend([protocol, 64]);
                bytes.extend([0xfd, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend(vip.octets());
            }
        }
        let l4 = bytes.len();
        bytes.extend([0, 0]);
        bytes.extend(self.port.to_be_bytes());
        match self.protocol {
            Protocol::Tcp => {
                let flags = if self.opens { SYN } else { ACK };
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
            Protocol::Udp => {
                bytes.extend(((self.size - l4) as u16).to_be_bytes());
                bytes.extend([0, 0]);
            }
        }
        bytes.resize(self.size, 0);
        bytes
    }

    /// Sum of the IPv4 header's 16-bit words without checksum, source and the last 16 bits of the
    /// destination: what the harness adds to. 0 for IPv6.
    pub(crate) fn partial_sum(&self) -> u64 {
        if self.vip.is_ipv6() {
            return 0;
        }
        let bytes = self.bytes();
        let header = &bytes[ETHERNET..ETHERNET + IPV4];
        let words = header.chunks_exact(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1]));
        words.enumerate().filter(|(at, _)| ![5, 6, 7, 9].contains(at)).map(|(_, word)| word).sum()
    }
}
