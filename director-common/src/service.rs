//! Services: address, protocol and port in front of backends.

use crate::{
    address::Address, backend::BackendRef, flow::FlowKey, numbered::numbered, stats::BackendStats,
};

/// Slots of a ring: prime, and large enough that 1,000 backends get their share within 1.6 %.
pub const RING_SLOTS: u32 = 65_537;
/// Ring slots in one cache line, the unit a ring is stored in.
pub const CHUNK_SLOTS: u32 = 16;
/// Cache lines of one ring.
pub const RING_CHUNKS: u32 = RING_SLOTS.div_ceil(CHUNK_SLOTS);
/// Maximum number of services; slot 0 is used like any other.
pub const MAX_SERVICES: u32 = 16_384;

/// A chunk of a ring: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingChunk {
    /// Backends, by ring slot.
    pub slots: [BackendRef; CHUNK_SLOTS as usize],
}

const _: () = assert!(size_of::<RingChunk>() == 64);

/// Identifies a service: the key of its map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The VIP.
    pub address: Address,
    /// Port, wire order; 0: any port.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6, with [`PRESENCE`] set for the entry that marks that some service has this address
    /// and protocol.
    pub family: u8,
    /// Zero.
    pub _pad: [u8; 4],
}

const _: () = assert!(size_of::<ServiceKey>() == 24);

/// Marks a key that stands for all ports: only non-first fragments, whose port is not known, are
/// looked up by it.
pub const PRESENCE: u8 = 0x80;

impl ServiceKey {
    /// The key of the service on exactly this flow's port.
    #[inline(always)]
    pub const fn exact(flow: &FlowKey) -> Self {
        Self {
            address: flow.destination,
            port: flow.destination_port,
            protocol: flow.protocol,
            family: flow.family,
            _pad: [0; 4],
        }
    }

    /// The key of the any-port service of the same address and protocol.
    #[inline(always)]
    pub const fn any_port(self) -> Self {
        Self { port: [0; 2], ..self }
    }

    /// The key that every service of the same address and protocol shares.
    #[inline(always)]
    pub const fn presence(self) -> Self {
        Self { port: [0; 2], family: self.family | PRESENCE, ..self }
    }
}

/// Words of the filter that distinguishes VIPs from other addresses.
pub const VIP_FILTER_WORDS: u32 = 1 << 10;

/// Word and bit of the filter for `address`: its last 16 bits, in which neighbouring hosts differ.
#[inline(always)]
pub const fn vip_bit(address: Address, is_v6: bool) -> (u32, u32) {
    let last = if is_v6 { address.second >> 48 } else { address.first >> 16 };
    // The last byte on the wire varies most: it selects the word.
    let last = (last as u32 & 0xffff).rotate_right(6);
    (last & (VIP_FILTER_WORDS - 1), last >> 26)
}

numbered! {
    /// What happens to a new flow when no backend is usable.
    WhenEmpty {
        /// The client gets ICMP port unreachable from the VIP.
        Reject = 0, "reject";
        /// Dropped.
        Drop = 1, "drop";
        /// Passed to the host.
        Pass = 2, "pass";
    }
}

/// A service's ring and policy in one word, replaced atomically.
///
/// | bits | meaning |
/// |---|---|
/// | 0-31 | first chunk of the ring in the rings' map |
/// | 32-55 | slots of the ring; 0: no usable backend |
/// | 56-57 | [`WhenEmpty`] |
/// | 63 | in use |
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceWord(pub u64);

impl ServiceWord {
    /// A service in use, its ring of `slots` (below 2^24) starting at `first_chunk`.
    pub const fn new(first_chunk: u32, slots: u32, when_empty: WhenEmpty) -> Self {
        Self(
            first_chunk as u64
                | ((slots & 0xff_ffff) as u64) << 32
                | (when_empty as u64) << 56
                | 1 << 63,
        )
    }

    /// Whether the slot is in use.
    #[inline(always)]
    pub const fn in_use(self) -> bool {
        self.0 >> 63 != 0
    }

    /// Chunk and place within it of ring slot `slot`.
    #[inline(always)]
    pub const fn place(self, slot: u32) -> (u32, usize) {
        ((self.0 as u32).wrapping_add(slot / CHUNK_SLOTS), (slot % CHUNK_SLOTS) as usize)
    }

    /// First chunk of the ring.
    #[inline(always)]
    pub const fn first_chunk(self) -> u32 {
        self.0 as u32
    }

    /// Slots of the ring; 0: no usable backend.
    #[inline(always)]
    pub const fn slots(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff_ffff
    }

    /// The policy for a new flow when no backend is usable.
    #[inline(always)]
    pub const fn when_empty(self) -> WhenEmpty {
        match WhenEmpty::from_number((self.0 >> 56) as u8 & 3) {
            Some(policy) => policy,
            // No version writes this value: pass to the host.
            None => WhenEmpty::Pass,
        }
    }
}

/// A service: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// [`ServiceWord`]; written last.
    pub word: ServiceWord,
    /// The service's key. The program compares it, since a hash map's value may be read while its
    /// element is reused for another key.
    pub key: ServiceKey,
    /// Seconds for which known flows of a removed backend are still forwarded. For userspace.
    pub drain_timeout_s: u64,
    /// Hash of the inputs that the ring was built from; 0: not built yet. For userspace, which
    /// rebuilds a ring with an unexpected fingerprint.
    pub ring_fingerprint: u64,
    /// Zero.
    pub _pad: [u8; 16],
}

const _: () = assert!(size_of::<Service>() == 64);

/// Maximum length of a service name, bytes.
pub const NAME_LEN: usize = 63;

/// Metadata of a service that only userspace reads: kept with the maps so that a new daemon finds
/// it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceMeta {
    /// The service's name, UTF-8, padded with zeros.
    pub name: [u8; NAME_LEN + 1],
    /// Counters of backends whose slots have been freed.
    pub retired: BackendStats,
    /// The scheduler's number; 0: `maglev`, also in maps of versions that had no other.
    pub scheduler: u8,
    /// Zero.
    pub _pad: [u8; 31],
}

const _: () = assert!(size_of::<ServiceMeta>() == 128);

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;

    #[test]
    fn word_round_trips() {
        let word = ServiceWord::new(0x1234_5678, RING_SLOTS, WhenEmpty::Pass);
        assert!(word.in_use() && !ServiceWord::default().in_use());
        assert_eq!(word.first_chunk(), 0x1234_5678);
        assert_eq!((word.slots(), word.when_empty()), (RING_SLOTS, WhenEmpty::Pass));
        assert_eq!(word.place(35), (0x1234_567a, 3));
    }

    #[test]
    fn addresses_of_a_network_have_distinct_bits() {
        let bits: std::collections::HashSet<_> = (0..=0xffff_u16)
            .map(|host| vip_bit(Address::v4([10, 1, (host >> 8) as u8, host as u8]), false))
            .collect();
        assert_eq!(bits.len(), 1 << 16);
        assert!(bits.iter().all(|(word, bit)| *word < VIP_FILTER_WORDS && *bit < 64));
        let v6 = |last: u8| {
            let mut bytes = [0xfd; 16];
            bytes[15] = last;
            vip_bit(Address::v6(bytes), true)
        };
        assert_ne!(v6(1), v6(2));
    }

    #[test]
    fn the_last_slot_lies_in_the_last_chunk() {
        let word = ServiceWord::new(0, RING_SLOTS, WhenEmpty::Reject);
        assert_eq!(word.place(RING_SLOTS - 1), (RING_CHUNKS - 1, 0));
    }
}
