//! Interfaces of Director: the MACs that it receives for, and the egress of packets.

/// Interface slots; slot 0 means "none", so 15 can be used.
pub const MAX_INTERFACES: u32 = 16;
/// Maximum number of MAC addresses of one interface: its own, then those of VRRP and macvlans.
pub const INTERFACE_MACS: usize = 7;

/// An interface: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The MACs that frames for this machine carry ([`crate::wire::ethernet::mac_to_u64`]), the
    /// interface's own first; 0: none. Each is one word, so that a change is atomic.
    pub macs: [u64; INTERFACE_MACS],
    /// Kernel's interface index; 0: slot not in use.
    pub ifindex: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Interface>() == 64);

impl Interface {
    /// The interface's own MAC ([`crate::wire::ethernet::mac_to_u64`]): the source of outgoing
    /// frames.
    #[inline(always)]
    pub const fn mac(&self) -> u64 {
        self.macs[0]
    }
}
