//! Building rings: all those of a plan at once, on every CPU, straight into the map's memory.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
};

use director_common::{
    backend::BackendRef,
    maglev::{self, Candidate, FREE, Peers, Scratch, Walk},
    service::{CHUNK_SLOTS, RING_CHUNKS, RING_SLOTS, RingChunk},
};

use super::mmap::MappedArray;
use crate::policy::plan::{Member, Op, Plan};

/// A ring to be built, and where.
struct Job<'a> {
    members: &'a [Member],
    chunks: &'a mut [RingChunk],
}

/// Builds the rings that `plan` is going to publish. No word points at their places yet, so no
/// packet looks.
pub(super) fn build(rings: &mut MappedArray<RingChunk>, plan: &Plan) {
    let mut wanted: Vec<(u32, &[Member])> = plan
        .ops
        .iter()
        .filter_map(|op| match op {
            Op::SetRing { ring: Some(ring), members, .. } => Some((*ring, members.as_slice())),
            _ => None,
        })
        .collect();
    wanted.sort_unstable_by_key(|(ring, _)| *ring);
    let firsts: Vec<u32> = wanted.iter().map(|(ring, _)| ring * RING_CHUNKS).collect();
    let places = rings.slices_mut(&firsts, RING_CHUNKS);
    let jobs: Vec<Job<'_>> =
        wanted.iter().zip(places).map(|((_, members), chunks)| Job { members, chunks }).collect();
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    let work = || {
        let mut builder = Builder::default();
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(Job { members, chunks }) = job else { return };
            builder.build(members, chunks);
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
}

/// Working memory, kept from one ring to the next.
struct Builder {
    places: Vec<u16>,
    due: Vec<u16>,
    starts: Vec<u32>,
    free: Vec<u32>,
    walks: Vec<Walk>,
    peers: Vec<Peers>,
    order: Vec<u16>,
    candidates: Vec<Candidate>,
}

impl Default for Builder {
    fn default() -> Self {
        let slots = RING_SLOTS as usize;
        Self {
            places: vec![0; slots],
            due: vec![0; slots],
            starts: vec![0; slots + 1],
            free: vec![0; FREE],
            walks: Vec::new(),
            peers: Vec::new(),
            order: Vec::new(),
            candidates: Vec::new(),
        }
    }
}

impl Builder {
    fn build(&mut self, members: &[Member], chunks: &mut [RingChunk]) {
        let candidate = |m: &Member| Candidate::new(m.address.into(), m.weight, m.reference);
        self.candidates.clear();
        self.candidates.extend(members.iter().map(candidate));
        let n = self.candidates.len().max(self.walks.len());
        self.walks.resize(n, Walk::default());
        self.peers.resize(n, Peers::default());
        self.order.resize(2 * n, 0);
        let mut scratch = Scratch {
            places: &mut self.places,
            due: &mut self.due,
            starts: &mut self.starts,
            free: &mut self.free,
            walks: &mut self.walks,
            peers: &mut self.peers,
            order: &mut self.order,
        };
        maglev::build(&mut self.candidates, &mut scratch, slots(chunks));
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
