//! Frames through the shipped program, compared with the model.

use std::{cell::RefCell, time::Duration};

use director_common::verdict::Verdict;

use super::Outcome;
use crate::{
    given::{Director, Given},
    oracle::Oracle,
    packet::correct,
};

/// MTU towards the backends, bytes.
const MTU: u16 = 700;
/// Longest frame, bytes.
const LONGEST: usize = 2048;
/// Most frames of an input.
const FRAMES: usize = 6;
/// Longer than any flow's timeout: inputs do not depend on those before them.
const BETWEEN: Duration = Duration::from_secs(3 * 3600);
/// The clock is set back by a new director before it overflows.
const LAST_NS: u64 = u64::MAX / 8 * 7;

thread_local! {
    static DIRECTOR: RefCell<Option<(Director, Oracle)>> = const { RefCell::new(None) };
}

/// Frames, each after a byte of flags and its length: bit 0 of the flags corrects the checksum of
/// an IPv4 header behind the MAC addresses, bit 1 lets the time of a busy flow pass.
pub(super) fn packet(input: &[u8]) -> Outcome {
    DIRECTOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_some_and(|(director, _)| director.now_ns > LAST_NS) {
            *slot = None;
        }
        let (director, oracle) = slot.get_or_insert_with(|| {
            let director = Director::new(Given::everything().mtu(MTU));
            let oracle = Oracle::new(director.config.clone(), MTU);
            (director, oracle)
        });
        director.after(BETWEEN);
        oracle.forget();
        let mut outcome = 0;
        for (flags, mut frame) in frames(input) {
            if flags & 1 != 0 {
                correct(&mut frame, 14);
            }
            director.after(Duration::from_millis(if flags & 2 != 0 { 1200 } else { 1 }));
            let seen = director.run(&frame);
            if let Err(what) = oracle.check(&frame, &seen) {
                panic!("{what}");
            }
            outcome = outcome * 7 % 256 + number(seen.verdict) * 4 + seen.connection as usize;
        }
        outcome
    })
}

fn number(verdict: Verdict) -> usize {
    usize::try_from(verdict.code()).unwrap_or(0)
}

fn frames(mut input: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [flags, high, low, rest @ ..] = input
        && frames.len() < FRAMES
    {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        frames.push((*flags, rest[..length.min(LONGEST)].to_vec()));
        input = &rest[length..];
    }
    frames
}
