//! The ring of the `maglev` scheduler (Eisenbud et al., "Maglev", NSDI '16, section 3.4), weighted
//! exactly.
//!
//! Every backend walks a permutation of the ring that its address alone decides, and takes the
//! first slot that is still free whenever it has a turn. The paper gives everybody a turn a round;
//! here each backend first gets a quota of slots in proportion to its weight (largest remainder),
//! and its turns lie evenly spread over the whole filling. So shares are exact to one slot, and the
//! order in which backends are listed decides nothing: directors that were fed in different order
//! agree.

use crate::{address::Address, backend::BackendRef};

/// A backend that wants slots.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    address: Address,
    reference: BackendRef,
    weight: u16,
    quota: u32,
    /// Next slot to try, and the step to the one after.
    at: u32,
    skip: u32,
}

impl Candidate {
    /// A backend at `address` that is to have `weight` shares and appears in the ring as
    /// `reference`.
    pub const fn new(address: Address, weight: u16, reference: BackendRef) -> Self {
        Self { address, reference, weight, quota: 0, at: 0, skip: 0 }
    }

    /// Slots of the ring that it got.
    pub const fn quota(&self) -> u32 {
        self.quota
    }

    /// The backend.
    pub const fn reference(&self) -> BackendRef {
        self.reference
    }
}

/// Working memory of [`build`], for a ring of `ring.len()` slots.
pub struct Scratch<'a> {
    /// Whose turn it is, in order; `ring.len()` places.
    pub turns: &'a mut [u32],
    /// Where the turns of each point in time start; one place more than `turns`.
    pub starts: &'a mut [u32],
    /// A bit for each slot taken; `ring.len().div_ceil(64)` places. Kept apart from the ring since
    /// this fits the first-level cache and is read ten times as often.
    pub taken: &'a mut [u64],
}

/// Fills `ring` (a prime number of slots, at most 2^24) with the candidates' references, each in
/// proportion to its weight. Returns the number of slots filled: all of them, or 0 when nobody has
/// a weight (the ring is left as it was). Sorts the candidates.
///
/// # Panics
///
/// If scratch memory is not of the size that the ring asks for.
pub fn build(
    candidates: &mut [Candidate],
    scratch: &mut Scratch<'_>,
    ring: &mut [BackendRef],
) -> u32 {
    let slots = ring.len() as u32;
    assert!(scratch.turns.len() == ring.len() && scratch.starts.len() == ring.len() + 1);
    assert!(scratch.taken.len() == ring.len().div_ceil(64));

    candidates.sort_unstable_by_key(|c| c.address);
    if !assign_quotas(candidates, slots) {
        return 0;
    }
    for candidate in candidates.iter_mut() {
        let hash = address_hash(candidate.address);
        candidate.at = (((hash >> 32) * u64::from(slots)) >> 32) as u32;
        candidate.skip = (((hash & 0xffff_ffff) * u64::from(slots - 1)) >> 32) as u32 + 1;
    }
    order_turns(candidates, scratch.turns, scratch.starts);

    scratch.taken.fill(0);
    for turn in scratch.turns.iter() {
        let candidate = &mut candidates[*turn as usize];
        let mut at = candidate.at;
        while scratch.taken[(at / 64) as usize] & 1 << (at % 64) != 0 {
            at += candidate.skip;
            if at >= slots {
                at -= slots;
            }
        }
        scratch.taken[(at / 64) as usize] |= 1 << (at % 64);
        ring[at as usize] = candidate.reference;
        candidate.at = at;
    }
    slots
}

/// Gives each candidate `slots * weight / total` slots, the left-over ones to the largest
/// remainders. Whether anybody has a weight.
fn assign_quotas(candidates: &mut [Candidate], slots: u32) -> bool {
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    if total == 0 {
        return false;
    }
    let remainder = |c: &Candidate| u64::from(slots) * u64::from(c.weight) % total;
    let mut left = slots;
    for candidate in candidates.iter_mut() {
        candidate.quota = (u64::from(slots) * u64::from(candidate.weight) / total) as u32;
        left -= candidate.quota;
    }
    // Fewer are left than candidates have a remainder. Find the remainder from which on one slot
    // more is given, by bisection; ties are served in address order.
    let at_least =
        |bound: u64, cs: &[Candidate]| cs.iter().filter(|c| remainder(c) >= bound).count() as u64;
    let (mut low, mut high) = (1, total);
    while low < high {
        let middle = low + (high - low) / 2;
        if at_least(middle, candidates) > u64::from(left) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let mut ties = u64::from(left) - at_least(low, candidates);
    for candidate in candidates.iter_mut() {
        let remainder = remainder(candidate);
        if remainder >= low {
            candidate.quota += 1;
        } else if remainder + 1 == low && ties > 0 {
            candidate.quota += 1;
            ties -= 1;
        }
    }
    true
}

/// Orders everybody's turns: the k-th of a candidate's `quota` turns is due at (2k+1) / (2 quota)
/// of the filling. A counting sort by due time, stable in the candidates' order.
fn order_turns(candidates: &[Candidate], turns: &mut [u32], starts: &mut [u32]) {
    let slots = turns.len() as u64;
    // Due times in slots with 32 bits of fraction; slots < 2^24, so nothing overflows.
    let due = |quota: u32| {
        let step = (slots << 32) / u64::from(quota);
        (0..u64::from(quota)).map(move |k| ((step / 2 + k * step) >> 32) as usize)
    };
    starts.fill(0);
    for candidate in candidates.iter().filter(|c| c.quota > 0) {
        due(candidate.quota).for_each(|time| starts[time + 1] += 1);
    }
    for time in 1..starts.len() {
        starts[time] += starts[time - 1];
    }
    for (index, candidate) in candidates.iter().enumerate().filter(|(_, c)| c.quota > 0) {
        for time in due(candidate.quota) {
            turns[starts[time] as usize] = index as u32;
            starts[time] += 1;
        }
    }
}

/// 64 well-mixed bits of an address. Not keyed: rings of a fleet must agree, and an address is the
/// operator's to choose, not a stranger's.
fn address_hash(address: Address) -> u64 {
    let mut hash = 0x243f_6a88_85a3_08d3u64;
    for half in [address.first, address.second] {
        hash ^= half;
        // The finish of SplitMix64.
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::RING_SLOTS;
    use proptest::prelude::*;

    extern crate std;
    use std::{collections::HashMap, println, time::Instant, vec, vec::Vec};

    fn address(number: u32) -> Address {
        Address::v4((0x0a00_0001 + number).to_be_bytes())
    }

    fn ring_of(slots: usize, weights: &[(u32, u16)]) -> Vec<BackendRef> {
        let mut candidates: Vec<_> = weights
            .iter()
            .map(|(n, weight)| Candidate::new(address(*n), *weight, BackendRef::new(n + 1, 0)))
            .collect();
        let mut ring = vec![BackendRef::NONE; slots];
        let mut scratch = Scratch {
            turns: &mut vec![0; slots],
            starts: &mut vec![0; slots + 1],
            taken: &mut vec![0; slots.div_ceil(64)],
        };
        let filled = build(&mut candidates, &mut scratch, &mut ring);
        assert_eq!(filled as usize, if weights.iter().any(|w| w.1 > 0) { slots } else { 0 });
        ring
    }

    fn shares(ring: &[BackendRef]) -> HashMap<BackendRef, u32> {
        let mut shares = HashMap::new();
        for slot in ring {
            *shares.entry(*slot).or_default() += 1;
        }
        shares
    }

    fn equal(n: u32) -> Vec<(u32, u16)> {
        (0..n).map(|i| (i, 1)).collect()
    }

    #[test]
    fn shares_follow_weights_within_a_slot() {
        for n in [3u32, 100, 1000] {
            for weigh in
                [|_| 1u16, |i: u32| 1 + (i % 7) as u16, |i: u32| 1 + (i * 131 % 65_535) as u16]
            {
                let weights: Vec<_> = (0..n).map(|i| (i, weigh(i))).collect();
                let total: f64 = weights.iter().map(|w| f64::from(w.1)).sum();
                let got = shares(&ring_of(RING_SLOTS as usize, &weights));
                for (i, weight) in weights {
                    let fair = f64::from(RING_SLOTS) * f64::from(weight) / total;
                    let share = f64::from(*got.get(&BackendRef::new(i + 1, 0)).unwrap_or(&0));
                    assert!(
                        (share - fair).abs() <= 1.0,
                        "{n} backends: {i} has {share}, fair {fair}"
                    );
                }
            }
        }
    }

    #[test]
    fn removing_one_of_a_hundred_moves_few_others() {
        let before = ring_of(RING_SLOTS as usize, &equal(100));
        let mut worst = 0.0f64;
        for gone in 0..100 {
            let weights: Vec<_> = equal(100).into_iter().filter(|w| w.0 != gone).collect();
            let after = ring_of(RING_SLOTS as usize, &weights);
            let moved =
                before.iter().zip(&after).filter(|(b, a)| b != a && b.slot() != gone + 1).count();
            worst = worst.max(moved as f64 / f64::from(RING_SLOTS) * 100.0);
        }
        println!("worst of 100 removals moves {worst:.2} % of the other flows");
        assert!(worst <= 2.0, "{worst} %");
    }

    #[test]
    fn listing_order_decides_nothing() {
        let mut weights: Vec<_> = (0..50).map(|i| (i, 1 + (i % 3) as u16)).collect();
        let ring = ring_of(4093, &weights);
        weights.reverse();
        assert_eq!(ring_of(4093, &weights), ring);
    }

    #[test]
    fn without_weights_nothing_is_filled() {
        assert!(ring_of(251, &[(0, 0), (1, 0)]).iter().all(|slot| slot.is_none()));
        assert!(ring_of(251, &[]).iter().all(|slot| slot.is_none()));
    }

    /// A fleet of different versions must agree on rings: pinned, not derived.
    #[test]
    fn ring_is_stable_across_versions() {
        let ring = ring_of(251, &[(0, 1), (1, 2), (2, 3)]);
        let head: Vec<u32> = ring.iter().take(24).map(|r| r.slot()).collect();
        assert_eq!(head, [2, 3, 3, 1, 3, 1, 2, 3, 2, 3, 3, 2, 3, 2, 1, 3, 1, 2, 3, 2, 3, 2, 2, 3]);
    }

    #[test]
    fn building_takes_milliseconds() {
        for n in [3, 100, 1000] {
            let weights = equal(n);
            let best = (0..5)
                .map(|_| {
                    let start = Instant::now();
                    ring_of(RING_SLOTS as usize, &weights);
                    start.elapsed()
                })
                .min()
                .unwrap();
            println!("{RING_SLOTS} slots over {n} backends: {best:?}");
            assert!(best.as_micros() < 5000, "{n} backends: {best:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_weights_fill_the_ring_fairly(weights in prop::collection::vec(any::<u16>(), 1..60)) {
            let weights: Vec<_> = weights.into_iter().enumerate().map(|(i, w)| (i as u32, w)).collect();
            let total: u64 = weights.iter().map(|w| u64::from(w.1)).sum();
            prop_assume!(total > 0);
            let got = shares(&ring_of(4093, &weights));
            prop_assert!(!got.contains_key(&BackendRef::NONE));
            for (i, weight) in weights {
                let share = u64::from(*got.get(&BackendRef::new(i + 1, 0)).unwrap_or(&0));
                let scaled = 4093 * u64::from(weight);
                prop_assert!(share * total <= scaled + total && share * total + total >= scaled);
            }
        }
    }
}
