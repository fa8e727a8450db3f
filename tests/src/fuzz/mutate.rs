//! Random changes of inputs, for where no coverage guides them.

use fastrand::Rng;

/// Numbers at which parsers break.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b' ', b'0'];
/// Longest input, bytes.
const LONGEST: usize = 64 << 10;

/// `input` with a few changes; `other` is an input of the same kind.
pub fn mutate(rng: &mut Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=bytes.len());
        let until = at + rng.usize(..=(bytes.len() - at).min(64));
        match rng.u8(..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < bytes.len() => bytes[at] = EDGES[rng.usize(..EDGES.len())],
            2 => drop(bytes.drain(at..until)),
            3 => {
                let piece = bytes[at..until].repeat(rng.usize(1..4));
                bytes.splice(at..at, piece);
            }
            4 => bytes.insert(at, rng.u8(..)),
            5 => {
                let from = rng.usize(..=other.len());
                let to = from + rng.usize(..=(other.len() - from).min(64));
                bytes.splice(at..until, other[from..to].iter().copied());
            }
            6 => bytes.truncate(at),
            _ => bytes[at..until].reverse(),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}
