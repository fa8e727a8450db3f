//! The Internet checksum (RFC 1071).
//!
//! The sum is independent of byte order (RFC 1071 2 (B)): 16-bit words may be added in the host's
//! order as long as the result is stored in the host's order again. This file therefore loads and
//! stores in native order and never swaps. Two 16-bit words may also be added as one 32-bit word,
//! since 2^16 is 1 modulo 2^16 - 1: carries are folded back at the end.

use crate::address::Address;

/// A ones' complement sum in progress. Holds 2^32 32-bit words before it could overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self(0);

    /// Adds four bytes, loaded in native order.
    #[inline(always)]
    pub const fn add_word(&mut self, word: u32) {
        self.0 += word as u64;
    }

    /// Adds a 16-bit number given in host order, as it is on the wire.
    #[inline(always)]
    pub const fn add_u16(&mut self, value: u16) {
        self.0 += value.to_be() as u64;
    }

    /// Adds a sum of words, from another [`Sum`] or the kernel's `bpf_csum_diff`.
    #[inline(always)]
    pub const fn add_folded(&mut self, sum: u64) {
        self.0 += (sum >> 32) + (sum & 0xffff_ffff);
    }

    /// Adds an address.
    #[inline(always)]
    pub const fn add_address(&mut self, address: Address) {
        self.add_folded(address.first);
        self.add_folded(address.second);
    }

    /// The sum folded to 16 bits, native order.
    #[inline(always)]
    const fn fold(self) -> u16 {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum as u16
    }

    /// The checksum field of the added data, as the two bytes to store.
    #[inline(always)]
    pub const fn finish(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// Whether the added data, its checksum field included, has a valid checksum.
    #[inline(always)]
    pub const fn is_valid(self) -> bool {
        // The three parts of the sum of up to a million words add up to less than three times
        // 0xffff; the sum is valid if that is a multiple of it.
        let sum = (self.0 >> 32) + (self.0 >> 16 & 0xffff) + (self.0 & 0xffff);
        sum == 0xffff || sum == 2 * 0xffff
    }
}

/// The checksum after one aligned 16-bit word of the data changed from `from` to `to`, all in wire
/// order (RFC 1624 equation 3: HC' = ~(~HC + ~m + m')).
#[inline(always)]
pub const fn update(checksum: [u8; 2], from: [u8; 2], to: [u8; 2]) -> [u8; 2] {
    let mut sum = Sum::ZERO;
    sum.0 += (!u16::from_ne_bytes(checksum)) as u64;
    sum.0 += (!u16::from_ne_bytes(from)) as u64;
    sum.0 += u16::from_ne_bytes(to) as u64;
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 1, word by word in network order.
    fn textbook(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn ours(bytes: &[u8]) -> Sum {
        let mut sum = Sum::ZERO;
        for word in bytes.chunks_exact(4) {
            sum.add_word(u32::from_ne_bytes(word.try_into().unwrap()));
        }
        sum
    }

    #[test]
    fn rfc_1071_example() {
        // 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
        let sum = ours(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), (!0xddf2u16).to_be_bytes());
    }

    #[test]
    fn all_ones_and_all_zeros() {
        assert!(!Sum::ZERO.is_valid());
        let mut sum = Sum::ZERO;
        sum.add_u16(0xffff);
        assert!(sum.is_valid());
    }

    proptest! {
        #[test]
        fn equals_the_textbook(words in prop::collection::vec(any::<[u8; 4]>(), 0..400)) {
            let bytes = words.as_flattened();
            prop_assert_eq!(ours(bytes).finish(), textbook(bytes).to_be_bytes());
        }

        #[test]
        fn a_stored_checksum_is_valid(words in prop::collection::vec(any::<[u8; 4]>(), 1..40)) {
            let mut bytes = words.as_flattened().to_vec();
            bytes[2..4].fill(0);
            let checksum = ours(&bytes).finish();
            bytes[2..4].copy_from_slice(&checksum);
            prop_assert!(ours(&bytes).is_valid());
        }

        #[test]
        fn update_equals_recomputing(
            words in prop::collection::vec(any::<[u8; 4]>(), 2..40), to in any::<[u8; 2]>(), at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = words.as_flattened().to_vec();
            let at = at.index(bytes.len() / 2) * 2;
            let before = ours(&bytes).finish();
            let from = [bytes[at], bytes[at + 1]];
            bytes[at..at + 2].copy_from_slice(&to);
            let expected = ours(&bytes).finish();
            let got = update(before, from, to);
            // 0x0000 and 0xffff are the same number in ones' complement.
            let same = got == expected || [got, expected].iter().all(|c| *c == [0; 2] || *c == [0xff; 2]);
            prop_assert!(same, "{got:?} {expected:?}");
        }
    }
}
