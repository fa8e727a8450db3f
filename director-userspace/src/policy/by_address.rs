//! Hash tables by IP address, faster than the standard library's: a change looks up a hundred
//! thousand backends a dozen times.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    net::IpAddr,
};

/// A table by IP address.
pub type ByAddress<T> = HashMap<IpAddr, T, BuildHasherDefault<AddressHasher>>;

/// Mixes a few words. Not keyed: the addresses come from the operator, not from an attacker.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The upper half of a product depends on all bits of its factors.
        let product =
            u128::from(self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn neighbours_spread_over_a_table() {
        let hasher = BuildHasherDefault::<AddressHasher>::default();
        let v4 = (0..4096u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
        let v6 =
            (0..4096u128).map(|n| IpAddr::from((0x2001_0db8 << 96 | n << 64 | n).to_be_bytes()));
        for addresses in [v4.collect::<Vec<_>>(), v6.collect()] {
            // Tables use the lower bits for the bucket, the upper seven to distinguish entries.
            for shift in [0, 57] {
                let buckets = 128;
                let mut counts = vec![0; buckets];
                for address in &addresses {
                    counts[(hasher.hash_one(address) >> shift) as usize % buckets] += 1;
                }
                let most = counts.iter().max().copied().unwrap_or(0);
                assert!(most < 3 * addresses.len() / buckets, "{most} in one of {buckets}");
            }
        }
    }
}
