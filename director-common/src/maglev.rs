//! The ring of the `maglev` scheduler (Eisenbud et al., "Maglev", NSDI '16, section 3.4), weighted
//! exactly.
//!
//! Each backend walks a permutation of the ring that depends on its address alone, and takes the
//! next free slot at each of its turns. In the paper each backend has one turn a round; here each
//! backend first gets a quota of slots in proportion to its weight (largest remainder), and its
//! turns are spread evenly over the whole filling. Shares are therefore exact to one slot, and the
//! order in which backends are listed has no effect: directors with different orders build the same
//! ring.

use crate::{address::Address, backend::BackendRef};

/// A backend to be placed on the ring.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    address: Address,
    reference: BackendRef,
    weight: u16,
    quota: u32,
}

impl Candidate {
    /// A backend at `address` with `weight` shares, which appears in the ring as `reference`.
    pub const fn new(address: Address, weight: u16, reference: BackendRef) -> Self {
        Self { address, reference, weight, quota: 0 }
    }

    /// Number of ring slots assigned to it.
    pub const fn quota(&self) -> u32 {
        self.quota
    }

    /// The backend.
    pub const fn reference(&self) -> BackendRef {
        self.reference
    }
}

/// A candidate's position in its permutation.
///
/// Places are fractions of the ring, in units of 2^-64, in the middle of their slots: sums of steps
/// wrap around the ring by themselves, and rounding errors never reach a slot's edge (see
/// [`slot_at`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    /// The place of the slot before the next one to try.
    at: u64,
    /// The distance from each place to the next.
    step: u64,
    /// See [`Walk::pace`]; 0: not computed yet.
    pace: u64,
}

/// Candidates with the same number of turns, which are therefore due at the same times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peers {
    quota: u32,
    /// Index of the first one in [`Scratch::order`].
    first: u16,
    count: u16,
}

/// A free slot: not the number of any candidate.
const EMPTY: u16 = u16::MAX;

/// Maximum number of free slots for the linear search.
pub const FREE: usize = 512;

/// Working memory of [`build`], for a ring of `ring.len()` slots and a number of candidates; its
/// initial contents are irrelevant.
pub struct Scratch<'a> {
    /// The ring by candidates' numbers: `ring.len()` places. Half as large as the ring, so it stays
    /// in the cache.
    pub places: &'a mut [u16],
    /// Peers in order of their due times; `ring.len()` places.
    pub due: &'a mut [u16],
    /// Index in `due` at which each due time starts; one place more.
    pub starts: &'a mut [u32],
    /// The free slots, near the end of the filling: [`FREE`] places.
    pub free: &'a mut [u32],
    /// One place per candidate.
    pub walks: &'a mut [Walk],
    /// One place per candidate.
    pub peers: &'a mut [Peers],
    /// Two places per candidate.
    pub order: &'a mut [u16],
}

/// Fills `ring` (a prime number of slots, at most 2^24) with the candidates' references, each in
/// proportion to its weight. Returns the number of slots filled: all of them, or 0 if no candidate
/// has a weight (the ring is unchanged). Sorts the candidates, of which there are at most 65,535.
///
/// # Panics
///
/// If scratch memory is smaller than the ring or the candidates require.
pub fn build(
    candidates: &mut [Candidate],
    scratch: &mut Scratch<'_>,
    ring: &mut [BackendRef],
) -> u32 {
    let slots = ring.len();
    let n = candidates.len();
    assert!(n <= usize::from(EMPTY));
    let places = &mut scratch.places[..slots];
    let walks = &mut scratch.walks[..n];
    let (order, turns) = scratch.order[..2 * n].split_at_mut(n);

    candidates.sort_unstable_by_key(|c| c.address);
    if !assign_quotas(candidates, slots as u32) {
        return 0;
    }
    for (walk, candidate) in walks.iter_mut().zip(candidates.iter()) {
        *walk = Walk::new(candidate.address, slots as u32);
    }
    let peers = find_peers(candidates, order, &mut scratch.peers[..n]);
    let peers = &scratch.peers[..peers];
    let (due, starts) = (&mut scratch.due[..slots], &mut scratch.starts[..slots + 1]);
    order_peers(peers, due, starts);

    let mut filling = Filling::new(slots as u32, places, walks, scratch.free);
    let mut first = 0;
    // The sort has moved every start to its end.
    for &end in &starts[..slots] {
        let at_once = &due[first as usize..end as usize];
        first = end;
        if let [one] = at_once {
            let peers = peers[usize::from(*one)];
            filling.take_all(&order[usize::from(peers.first)..][..usize::from(peers.count)]);
        } else if !at_once.is_empty() {
            let merged = merge(at_once, peers, order, turns);
            filling.take_all(&turns[..merged]);
        }
    }
    for (slot, place) in ring.iter_mut().zip(places.iter()) {
        *slot = candidates[usize::from(*place)].reference;
    }
    slots as u32
}

impl Walk {
    fn new(address: Address, slots: u32) -> Self {
        let hash = address_hash(address);
        let first = ((hash >> 32) * u64::from(slots)) >> 32;
        let skip = (((hash & 0xffff_ffff) * u64::from(slots - 1)) >> 32) + 1;
        let step = fraction(skip, slots);
        let middle = fraction(1, slots) / 2;
        Self { at: (fraction(first, slots) + middle).wrapping_sub(step), step, pace: 0 }
    }

    /// The factor from a distance in slots to one in steps, as a fraction of the ring: the inverse
    /// of the step modulo the ring's size.
    fn pace(&mut self, slots: u32) -> u64 {
        if self.pace == 0 {
            let skip = slot_at(self.step + fraction(1, slots) / 2, slots);
            self.pace = fraction(inverse(skip, slots).into(), slots);
        }
        self.pace
    }
}

/// `slot` as a fraction of the ring, in units of 2^-64, rounded down.
const fn fraction(slot: u64, slots: u32) -> u64 {
    let (high, slots) = (slot << 40, slots as u64);
    ((high / slots) << 24) | (((high % slots) << 24) / slots)
}

/// The slot at a place. 32 bits of the fraction are enough: the place is in the middle of a slot,
/// less 2^-64 for each of at most `slots` steps, and half a slot is at least 2^-25.
#[inline(always)]
const fn slot_at(place: u64, slots: u32) -> u32 {
    (((place >> 32) * slots as u64) >> 32) as u32
}

/// The number whose product with `number` is 1 modulo the prime `modulus`: Euclid's algorithm, with
/// the coefficients' alternating signs left out.
fn inverse(number: u32, modulus: u32) -> u32 {
    let (mut a, mut b) = (modulus, number);
    let (mut x, mut y) = (0, 1);
    let mut is_negative = false;
    while b > 1 {
        let quotient = a / b;
        (a, b) = (b, a % b);
        (x, y) = (y, x + quotient * y);
        is_negative = !is_negative;
    }
    if is_negative { modulus - y } else { y }
}

/// A ring that is being filled, turn by turn.
struct Filling<'a> {
    places: &'a mut [u16],
    walks: &'a mut [Walk],
    free: &'a mut [u32],
    slots: u32,
    /// Number of free slots, and of turns left.
    left: usize,
    /// Number of slots at the end that the linear search fills.
    near: usize,
}

impl<'a> Filling<'a> {
    fn new(slots: u32, places: &'a mut [u16], walks: &'a mut [Walk], free: &'a mut [u32]) -> Self {
        places.fill(EMPTY);
        // A walk finds a free slot after `slots / left` steps on average: where that is more than
        // the number of free slots, a linear search of them is faster.
        let near = FREE.min((3 * u64::from(slots)).isqrt() as usize);
        Self { places, walks, free, slots, left: slots as usize, near }
    }

    /// Gives these candidates their next slot, one after the other.
    #[inline]
    fn take_all(&mut self, turns: &[u16]) {
        let (far, near) = turns.split_at(turns.len().min(self.left.saturating_sub(self.near)));
        far.iter().for_each(|turn| self.take_next(*turn));
        if near.is_empty() {
            return;
        }
        if self.left == self.near {
            self.list_free();
        }
        near.iter().for_each(|turn| self.take_nearest(*turn));
    }

    /// Walks to the next free slot.
    #[inline(always)]
    fn take_next(&mut self, turn: u16) {
        let walk = &mut self.walks[usize::from(turn)];
        let (mut at, step) = (walk.at, walk.step);
        loop {
            at = at.wrapping_add(step);
            let place = &mut self.places[slot_at(at, self.slots) as usize];
            if *place == EMPTY {
                *place = turn;
                break;
            }
        }
        walk.at = at;
        self.left -= 1;
    }

    fn list_free(&mut self) {
        let slots = (0..self.slots).zip(self.places.iter());
        let free = slots.filter(|(_, place)| **place == EMPTY).map(|(slot, _)| slot);
        for (place, slot) in self.free.iter_mut().zip(free) {
            *place = slot;
        }
    }

    /// Finds the slot that [`Filling::take_next`] would find, by a linear search of the free slots:
    /// the fewest steps away.
    fn take_nearest(&mut self, turn: u16) {
        let walk = &mut self.walks[usize::from(turn)];
        let pace = walk.pace(self.slots);
        let from = u64::from(slot_at(walk.at.wrapping_add(walk.step), self.slots));
        // Two distances differ by at least 2^40, less 2^24 for rounding: the low bits have room for
        // the index.
        let free = &mut self.free[..self.left];
        let distances = free.iter().enumerate().map(|(n, slot)| {
            let distance = u64::from(*slot).wrapping_sub(from).wrapping_mul(pace);
            // Rounded down, the slot one step before the first is the farthest, not the nearest.
            (distance & !0xffff) | n as u64
        });
        let nearest = distances.min().unwrap_or(0) as usize & 0xffff;
        let slot = free[nearest];
        free[nearest] = free[self.left - 1];
        walk.at = fraction(slot.into(), self.slots) + fraction(1, self.slots) / 2;
        self.places[slot as usize] = turn;
        self.left -= 1;
    }
}

/// Gives each candidate `slots * weight / total` slots, the left-over ones to the largest
/// remainders. Returns whether any candidate has a weight.
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
    // Fewer slots are left than candidates with a remainder. Bisection finds the remainder from
    // which on a candidate gets one slot more; ties are resolved in address order.
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

/// Groups candidates of the same quota in `order`, without those of quota 0: groups by their first
/// candidate, candidates of a group in their own order. Returns the number of `peers`.
fn find_peers(candidates: &[Candidate], order: &mut [u16], peers: &mut [Peers]) -> usize {
    let takers = candidates.iter().enumerate().filter(|(_, c)| c.quota > 0);
    let mut n = 0;
    for (index, _) in takers {
        order[n] = index as u16;
        n += 1;
    }
    let order = &mut order[..n];
    order.sort_unstable_by_key(|index| (candidates[usize::from(*index)].quota, *index));
    let mut found = 0;
    for (at, index) in order.iter().enumerate() {
        let quota = candidates[usize::from(*index)].quota;
        if at == 0 || peers[found - 1].quota != quota {
            peers[found] = Peers { quota, first: at as u16, count: 0 };
            found += 1;
        }
        peers[found - 1].count += 1;
    }
    peers[..found].sort_unstable_by_key(|peers| order[usize::from(peers.first)]);
    found
}

/// Orders turns: the k-th of a candidate's `quota` turns is due at (2k+1) / (2 quota) of the
/// filling. A counting sort by due time, stable in the peers' order; `starts` become ends.
fn order_peers(peers: &[Peers], order: &mut [u16], starts: &mut [u32]) {
    let slots = order.len() as u64;
    // Due times in slots with 32 bits of fraction; slots < 2^24, so nothing overflows.
    let due = |quota: u32| {
        let step = (slots << 32) / u64::from(quota);
        (0..u64::from(quota)).map(move |k| ((step / 2 + k * step) >> 32) as usize)
    };
    starts.fill(0);
    for peers in peers {
        due(peers.quota).for_each(|time| starts[time + 1] += 1);
    }
    let mut before = 0;
    for start in starts.iter_mut() {
        before += *start;
        *start = before;
    }
    for (index, peers) in peers.iter().enumerate() {
        for time in due(peers.quota) {
            order[starts[time] as usize] = index as u16;
            starts[time] += 1;
        }
    }
}

/// Writes the candidates of several peers with the same due time to `turns`, in the candidates'
/// order. Returns their number.
fn merge(due: &[u16], peers: &[Peers], order: &[u16], turns: &mut [u16]) -> usize {
    let mut n = 0;
    let mut sorted = true;
    for one in due {
        let peers = peers[usize::from(*one)];
        let own = &order[usize::from(peers.first)..][..usize::from(peers.count)];
        sorted &= n == 0 || turns[n - 1] < own[0];
        turns[n..n + own.len()].copy_from_slice(own);
        n += own.len();
    }
    if !sorted {
        turns[..n].sort_unstable();
    }
    n
}

/// 64 well-mixed bits of an address. Not keyed: rings of a fleet must agree, and addresses are
/// chosen by the operator, not by an attacker.
fn address_hash(address: Address) -> u64 {
    let mut hash = 0x243f_6a88_85a3_08d3u64;
    for half in [address.first, address.second] {
        hash ^= half;
        // The finalizer of SplitMix64.
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
        let n = candidates.len();
        let mut scratch = Scratch {
            places: &mut vec![0xaaaa; slots],
            due: &mut vec![0xaaaa; slots],
            starts: &mut vec![0xaaaa; slots + 1],
            free: &mut vec![0xaaaa; FREE],
            walks: &mut vec![Walk::default(); n],
            peers: &mut vec![Peers::default(); n],
            order: &mut vec![0xaaaa; 2 * n],
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
    fn listing_order_has_no_effect() {
        let mut weights: Vec<_> = (0..50).map(|i| (i, 1 + (i % 3) as u16)).collect();
        let ring = ring_of(4093, &weights);
        weights.reverse();
        assert_eq!(ring_of(4093, &weights), ring);
    }

    #[test]
    fn without_weights_no_slot_is_filled() {
        assert!(ring_of(251, &[(0, 0), (1, 0)]).iter().all(|slot| slot.is_none()));
        assert!(ring_of(251, &[]).iter().all(|slot| slot.is_none()));
    }

    /// The ring as the module documentation describes it, step by step.
    fn reference_ring(slots: usize, weights: &[(u32, u16)]) -> Vec<BackendRef> {
        let mut candidates: Vec<_> = weights
            .iter()
            .map(|(n, weight)| Candidate::new(address(*n), *weight, BackendRef::new(n + 1, 0)))
            .collect();
        candidates.sort_by_key(|c| c.address);
        let mut ring = vec![BackendRef::NONE; slots];
        if !assign_quotas(&mut candidates, slots as u32) {
            return ring;
        }
        let mut turns = Vec::new();
        for (index, candidate) in candidates.iter().enumerate().filter(|(_, c)| c.quota > 0) {
            let step = ((slots as u64) << 32) / u64::from(candidate.quota);
            turns.extend(
                (0..u64::from(candidate.quota)).map(|k| ((step / 2 + k * step) >> 32, index)),
            );
        }
        turns.sort_unstable();
        let place = |c: &Candidate| {
            let hash = address_hash(c.address);
            let at = ((hash >> 32) * slots as u64) >> 32;
            let skip = (((hash & 0xffff_ffff) * (slots as u64 - 1)) >> 32) + 1;
            (at as usize, skip as usize)
        };
        let mut walks: Vec<_> = candidates.iter().map(place).collect();
        for (_, index) in turns {
            let (at, skip) = &mut walks[index];
            while !ring[*at].is_none() {
                *at = (*at + *skip) % slots;
            }
            ring[*at] = candidates[index].reference;
        }
        ring
    }

    #[test]
    fn optimizations_change_no_slot() {
        let weigh: [fn(u32) -> u16; 5] = [
            |_| 1,
            |i| 1 + (i % 7) as u16,
            |i| (i * 131 % 65_536) as u16,
            |i| (i % 2) as u16,
            |i| {
                if i == 0 { 65_535 } else { 1 }
            },
        ];
        for slots in [3, 251, 4093, RING_SLOTS as usize] {
            for n in [1, 2, 3, 10, 100, 1000] {
                for weigh in weigh {
                    let weights: Vec<_> = (0..n).map(|i| (i, weigh(i))).collect();
                    let (ring, reference) =
                        (ring_of(slots, &weights), reference_ring(slots, &weights));
                    assert!(ring == reference, "{slots} slots, {n} backends");
                }
            }
        }
    }

    /// Directors of different versions must agree on rings: pinned, not derived.
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
            let ring = ring_of(4093, &weights);
            prop_assert_eq!(&ring, &reference_ring(4093, &weights));
            let got = shares(&ring);
            prop_assert!(!got.contains_key(&BackendRef::NONE));
            for (i, weight) in weights {
                let share = u64::from(*got.get(&BackendRef::new(i + 1, 0)).unwrap_or(&0));
                let scaled = 4093 * u64::from(weight);
                prop_assert!(share * total <= scaled + total && share * total + total >= scaled);
            }
        }
    }
}
