//! What identifies a flow, and the keyed hash of it.
//!
//! One 64-bit hash per packet serves three uses: its upper half places the flow on the service's
//! ring (the same on every director that has the same key), the whole is the flow's fingerprint in
//! the flow table, and multiplied by a per-boot salt it picks the flow table's set.
//!
//! The hash is NH (Black et al., UMAC, CRYPTO '99) twice with independent keys, then a bijective
//! finish. NH is universal: without the key, a sender cannot choose flows that collide more often
//! than by chance, whichever fields it controls; and it takes one multiplication per eight bytes,
//! where SipHash's rotations cost four BPF instructions each.

use crate::{address::Address, numbered::numbered};

/// Address family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

numbered! {
    /// A transport protocol of services, by its IP protocol number.
    Protocol {
        /// TCP (RFC 9293).
        Tcp = 6, "tcp";
        /// UDP (RFC 768).
        Udp = 17, "udp";
    }
}

/// The 5-tuple of a packet as the director receives it: from a client to a VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address: the VIP.
    pub destination: Address,
    /// Source port, wire order.
    pub source_port: [u8; 2],
    /// Destination port, wire order.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub _pad: [u8; 2],
}

/// Words of key material: two for each pair of flow words, and two sets of them.
pub const HASH_WORDS: usize = 20;

/// The fleet-wide hash key, expanded to the words that the hash reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKey {
    /// Key material of the two NH sums, ten words each.
    pub words: [u32; HASH_WORDS],
}

impl HashKey {
    /// Expands the 16 configured bytes (any 16 bytes are valid) by SplitMix64 (Steele et al.,
    /// OOPSLA '14).
    pub fn expand(bytes: [u8; 16]) -> Self {
        let mut words = [0; HASH_WORDS];
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low.copy_from_slice(&bytes[..8]);
        high.copy_from_slice(&bytes[8..]);
        let mut state = u64::from_le_bytes(low);
        for pair in words.chunks_exact_mut(2) {
            state = finish(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
            // Both halves of the key enter every word.
            state = finish(state ^ u64::from_le_bytes(high));
            pair[0] = state as u32;
            pair[1] = (state >> 32) as u32;
        }
        Self { words }
    }
}

/// The source of the hash's key: userspace's [`HashKey`], or the program's load-time constants.
pub trait KeyWords {
    /// Word `at` of the key material; `at` is below [`HASH_WORDS`].
    fn word(&self, at: usize) -> u32;
}

impl KeyWords for HashKey {
    #[inline(always)]
    fn word(&self, at: usize) -> u32 {
        self.words[at]
    }
}

/// The keyed hash of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// This flow's slot on a ring of `slots` slots: below `slots`. Multiply-shift, since a division
    /// costs more than a cache hit.
    #[inline(always)]
    pub const fn ring_slot(self, slots: u32) -> u32 {
        (((self.0 >> 32) * slots as u64) >> 32) as u32
    }

    /// Which of `1 << bits` sets of the flow table holds this flow. `salt` is odd and secret, so
    /// that no sender can aim at one set (Dietzfelbinger's multiply-shift).
    #[inline(always)]
    pub const fn table_set(self, salt: u64, bits: u32) -> u32 {
        (self.0.wrapping_mul(salt) >> (64 - bits)) as u32
    }

    /// The way of its set that a flow is looked up in first: below 4.
    #[inline(always)]
    pub const fn preferred_way(self) -> usize {
        (self.0 & 3) as usize
    }

    /// 20 bits for the flow label of an outer IPv6 header (RFC 6438), so that routers on the path
    /// spread flows and keep each on one route.
    #[inline(always)]
    pub const fn flow_label(self) -> u32 {
        (self.0 & 0xf_ffff) as u32
    }
}

/// Xor, shift and multiply until every input bit affects every output bit; a bijection.
#[inline(always)]
const fn finish(mut x: u64) -> u64 {
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^= x >> 29;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ x >> 32
}

/// One NH term: two words, two words of key, one product that cannot overflow.
#[inline(always)]
fn nh(a: u32, b: u32, key: &impl KeyWords, at: usize) -> u64 {
    u64::from(a.wrapping_add(key.word(at)))
        .wrapping_mul(u64::from(b.wrapping_add(key.word(at + 1))))
}

impl FlowKey {
    /// Both ports as one word.
    #[inline(always)]
    const fn ports(&self) -> u32 {
        let source = u16::from_le_bytes(self.source_port) as u32;
        source | (u16::from_le_bytes(self.destination_port) as u32) << 16
    }

    /// The keyed hash. The family determines how many words are read, and is part of the last one.
    #[inline(always)]
    pub fn hash(&self, key: &impl KeyWords) -> FlowHash {
        let last = u32::from(self.protocol) | u32::from(self.family) << 8;
        let (s, d) = (self.source, self.destination);
        let mut sums = [0u64; 2];
        let mut pass = 0;
        while pass < 2 {
            let at = pass * (HASH_WORDS / 2);
            let mut sum = nh(s.word(0), d.word(0), key, at);
            sum = sum.wrapping_add(nh(self.ports(), last, key, at + 2));
            if self.family == Family::V6 as u8 {
                sum = sum.wrapping_add(nh(s.word(1), d.word(1), key, at + 4));
                sum = sum.wrapping_add(nh(s.word(2), d.word(2), key, at + 6));
                sum = sum.wrapping_add(nh(s.word(3), d.word(3), key, at + 8));
            }
            sums[pass] = sum;
            pass += 1;
        }
        FlowHash(finish(sums[0].wrapping_add(sums[1].rotate_left(32))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    extern crate std;
    use std::{collections::HashSet, vec, vec::Vec};

    fn v4(source: u32, port: u16) -> FlowKey {
        FlowKey {
            source: Address::v4(source.to_be_bytes()),
            destination: Address::v4([192, 0, 2, 10]),
            source_port: port.to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            protocol: 6,
            family: 4,
            _pad: [0; 2],
        }
    }

    fn v6(source: u32, port: u16) -> FlowKey {
        let mut bytes = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[12..].copy_from_slice(&source.to_be_bytes());
        FlowKey { source: Address::v6(bytes), family: 6, ..v4(0, port) }
    }

    /// A fleet agrees on ring positions only while these values stay the same: pinned, not derived.
    #[test]
    fn hash_is_stable_across_versions() {
        let key = HashKey::expand(*b"director-fleet-1");
        assert_eq!(key.words[0], 2_965_319_758);
        assert_eq!(v4(0xc633_6407, 40000).hash(&key).0, 9_766_668_521_764_475_666);
        assert_eq!(v6(0xc633_6407, 40000).hash(&key).0, 11_274_212_524_178_422_711);
    }

    #[test]
    fn neighbouring_flows_spread_evenly() {
        let key = HashKey::expand([7; 16]);
        for make in [v4 as fn(u32, u16) -> FlowKey, v6] {
            let mut buckets = vec![0u32; 251];
            let mut seen = HashSet::new();
            for source in 0..512 {
                for port in 0..256 {
                    let hash = make(0x0a00_0000 + source, 1024 + port).hash(&key);
                    assert!(seen.insert(hash), "collision among 131,072 flows");
                    buckets[hash.ring_slot(251) as usize] += 1;
                }
            }
            // Chi-square with 250 degrees of freedom: 340 is beyond the 99.98th percentile.
            let expected = 512.0 * 256.0 / 251.0;
            let chi: f64 =
                buckets.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
            assert!(chi < 340.0, "chi-square {chi}");
        }
    }

    #[test]
    fn sets_spread_evenly_under_a_salt() {
        let key = HashKey::expand([7; 16]);
        let mut sets = vec![0u32; 256];
        for source in 0..65_536 {
            sets[v4(source, 80).hash(&key).table_set(0x9e37_79b9_7f4a_7c15, 8) as usize] += 1;
        }
        let chi: f64 = sets.iter().map(|n| (f64::from(*n) - 256.0).powi(2) / 256.0).sum();
        assert!(chi < 345.0, "chi-square {chi}");
    }

    /// Whether changing any single field changes the hash, keys being equal.
    #[test]
    fn every_field_changes_the_hash() {
        let key = HashKey::expand([1; 16]);
        let base = v6(1, 1);
        let mut variants: Vec<FlowKey> = vec![base];
        for byte in 0..16 {
            let flip = |address: Address, bit: u8| {
                let mut bytes = address.bytes();
                bytes[byte] ^= bit;
                Address::v6(bytes)
            };
            variants.push(FlowKey { source: flip(base.source, 1), ..base });
            variants.push(FlowKey { destination: flip(base.destination, 0x80), ..base });
        }
        variants.push(FlowKey { source_port: [9, 9], ..base });
        variants.push(FlowKey { destination_port: [9, 9], ..base });
        variants.push(FlowKey { protocol: 17, ..base });
        let hashes: HashSet<_> = variants.iter().map(|k| k.hash(&key)).collect();
        assert_eq!(hashes.len(), variants.len());
    }

    proptest! {
        #[test]
        fn ring_slot_is_in_range(hash: u64, slots in 1u32..1 << 24) {
            prop_assert!(FlowHash(hash).ring_slot(slots) < slots);
        }

        #[test]
        fn table_set_is_in_range(hash: u64, salt: u64, bits in 1u32..32) {
            prop_assert!(u64::from(FlowHash(hash).table_set(salt | 1, bits)) < 1 << bits);
        }
    }
}
