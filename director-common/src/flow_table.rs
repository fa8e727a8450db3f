//! Entries of the flow table: which backend a known flow goes to.
//!
//! The table is a plain array of sets, one cache line each, four entries a set. An entry is two
//! 64-bit words that packets on any CPU may write at any time, without a lock. This is safe because
//! the first word is the flow's fingerprint xor its backend: words of two different writes do not
//! match and read as a miss, in whichever order they become visible. A miss costs a ring lookup,
//! and never selects a wrong backend.

use crate::{
    backend::BackendRef,
    flow::FlowHash,
    tunables::{TICKS_MASK, Ticks},
};

/// Entries in a set: what fits a 64-byte cache line.
pub const SET_WAYS: usize = 4;

/// New TCP flows that a CPU admits to the table in a tick (67 ms): 122,000 a second, which is more
/// than a service with a million clients receives, and little compared with a flood.
pub const MAX_ADMITTED_PER_TICK: u32 = 8192;

/// An entry is written again when it is older than this (about half a second), so that its cache line
/// stays shared between CPUs. Shorter than half of the shortest timeout, a second: a flow in use is
/// refreshed before it ends.
pub const REFRESH_AFTER: Ticks = Ticks(8);

/// How far one CPU's reading of the clock may lag behind another's: a second, in ticks.
const LAG: u32 = 16;

/// State of a flow: determines its idle timeout, and its eviction priority in a full set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// One packet seen; flows of a SYN flood stay in this state.
    New = 0,
    /// More than one packet seen.
    Established = 1,
    /// A FIN or RST passed.
    Closing = 2,
}

impl FlowState {
    #[inline(always)]
    const fn from_bits(bits: u32) -> Self {
        match bits {
            0 => Self::New,
            1 => Self::Established,
            _ => Self::Closing,
        }
    }
}

/// One flow. All zeros is an empty entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry {
    /// Fingerprint xor [`BackendRef::spread`].
    pub tag: u64,
    /// Low half: [`BackendRef`]. High half: [`LastSeen`].
    pub word: u64,
}

/// The flows that share one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSet {
    /// A flow may be in any of them; most are in [`FlowHash::preferred_way`].
    pub entries: [FlowEntry; SET_WAYS],
}

const _: () = assert!(size_of::<FlowEntry>() == 16 && size_of::<FlowSet>() == 64);

/// When a flow was last seen, and its state: 30 bits of [`Ticks`], 2 bits of [`FlowState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSeen(u32);

impl LastSeen {
    /// Seen at `now` in `state`.
    #[inline(always)]
    pub const fn new(now: Ticks, state: FlowState) -> Self {
        Self(now.0 << 2 | state as u32)
    }

    /// Time since then, at `now`; the clock's 30 bits wrap after 2.3 years. A CPU that reads the
    /// clock before another one, and the entry after it, finds an entry from the future: its age is
    /// 0.
    #[inline(always)]
    pub const fn age(self, now: Ticks) -> Ticks {
        let age = now.0.wrapping_sub(self.0 >> 2) & TICKS_MASK;
        Ticks(if age > TICKS_MASK - LAG { 0 } else { age })
    }

    /// The flow's state.
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        FlowState::from_bits(self.0 & 3)
    }
}

impl FlowEntry {
    /// The entry of the flow `hash`, sent to `backend`.
    #[inline(always)]
    pub const fn new(hash: FlowHash, backend: BackendRef, last_seen: LastSeen) -> Self {
        Self { tag: hash.0 ^ backend.spread(), word: backend.0 as u64 | (last_seen.0 as u64) << 32 }
    }

    /// The backend this entry names.
    #[inline(always)]
    pub const fn backend(&self) -> BackendRef {
        BackendRef(self.word as u32)
    }

    /// When it was last seen.
    #[inline(always)]
    pub const fn last_seen(&self) -> LastSeen {
        LastSeen((self.word >> 32) as u32)
    }

    /// This entry with a new last-seen time.
    #[inline(always)]
    pub const fn refreshed(&self, last_seen: LastSeen) -> Self {
        Self { tag: self.tag, word: self.word & 0xffff_ffff | (last_seen.0 as u64) << 32 }
    }

    /// Whether this entry is empty.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.backend().is_none()
    }

    /// Whether this is the entry of the flow `hash`, and not torn.
    #[inline(always)]
    pub const fn is_of(&self, hash: FlowHash) -> bool {
        self.matches(hash) && !self.is_empty()
    }

    /// The same, except that an empty entry matches the one flow whose hash is 0: for callers that
    /// look the backend up anyway, and find none.
    #[inline(always)]
    pub const fn matches(&self, hash: FlowHash) -> bool {
        self.tag ^ self.backend().spread() == hash.0
    }

    /// The flow's fingerprint; meaningless for an empty or torn entry.
    #[inline(always)]
    pub const fn hash(&self) -> FlowHash {
        FlowHash(self.tag ^ self.backend().spread())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zeros_are_empty_and_match_nothing() {
        let entry = FlowEntry::default();
        assert!(entry.is_empty());
        assert!(!entry.is_of(FlowHash(0)));
    }

    #[test]
    fn age_is_right_when_the_clock_wraps() {
        let last_seen = LastSeen::new(Ticks(TICKS_MASK - 4), FlowState::Established);
        assert_eq!(last_seen.age(Ticks(5)), Ticks(10));
    }

    #[test]
    fn an_entry_from_the_future_has_age_0() {
        let last_seen = LastSeen::new(Ticks(1000), FlowState::Established);
        assert_eq!(last_seen.age(Ticks(1000 - LAG)), Ticks(0));
        assert_eq!(last_seen.age(Ticks(1001)), Ticks(1));
        let year = Ticks::from_duration(core::time::Duration::from_secs(365 * 24 * 3600));
        assert_eq!(last_seen.age(Ticks(1000 + year.0)), year, "the longest timeout");
    }

    fn backend() -> impl Strategy<Value = BackendRef> {
        (1u32..1 << 20, 0u16..1 << 12)
            .prop_map(|(slot, generation)| BackendRef::new(slot, generation))
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(hash: u64, b in backend(), now in 0..TICKS_MASK) {
            let last_seen = LastSeen::new(Ticks(now), FlowState::Closing);
            let entry = FlowEntry::new(FlowHash(hash), b, last_seen);
            prop_assert!(entry.is_of(FlowHash(hash)));
            prop_assert_eq!((entry.backend(), entry.last_seen(), entry.hash()), (b, last_seen, FlowHash(hash)));
            prop_assert_eq!(entry.last_seen().state(), FlowState::Closing);
        }

        /// Halves of two writes: a miss for both flows, unless both name the same backend.
        #[test]
        fn torn_entries_miss(a: u64, b: u64, x in backend(), y in backend()) {
            prop_assume!(a != b && x != y && a ^ x.spread() != b ^ y.spread());
            let last_seen = LastSeen::new(Ticks(1), FlowState::New);
            let torn = FlowEntry {
                tag: FlowEntry::new(FlowHash(a), x, last_seen).tag,
                word: FlowEntry::new(FlowHash(b), y, last_seen).word,
            };
            prop_assert!(!torn.is_of(FlowHash(a)) && !torn.is_of(FlowHash(b)));
        }

        #[test]
        fn refreshing_keeps_the_flow(hash: u64, b in backend(), now in 0..TICKS_MASK) {
            let entry = FlowEntry::new(FlowHash(hash), b, LastSeen::new(Ticks(0), FlowState::New));
            let again = entry.refreshed(LastSeen::new(Ticks(now), FlowState::Established));
            prop_assert!(again.is_of(FlowHash(hash)));
            prop_assert_eq!(again.last_seen().age(Ticks(now)), Ticks(0));
        }
    }
}
