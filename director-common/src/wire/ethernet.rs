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
/// The 48 bits of a word that hold a MAC address.
pub const MAC_MASK: u64 = (1 << 48) - 1;
/// The 12 bits of a tag control field that name the VLAN.
pub const VLAN_ID_MASK: u16 = 0x0fff;

/// An Ethernet II header. Words instead of byte arrays: the program writes one for every packet,
/// and LLVM copies twelve bytes of two addresses one by one.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Destination MAC, and the first two bytes of the source; little-endian.
    first: u64,
    /// The rest of the source.
    second: u32,
    /// Big-endian.
    ethertype: u16,
}

// SAFETY: packed words: alignment 1, no padding, any bytes.
unsafe impl Header for EthernetHeader {}

impl EthernetHeader {
    /// A header of these fields: MACs as [`mac_to_u64`] returns them, `ethertype` in host order.
    #[inline(always)]
    pub const fn new(destination: u64, source: u64, ethertype: u16) -> Self {
        Self {
            first: (destination & MAC_MASK | source << 48).to_le(),
            second: ((source >> 16) as u32).to_le(),
            ethertype: ethertype.to_be(),
        }
    }

    /// Destination MAC, as [`mac_to_u64`] returns it.
    #[inline(always)]
    pub const fn destination(&self) -> u64 {
        u64::from_le(self.first) & MAC_MASK
    }

    /// Source MAC, likewise.
    #[inline(always)]
    pub const fn source(&self) -> u64 {
        u64::from_le(self.first) >> 48 | (u32::from_le(self.second) as u64) << 16
    }

    /// EtherType, host order.
    #[inline(always)]
    pub const fn ethertype(&self) -> u16 {
        u16::from_be(self.ethertype)
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

/// The inverse of [`mac_to_u64`]; the upper 16 bits are ignored.
#[inline(always)]
pub const fn mac_from_u64(bits: u64) -> Mac {
    let b = bits.to_le_bytes();
    [b[0], b[1], b[2], b[3], b[4], b[5]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_round_trips_through_u64() {
        let mac = [0x02, 0x11, 0x22, 0x33, 0x44, 0xfe];
        assert_eq!(mac_from_u64(mac_to_u64(mac)), mac);
        assert_eq!(mac_from_u64(mac_to_u64(mac) | 0xffff << 48), mac);
    }

    #[test]
    fn fields_have_their_802_1q_offsets() {
        let (to, from) = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        let header = EthernetHeader::new(mac_to_u64(to), mac_to_u64(from), ETHERTYPE_IPV6);
        // SAFETY: a Header is bytes.
        let bytes: [u8; 14] = unsafe { core::mem::transmute(header) };
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x86, 0xdd]);
        assert_eq!((header.destination(), header.source()), (mac_to_u64(to), mac_to_u64(from)));
        assert_eq!(header.ethertype(), ETHERTYPE_IPV6);
        let tag = VlanTag::new(0x1123, ETHERTYPE_IPV4);
        assert_eq!((tag.control, tag.ethertype), ([0x01, 0x23], [0x08, 0x00]));
        assert_eq!(tag.vlan_id(), 0x123);
        assert_eq!((EthernetHeader::LEN, VlanTag::LEN), (14, 4));
    }
}
