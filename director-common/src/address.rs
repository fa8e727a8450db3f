//! An IP address of either family as two machine words.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::Family;

/// The 16 bytes of an address in wire order, as two words; IPv4 in the first four bytes, the rest
/// zero. The family is stored separately.
///
/// Words instead of bytes: the program copies and compares addresses for every packet, and a pair
/// of words stays in registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The first eight bytes, loaded in native order.
    pub first: u64,
    /// The last eight bytes.
    pub second: u64,
}

impl Address {
    /// An IPv4 address, from wire order.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self { first: u32::from_ne_bytes(bytes) as u64, second: 0 }
    }

    /// An IPv6 address, from wire order.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self {
            first: u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            second: u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        }
    }

    /// The first four bytes in wire order: the IPv4 address, if it is one.
    #[inline(always)]
    pub const fn v4_bytes(self) -> [u8; 4] {
        (self.first as u32).to_ne_bytes()
    }

    /// All 16 bytes in wire order.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 16] {
        let (a, b) = (self.first.to_ne_bytes(), self.second.to_ne_bytes());
        [
            a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5],
            b[6], b[7],
        ]
    }

    /// Four bytes, the `at`-th four of the address, as a word in native order.
    #[inline(always)]
    pub const fn word(self, at: usize) -> u32 {
        let half = if at < 2 { self.first } else { self.second };
        (half >> (at % 2 * 32)) as u32
    }

    /// Whether a host can send from this address. No host has an unspecified or loopback address on
    /// the wire, a multicast or broadcast one, or a reserved one (RFC 6890: 0/8, 127/8, 224/4, 240/4;
    /// `::`, `::1`, `ff00::/8`, `::ffff:0:0/96`).
    #[inline(always)]
    pub const fn is_possible_source(self, is_v6: bool) -> bool {
        if is_v6 {
            let second = u64::from_be(self.second);
            let is_reserved = self.first == 0 && (second < 2 || second >> 32 == 0xffff);
            !is_reserved && self.first.to_ne_bytes()[0] != 0xff
        } else {
            let first = self.v4_bytes()[0];
            first != 0 && first != 127 && first < 224
        }
    }

    /// The address as the standard library's type.
    pub const fn to_ip(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => {
                let [a, b, c, d] = self.v4_bytes();
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            Family::V6 => IpAddr::V6(Ipv6Addr::from_octets(self.bytes())),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_through_words() {
        let v4: IpAddr = "192.0.2.10".parse().unwrap();
        assert_eq!(Address::from(v4).to_ip(Family::V4), v4);
        assert_eq!(Address::from(v4).v4_bytes(), [192, 0, 2, 10]);
        let v6: IpAddr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let address = Address::from(v6);
        assert_eq!(address.to_ip(Family::V6), v6);
        assert_eq!(address.word(0), u32::from_ne_bytes([0x20, 0x01, 0x0d, 0xb8]));
        assert_eq!(address.word(3), u32::from_ne_bytes([0, 5, 0, 6]));
    }

    #[test]
    fn possible_sources() {
        let is_possible = |text: &str| {
            let ip: IpAddr = text.parse().unwrap();
            Address::from(ip).is_possible_source(ip.is_ipv6())
        };
        for text in [
            "0.0.0.0",
            "0.255.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "224.0.0.0",
            "224.0.0.5",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "ff00::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "::ffff:0.0.0.0",
            "::ffff:192.0.2.1",
        ] {
            assert!(!is_possible(text), "{text}");
        }
        for text in [
            "1.0.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "223.255.255.255",
            "10.0.0.1",
            "169.254.0.1",
            "::2",
            "::fffe:192.0.2.1",
            "0:0:0:1::",
            "1::ffff:192.0.2.1",
            "fe80::1",
            "fd00::1",
            "64:ff9b::192.0.2.1",
            "feff:ffff::1",
            "2001:db8::ff",
        ] {
            assert!(is_possible(text), "{text}");
        }
    }
}
