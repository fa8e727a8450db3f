//! Builds rings: all those of a plan at once, on every CPU, directly in the map's memory.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
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

/// A ring to be built, and where.
struct Job<'a> {
    scheduler: Scheduler,
    members: &'a [Member],
    chunks: &'a mut [RingChunk],
}

/// Builds the rings that `ops` publish later. No word points at their places yet, so no packet
/// reads them.
pub(super) fn build(rings: &mut MappedArray<RingChunk>, ops: &[Op]) {
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
        .map(|((_, scheduler, members), chunks)| Job { scheduler: *scheduler, members, chunks })
        .collect();
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    let work = || {
        let mut builders = Builders::default();
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(Job { scheduler, members, chunks }) = job else { return };
            builders.build(scheduler, members, chunks);
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
}

/// The builders of one worker: each is created at its first use, and keeps its working memory.
#[derive(Default)]
struct Builders(HashMap<Scheduler, Box<dyn TableBuilder>>);

impl Builders {
    fn build(&mut self, scheduler: Scheduler, members: &[Member], chunks: &mut [RingChunk]) {
        let Placement::Table(new) = scheduler.description().placement;
        self.0.entry(scheduler).or_insert_with(new).build(members, slots(chunks));
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
