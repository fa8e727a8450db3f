//! What the programs that carry path probes share with their loader: see
//! `director-ebpf/src/path_probe.rs`.
//!
//! Neither maps nor programs are pinned, and a director that starts replaces those of a previous
//! one, so these layouts may change freely between versions.

use crate::address::Address;

/// Hash of `u32` (a probe's number, the low half of its mark) to [`Probe`].
pub const PROBES: &str = "PROBES";
/// LRU hash of [`ExchangeKey`] to [`Exchange`]; written on egress.
pub const EXCHANGES: &str = "EXCHANGES";
/// Array of `u64`: a bit per VIP that is probed, see [`crate::service::vip_bit`].
pub const PROBED_VIPS: &str = "PROBED_VIPS";
/// Array of `u64`: packets sent by probe number.
pub const SENT: &str = "SENT";
/// Load-time constant: the high half of this instance's marks.
pub const MARK_RANGE: &str = "MARK_RANGE";
/// The program on tc egress.
pub const EGRESS: &str = "path_egress";
/// The program on tc ingress.
pub const INGRESS: &str = "path_ingress";

/// High half of the first instance's marks: `DI`. Later instances take the next numbers.
pub const FIRST_RANGE: u16 = 0x4449;
/// Maximum number of instances on a host that probe paths at a time.
pub const MAX_RANGES: u16 = 32;
/// Maximum number of probes of an instance; their numbers start with 1.
pub const MAX_PROBES: u32 = 16_383;

/// Bits of [`Probe::flags`].
pub mod flag {
    /// The VIP is IPv6.
    pub const VIP_V6: u32 = 1;
    /// The backend's address is IPv6.
    pub const BACKEND_V6: u32 = 2;
    /// Packets are encapsulated.
    pub const TUNNEL: u32 = 4;
    /// [`super::Probe::from`] replaces the socket's address.
    pub const FROM: u32 = 8;
    /// [`super::Probe::mac`] replaces the MAC of the next hop that the kernel found.
    pub const MAC: u32 = 16;
}

/// The path of a probe. Never changed once it is in the map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// The address that sockets are connected to, and the outer destination.
    pub backend: Address,
    /// The inner destination.
    pub vip: Address,
    /// The inner source.
    pub from: Address,
    /// The outer source.
    pub source: Address,
    /// Destination of the frame: six bytes in wire order, two of zero.
    pub mac: [u8; 8],
    /// See [`flag`].
    pub flags: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Probe>() == 80);

/// The addresses and ports of a reply.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExchangeKey {
    /// Its source.
    pub vip: Address,
    /// Its destination.
    pub local: Address,
    /// Source port and destination port as they are in the reply, loaded in native order.
    pub ports: u32,
    /// IP protocol number; 256 more for IPv6.
    pub protocol: u32,
}

const _: () = assert!(size_of::<ExchangeKey>() == 40);

/// The addresses that the socket expects in the reply.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Its source.
    pub backend: Address,
    /// Its destination.
    pub local: Address,
    /// 1 if these are IPv6.
    pub is_v6: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Exchange>() == 40);

/// The mark of a probe; `range` is the instance's.
pub const fn mark(range: u16, number: u32) -> u32 {
    (range as u32) << 16 | number & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_instances_do_not_overlap() {
        let last = FIRST_RANGE.checked_add(MAX_RANGES - 1).expect("16 bits");
        assert_eq!(mark(FIRST_RANGE, 1), 0x4449_0001);
        assert!(mark(FIRST_RANGE, MAX_PROBES) < mark(FIRST_RANGE + 1, 1));
        assert_eq!(mark(last, MAX_PROBES) >> 24, 0x44);
        // Kubernetes marks packets with 0x4000 and 0x8000.
        assert_eq!(MAX_PROBES & 0xc000, 0);
    }
}
