//! Builds rings: all those of a plan at once, on every CPU. What was built is remembered by a hash,
//! by which `scrub` finds what another process wrote into a ring.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError, atomic::Ordering},
    thread,
};

use director_common::{
    backend::BackendRef,
    service::{CHUNK_SLOTS, RING_CHUNKS, RING_SLOTS, RingChunk},
};

use super::mmap::MappedArray;
use crate::policy::{
    plan::Op,
    scheduler::{Member, Placement, Scheduler, TableBuilder},
};

/// Hashes of the contents of rings, by ring: of those that this process built, and of adopted ones
/// that it has computed again.
#[derive(Debug, Default)]
pub(super) struct RingSums(HashMap<u32, u64>);

impl RingSums {
    pub(super) fn of(&self, ring: u32) -> Option<u64> {
        self.0.get(&ring).copied()
    }

    pub(super) fn set(&mut self, built: impl IntoIterator<Item = (u32, u64)>) {
        self.0.extend(built);
    }

    /// Takes over what is known of other rings.
    pub(super) fn take_others(&mut self, others: Self) {
        for (ring, sum) in others.0 {
            self.0.entry(ring).or_insert(sum);
        }
    }
}

/// Builds the rings that `ops` publish later, and returns their hashes. No word points at their
/// places yet, so no packet reads them.
#[must_use]
pub(super) fn build(rings: &mut MappedArray<RingChunk>, ops: &[Op]) -> Vec<(u32, u64)> {
    let mut wanted: Vec<(u32, Scheduler, &[Member])> = ops
        .iter()
        .filter_map(|op| match op {
            Op::SetRing { ring: Some(ring), scheduler, members, .. } => {
                Some((*ring, *scheduler, members.as_slice()))
            }
            _ => None,
        })
        .collect();
    wanted.sort_unstable_by_key(|(ring, ..)| *ring);
    let firsts: Vec<u32> = wanted.iter().map(|(ring, ..)| ring * RING_CHUNKS).collect();
    let places = rings.slices_mut(&firsts, RING_CHUNKS);
    let jobs: Vec<Job<'_>> = wanted
        .iter()
        .zip(places)
        .map(|((ring, scheduler, members), chunks)| Job {
            ring: *ring,
            scheduler: *scheduler,
            members,
            chunks,
        })
        .collect();
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(jobs.len());
    let sums = Mutex::new(Vec::with_capacity(jobs.len()));
    let jobs = Mutex::new(jobs.into_iter());
    let work = || {
        let mut builder = RingBuilder::default();
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(Job { ring, scheduler, members, chunks }) = job else { return };
            // Built aside: the hash is of what was built, also if another process writes into the map meanwhile.
            let built = builder.build(scheduler, members);
            chunks.copy_from_slice(built);
            let sum = sum_of(built);
            sums.lock().unwrap_or_else(PoisonError::into_inner).push((ring, sum));
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    sums.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A ring to be built, and where.
struct Job<'a> {
    ring: u32,
    scheduler: Scheduler,
    members: &'a [Member],
    chunks: &'a mut [RingChunk],
}

/// Builds rings in memory of its own; builders of tables keep their working memory.
pub(super) struct RingBuilder {
    builders: HashMap<Scheduler, Box<dyn TableBuilder>>,
    chunks: Vec<RingChunk>,
}

impl Default for RingBuilder {
    fn default() -> Self {
        Self { builders: HashMap::new(), chunks: vec![RingChunk::default(); RING_CHUNKS as usize] }
    }
}

impl RingBuilder {
    pub(super) fn build(&mut self, scheduler: Scheduler, members: &[Member]) -> &[RingChunk] {
        let Placement::Table(new) = scheduler.description().placement;
        let builder = self.builders.entry(scheduler).or_insert_with(new);
        builder.build(members, slots(&mut self.chunks));
        &self.chunks
    }
}

/// The slots of a ring in its place.
fn slots(chunks: &mut [RingChunk]) -> &mut [BackendRef] {
    let n = chunks.len() * CHUNK_SLOTS as usize;
    // SAFETY: a RingChunk is CHUNK_SLOTS references and nothing else (its size is asserted), so the
    // chunks are that many times as many references, borrowed as they are.
    let slots = unsafe { std::slice::from_raw_parts_mut(chunks.as_mut_ptr().cast(), n) };
    &mut slots[..RING_SLOTS as usize]
}

/// The words of a ring that was built.
fn words(chunks: &[RingChunk]) -> &[u64] {
    let n = size_of_val(chunks) / size_of::<u64>();
    // SAFETY: a RingChunk is 64 bytes without padding, aligned to as many, and valid as words.
    unsafe { std::slice::from_raw_parts(chunks.as_ptr().cast(), n) }
}

/// A hash of `n` words: four lanes, since one would wait for each multiplication. A plain loop: it
/// takes most of a scrub's time, also in builds without optimisation.
#[inline(always)]
fn sum(n: usize, word: impl Fn(usize) -> u64) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let [mut a, mut b, mut c, mut d] = [1u64, 2, 3, 4];
    let mut at = 0;
    // Each step is invertible: one changed word always changes the sum. A chunk has eight words.
    while at < n {
        a = (a ^ word(at)).wrapping_mul(FACTOR).rotate_left(29);
        b = (b ^ word(at + 1)).wrapping_mul(FACTOR).rotate_left(29);
        c = (c ^ word(at + 2)).wrapping_mul(FACTOR).rotate_left(29);
        d = (d ^ word(at + 3)).wrapping_mul(FACTOR).rotate_left(29);
        at += 4;
    }
    [a, b, c, d].iter().fold(0, |sum, lane| (sum ^ lane).wrapping_mul(FACTOR))
}

/// The hash of a ring that was built.
pub(super) fn sum_of(chunks: &[RingChunk]) -> u64 {
    let words = words(chunks);
    sum(words.len(), |at| words[at])
}

/// The hash of a ring in the map.
pub(super) fn present_sum(rings: &MappedArray<RingChunk>, ring: u32) -> u64 {
    let words = rings.words(ring * RING_CHUNKS..(ring + 1) * RING_CHUNKS);
    sum(words.len(), |at| words[at].load(Ordering::Relaxed))
}

/// Writes into the map the words of a ring that differ from what was built, each at once: packets
/// may be reading it. Returns how many slots they hold.
pub(super) fn restore(rings: &MappedArray<RingChunk>, ring: u32, built: &[RingChunk]) -> usize {
    let present = rings.words(ring * RING_CHUNKS..(ring + 1) * RING_CHUNKS);
    let differ = present
        .iter()
        .zip(words(built))
        .filter(|(present, word)| present.load(Ordering::Relaxed) != **word);
    differ.map(|(present, word)| present.store(*word, Ordering::Release)).count()
        * (size_of::<u64>() / size_of::<BackendRef>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_of_a_ring_counts() {
        let mut chunks = vec![RingChunk::default(); RING_CHUNKS as usize];
        let sum = sum_of(&chunks);
        let last = RING_CHUNKS as usize - 1;
        for (chunk, slot) in [(0, 0), (0, 15), (7, 3), (last, 0), (last, 15)] {
            for bit in 0..32 {
                chunks[chunk].slots[slot].0 ^= 1 << bit;
                assert_ne!(sum_of(&chunks), sum, "{chunk} {slot} {bit}");
                chunks[chunk].slots[slot].0 ^= 1 << bit;
            }
        }
        assert_eq!(sum_of(&chunks), sum);
    }
}
