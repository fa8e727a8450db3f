//! The fuzz targets under libFuzzer; `DIRECTOR_FUZZ_TARGET` names the one to run.
//! `cargo xtask fuzz` builds and runs this.

#![no_main]

use std::sync::{
    LazyLock,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use director_tests::fuzz::Target;
use libfuzzer_sys::fuzz_target;

/// Outcomes seen in a run of the target. libFuzzer reads and clears this section as coverage, so
/// that an input with another outcome is kept, also where the code under test is not instrumented,
/// as the XDP program is not.
// SAFETY: the section holds nothing but bytes, in any number.
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static OUTCOMES: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("DIRECTOR_FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| panic!("DIRECTOR_FUZZ_TARGET: no target {name:?}"))
});

fuzz_target!(
    // What a target prepares once, such as loading the program, is not the time of an input.
    init: {
        (TARGET.run)(&[]);
    },
    |input: &[u8]| {
        let outcome = (TARGET.run)(input);
        OUTCOMES[outcome % OUTCOMES.len()].store(1, Relaxed);
    }
);
