//! Ethernet II and IEEE 802.1Q tags.

use super::Header;

/// A MAC address in wire order.
pub type Mac = [u8; 6];

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Tag protocol id of a customer VLAN tag (802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Tag protocol id of a service VLAN tag (802.1ad).
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// The 12 bits of a tag control field that name the VLAN.
pub const VLAN_ID_MASK: u16 = 0x0fff;

/// An Ethernet II header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Destination MAC.
    pub destination: Mac,
    /// Source MAC.
    pub source: Mac,
    ethertype: [u8; 2],
}

// SAFETY: repr(C) over byte arrays.
unsafe impl Header for EthernetHeader {}

impl EthernetHeader {
    /// A header of these fields; `ethertype` in host order.
    #[inline(always)]
    pub const fn new(destination: Mac, source: Mac, ethertype: u16) -> Self {
        Self { destination, source, ethertype: ethertype.to_be_bytes() }
    }

    /// EtherType, host order.
    #[inline(always)]
    pub const fn ethertype(&self) -> u16 {
        u16::from_be_bytes(self.ethertype)
    }
}

/// What follows the tag protocol id of a VLAN tag: control field, then the next EtherType.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    control: [u8; 2],
    ethertype: [u8; 2],
}

// SAFETY: repr(C) over byte arrays.
unsafe impl Header for VlanTag {}

impl VlanTag {
    /// A tag of priority 0 for `vlan_id` (12 bits) in front of `ethertype`, both in host order.
    #[inline(always)]
    pub const fn new(vlan_id: u16, ethertype: u16) -> Self {
        Self { control: (vlan_id & VLAN_ID_MASK).to_be_bytes(), ethertype: ethertype.to_be_bytes() }
    }

    /// VLAN id, 12 bits.
    #[inline(always)]
    pub const fn vlan_id(&self) -> u16 {
        u16::from_be_bytes(self.control) & VLAN_ID_MASK
    }

    /// The EtherType after the tag, host order.
    #[inline(always)]
    pub const fn ethertype(&self) -> u16 {
        u16::from_be_bytes(self.ethertype)
    }
}

/// A MAC address as a number below 2^48, first byte on the wire in the lowest bits.
#[inline(always)]
pub const fn mac_to_u64(mac: Mac) -> u64 {
    u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
}

/// The inverse of [`mac_to_u64`]; the upper 16 bits are not looked at.
#[inline(always)]
pub const fn mac_from_u64(bits: u64) -> Mac {
    let b = bits.to_le_bytes();
    [b[0], b[1], b[2], b[3], b[4], b[5]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_survives_the_number_and_back() {
        let mac = [0x02, 0x11, 0x22, 0x33, 0x44, 0xfe];
        assert_eq!(mac_from_u64(mac_to_u64(mac)), mac);
        assert_eq!(mac_from_u64(mac_to_u64(mac) | 0xffff << 48), mac);
    }

    #[test]
    fn fields_lie_where_802_1q_puts_them() {
        let header = EthernetHeader::new([1; 6], [2; 6], ETHERTYPE_IPV6);
        assert_eq!(header.ethertype, [0x86, 0xdd]);
        let tag = VlanTag::new(0x1123, ETHERTYPE_IPV4);
        assert_eq!((tag.control, tag.ethertype), ([0x01, 0x23], [0x08, 0x00]));
        assert_eq!(tag.vlan_id(), 0x123);
        assert_eq!((EthernetHeader::LEN, VlanTag::LEN), (14, 4));
    }
}
