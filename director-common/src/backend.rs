//! A backend of one service, as the program reads it: one cache line.
//!
//! Fields that must be read atomically share one aligned 64-bit word: [`BackendWord`] and
//! [`NextHop`]. The rest is written while no published word refers to it.

use crate::{
    address::Address,
    numbered::numbered,
    wire::{
        Header as _,
        ethernet::{Mac, mac_from_u64, mac_to_u64},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
    },
};

/// Bits of a backend's slot.
pub const BACKEND_SLOT_BITS: u32 = 20;
/// Maximum number of backends of all services together; slot 0 is never used.
pub const MAX_BACKENDS: u32 = 1 << BACKEND_SLOT_BITS;
/// Number of generations of a slot before they repeat.
pub const GENERATIONS: u16 = 1 << 12;

/// A backend's slot and the slot's generation: the reference in rings and flow entries. Reuse of a
/// slot changes its generation, which makes earlier references stale.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackendRef(pub u32);

impl BackendRef {
    /// No backend.
    pub const NONE: Self = Self(0);

    /// `slot` below [`MAX_BACKENDS`], `generation` below [`GENERATIONS`].
    #[inline(always)]
    pub const fn new(slot: u32, generation: u16) -> Self {
        Self(slot & (MAX_BACKENDS - 1) | (generation as u32) << BACKEND_SLOT_BITS)
    }

    /// Index into the backends' map.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 & (MAX_BACKENDS - 1)
    }

    /// The slot's generation that it refers to.
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        (self.0 >> BACKEND_SLOT_BITS) as u16
    }

    /// Whether this names no backend.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.slot() == 0
    }

    /// This reference in both halves of a word: see [`crate::flow_table`].
    #[inline(always)]
    pub const fn spread(self) -> u64 {
        self.0 as u64 | (self.0 as u64) << 32
    }
}

/// What a backend's slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BackendState {
    /// Unused; the word holds the generation of the next use.
    Free = 0,
    /// Configured: known flows are forwarded, new ones as the ring assigns them.
    Active = 1,
    /// Removed from the configuration: known flows are forwarded until the drain timeout.
    Draining = 2,
    /// Configured, but down: the data plane reads it as [`BackendState::Free`], so known flows are
    /// rescheduled. Flows that send nothing meanwhile reach it again when it is up.
    Down = 4,
}

numbered! {
    /// How packets travel to the backend. Three bits of [`BackendWord`].
    ForwardMode {
        /// Within an outer IP header (RFC 2003, RFC 2473, RFC 4213); the backend may be anywhere.
        Tunnel = 0, "tunnel";
        /// Unchanged, to the backend's MAC address; the backend is on the link.
        Direct = 1, "direct";
    }
}

/// Requirements and overhead of a mode: the compiler requires each of them for a new mode.
impl ForwardMode {
    /// Bytes that forwarding adds to the IP packet, towards a backend whose address is IPv6 or not.
    #[inline(always)]
    pub const fn overhead(self, backend_is_v6: bool) -> u16 {
        match self {
            Self::Tunnel if backend_is_v6 => Ipv6Header::LEN as u16,
            Self::Tunnel => Ipv4Header::LEN as u16,
            Self::Direct => 0,
        }
    }

    /// Whether the director puts an outer header in front of the packet, with a source address of its
    /// own.
    #[inline(always)]
    pub const fn encapsulates(self) -> bool {
        match self {
            Self::Tunnel => true,
            Self::Direct => false,
        }
    }

    /// Whether the backend must be on the link: a gateway would route the packet back to the VIP.
    #[inline(always)]
    pub const fn needs_link(self) -> bool {
        match self {
            Self::Tunnel => false,
            Self::Direct => true,
        }
    }

    /// Whether a backend's address may be of another family than the VIP.
    pub const fn mixes_families(self) -> bool {
        match self {
            Self::Tunnel => true,
            Self::Direct => false,
        }
    }
}

/// Everything about a backend that determines how a packet is processed, in one word.
///
/// | bits | meaning |
/// |---|---|
/// | 0-11 | generation |
/// | 12-13 | [`BackendState`] |
/// | 14-16 | [`ForwardMode`] |
/// | 17 | the backend's address is IPv6 |
/// | 18 | next hop fixed by the configuration |
/// | 19 | which of the two tunnel sources is in use |
/// | 20 | [`BackendState::Down`]; then 12-13 are zero |
/// | 21-31 | zero |
/// | 32-47 | service slot |
/// | 48-63 | MTU towards the backend, bytes of L3 packet; 0: not known |
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendWord(pub u64);

/// The fields of a [`BackendWord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendFields {
    /// Below [`GENERATIONS`].
    pub generation: u16,
    /// What the slot is used for.
    pub state: BackendState,
    /// How packets travel; `None` for a number that this version does not define.
    pub forward: Option<ForwardMode>,
    /// Whether the backend's address is IPv6.
    pub is_v6: bool,
    /// Whether the configuration fixes the next hop's MAC.
    pub fixed_next_hop: bool,
    /// Index of the tunnel source in use, 0 or 1.
    pub source: u8,
    /// Slot of the backend's service.
    pub service: u16,
    /// Bytes of L3 packet that fit towards the backend; 0: not known.
    pub mtu: u16,
}

/// A number that no [`ForwardMode`] has.
const UNKNOWN_MODE: u64 = 7;

impl BackendWord {
    /// Packs the fields.
    pub const fn pack(f: BackendFields) -> Self {
        Self(
            (f.generation & (GENERATIONS - 1)) as u64
                | (f.state as u64 & 3) << 12
                | (f.state as u64 >> 2) << 20
                | (match f.forward {
                    Some(mode) => mode as u64,
                    None => UNKNOWN_MODE,
                }) << 14
                | (f.is_v6 as u64) << 17
                | (f.fixed_next_hop as u64) << 18
                | ((f.source & 1) as u64) << 19
                | (f.service as u64) << 32
                | (f.mtu as u64) << 48,
        )
    }

    /// The inverse of [`BackendWord::pack`].
    pub const fn unpack(self) -> BackendFields {
        BackendFields {
            generation: self.generation(),
            state: match ((self.0 >> 12) & 3, (self.0 >> 20) & 1) {
                (0, 0) => BackendState::Free,
                (0, _) => BackendState::Down,
                (1, _) => BackendState::Active,
                _ => BackendState::Draining,
            },
            forward: self.forward(),
            is_v6: self.is_v6(),
            fixed_next_hop: self.has_fixed_next_hop(),
            source: self.source() as u8,
            service: self.service(),
            mtu: self.mtu(),
        }
    }

    /// Whether the slot still holds the backend of `reference`, and packets may be forwarded to it.
    #[inline(always)]
    pub const fn is(self, reference: BackendRef) -> bool {
        self.generation() == reference.generation() && (self.0 >> 12) & 3 != 0
    }

    /// The slot's generation.
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        (self.0 & (GENERATIONS as u64 - 1)) as u16
    }

    /// How packets travel; `None` for a number that this version does not define.
    #[inline(always)]
    pub const fn forward(self) -> Option<ForwardMode> {
        ForwardMode::from_number((self.0 >> 14) as u8 & 7)
    }

    /// Whether the backend's address is IPv6.
    #[inline(always)]
    pub const fn is_v6(self) -> bool {
        (self.0 >> 17) & 1 != 0
    }

    /// Whether the next hop is fixed by the configuration.
    #[inline(always)]
    pub const fn has_fixed_next_hop(self) -> bool {
        (self.0 >> 18) & 1 != 0
    }

    /// Index of the tunnel source in use, 0 or 1.
    #[inline(always)]
    pub const fn source(self) -> usize {
        ((self.0 >> 19) & 1) as usize
    }

    /// Slot of the backend's service.
    #[inline(always)]
    pub const fn service(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Bytes of L3 packet that fit towards the backend; 0: not known.
    #[inline(always)]
    pub const fn mtu(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// The next hop of a packet: destination MAC (bits 0-47), VLAN id (48-59; 0: untagged), egress
/// interface slot (60-63; 0: not resolved).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop(pub u64);

impl NextHop {
    /// Not resolved: the program looks it up in the kernel's FIB.
    pub const UNRESOLVED: Self = Self(0);

    /// `vlan_id` 12 bits, 0 for untagged; `interface` a slot from 1 to 15.
    #[inline(always)]
    pub const fn new(mac: Mac, vlan_id: u16, interface: u8) -> Self {
        Self(mac_to_u64(mac) | ((vlan_id & 0xfff) as u64) << 48 | ((interface & 0xf) as u64) << 60)
    }

    /// Whether the egress interface is resolved.
    #[inline(always)]
    pub const fn is_resolved(self) -> bool {
        self.interface() != 0
    }

    /// Whether frames leave by the same interface and with the same VLAN tag as by `other`, which
    /// names them.
    pub const fn is_same_way(self, other: Self) -> bool {
        other.is_resolved()
            && self.interface() == other.interface()
            && self.vlan_id() == other.vlan_id()
    }

    /// Whether the MAC is resolved too, and not only the egress interface.
    pub const fn has_mac(self) -> bool {
        self.0 & 0xffff_ffff_ffff != 0
    }

    /// The next hop's MAC.
    #[inline(always)]
    pub const fn mac(self) -> Mac {
        mac_from_u64(self.0)
    }

    /// VLAN id of the outgoing frame; 0: untagged.
    #[inline(always)]
    pub const fn vlan_id(self) -> u16 {
        (self.0 >> 48) as u16 & 0xfff
    }

    /// Slot of the egress interface; 0: not resolved.
    #[inline(always)]
    pub const fn interface(self) -> u32 {
        (self.0 >> 60) as u32
    }
}

/// A backend of one service.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// [`BackendWord`]; written last; it alone publishes the rest.
    pub word: BackendWord,
    /// [`NextHop`].
    pub next_hop: NextHop,
    /// Its address.
    pub address: Address,
    /// Source addresses of the outer header. The word selects the one in use, so that a change is
    /// written to the other one and then published atomically.
    pub sources: [Address; 2],
}

const _: () = assert!(size_of::<Backend>() == 64);

/// Metadata of a backend that only userspace reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendMeta {
    /// When a draining backend's flows are rescheduled: CLOCK_MONOTONIC, nanoseconds.
    pub drain_deadline_ns: u64,
    /// Weight, 0 to 65,535.
    pub weight: u32,
    /// [`BackendMeta::check_of`] the entry; 0: not known, as in maps of former directors.
    pub check: u32,
}

impl BackendMeta {
    /// A number, never 0, by which a later process recognises a backend whose address, family or
    /// service another process changed: it is not the one that these flows were assigned to.
    pub const fn check_of(address: Address, is_v6: bool, service: u16) -> u32 {
        // Each step is invertible, so no single changed bit is lost before the last fold.
        let mut hash = 0x9e37_79b9_7f4a_7c15 ^ (service as u64) << 1 ^ is_v6 as u64;
        hash = (hash ^ address.first).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ hash >> 33 ^ address.second).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (hash >> 32) as u32 ^ hash as u32 | 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_round_trips() {
        let fields = BackendFields {
            generation: 0xabc,
            state: BackendState::Draining,
            forward: Some(ForwardMode::Direct),
            is_v6: true,
            fixed_next_hop: true,
            source: 1,
            service: 0xfedc,
            mtu: 9000,
        };
        assert_eq!(BackendWord::pack(fields).unpack(), fields);
        assert!(BackendWord::pack(fields).is(BackendRef::new(7, 0xabc)));
        assert!(!BackendWord::pack(fields).is(BackendRef::new(7, 0xabd)));
    }

    #[test]
    fn a_changed_bit_of_a_backends_identity_changes_its_check() {
        let address = Address::v4([10, 0, 0, 7]);
        let check = BackendMeta::check_of(address, false, 3);
        for bit in 0..64 {
            let first = Address { first: address.first ^ 1 << bit, ..address };
            let second = Address { second: address.second ^ 1 << bit, ..address };
            assert_ne!(BackendMeta::check_of(first, false, 3), check, "first {bit}");
            assert_ne!(BackendMeta::check_of(second, false, 3), check, "second {bit}");
        }
        for bit in 0..16 {
            assert_ne!(BackendMeta::check_of(address, false, 3 ^ 1 << bit), check, "{bit}");
        }
        assert_ne!(BackendMeta::check_of(address, true, 3), check);
    }

    #[test]
    fn an_unknown_mode_is_no_mode_and_stays_one() {
        let word = BackendWord(5 << 14 | 1 << 12);
        assert_eq!((word.forward(), word.unpack().forward), (None, None));
        assert_eq!(BackendWord::pack(word.unpack()).forward(), None);
        for mode in ForwardMode::ALL {
            let fields = BackendFields { forward: Some(*mode), ..word.unpack() };
            assert_eq!(BackendWord::pack(fields).forward(), Some(*mode));
        }
    }

    #[test]
    fn a_free_slot_matches_no_reference_even_in_its_generation() {
        let word = BackendWord::pack(BackendFields {
            state: BackendState::Free,
            ..BackendWord(5).unpack()
        });
        assert!(!word.is(BackendRef::new(1, 5)));
        assert!(!BackendWord::default().is(BackendRef::NONE));
    }

    #[test]
    fn a_down_backend_reads_as_free_in_the_data_plane_and_as_down_in_userspace() {
        let fields = BackendFields { state: BackendState::Down, ..BackendWord(5).unpack() };
        let word = BackendWord::pack(fields);
        assert!(!word.is(BackendRef::new(1, 5)));
        assert_eq!(word.unpack(), fields);
    }

    #[test]
    fn next_hop_round_trips() {
        let hop = NextHop::new([2, 0, 0, 0, 0, 0xff], 4094, 15);
        assert_eq!((hop.mac(), hop.vlan_id(), hop.interface()), ([2, 0, 0, 0, 0, 0xff], 4094, 15));
        assert!(hop.is_resolved() && !NextHop::UNRESOLVED.is_resolved());
    }
}
