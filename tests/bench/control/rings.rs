//! Building rings.

use std::{hint::black_box, time::Instant};

use director_common::{
    address::Address,
    backend::BackendRef,
    maglev::{self, Candidate, FREE, Peers, Scratch, Walk},
    service::RING_SLOTS,
};

use super::{RING_AT_MOST, Size, record};
use crate::{measurement::Spread, session::Session};

/// Weights: their name, and the weight of the n-th backend.
type Weights = (&'static str, fn(u32) -> u16);

const WEIGHTS: [Weights; 3] = [
    ("equal weights", |_| 1),
    ("weights 1 to 7", |n| 1 + (n % 7) as u16),
    ("weights 1 to 1000", |n| 1 + (n * 7919 % 1000) as u16),
];

/// Rings over 10, 100 and 1,000 backends.
pub(super) fn run(session: &mut Session) {
    session.progress("building rings");
    for backends in [10, 100, 1000] {
        for (name, weight) in WEIGHTS {
            let samples: Vec<f64> =
                (0..4 * session.repeats).map(|round| build(backends, weight, round)).collect();
            record(session, "ring-build", name, Size { services: 1, backends }, &samples);
            if backends == 1000 && !session.quick {
                let what = format!("a ring over 1,000 backends of {name} takes at most 2 ms");
                session.check(&what, Spread::of(&samples).median <= RING_AT_MOST);
            }
        }
    }
}

/// Builds a ring and returns how long it took, in ms. The backends differ in every round.
fn build(backends: u32, weight: fn(u32) -> u16, round: u32) -> f64 {
    let (slots, n) = (RING_SLOTS as usize, backends as usize);
    let mut candidates: Vec<Candidate> = (0..backends)
        .map(|n| {
            let address = Address::v4((0x0a00_0000 + round * backends + n).to_be_bytes());
            Candidate::new(address, weight(n), BackendRef::new(n + 1, 0))
        })
        .collect();
    let mut ring = vec![BackendRef::NONE; slots];
    // As in a director: working memory is allocated, and has been used.
    let mut scratch = Scratch {
        places: &mut vec![1; slots],
        due: &mut vec![1; slots],
        starts: &mut vec![1; slots + 1],
        free: &mut vec![1; FREE],
        walks: &mut vec![Walk::default(); n],
        peers: &mut vec![Peers::default(); n],
        order: &mut vec![1; 2 * n],
    };
    ring.fill(BackendRef::new(1, 0));
    let began = Instant::now();
    maglev::build(&mut candidates, &mut scratch, &mut ring);
    let took = began.elapsed();
    black_box(&ring);
    took.as_secs_f64() * 1e3
}
