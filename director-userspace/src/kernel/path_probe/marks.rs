//! Which probe has which mark. Pure.
//!
//! A probe keeps its number as long as it is wanted, and an entry is never changed: a probe that
//! differs is another probe. A number that is free again is used last, so that the last packets of
//! a closed socket match nothing rather than another probe's path.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

use director_common::probe::MAX_PROBES;

use super::{PathProbe, PathProbeError};

/// The numbers of an instance's probes: 1 to [`MAX_PROBES`].
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    numbers: HashMap<PathProbe, u32>,
    used: HashSet<u32>,
    last: u32,
}

/// What has to be written for a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Probes that got a number, in the order in which they were requested.
    pub(super) added: Vec<(u32, PathProbe)>,
    /// Numbers that are free now, ascending.
    pub(super) removed: Vec<u32>,
}

impl Marks {
    /// Numbers from a random one on: those that an earlier process assigned are not likely to be
    /// the first again.
    pub(super) fn starting_at_random() -> Self {
        let random = RandomState::new().build_hasher().finish();
        Self { last: (random % u64::from(MAX_PROBES)) as u32, ..Self::default() }
    }

    /// Releases all numbers.
    pub(super) fn clear(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// Assigns a number to every one of `probes` and releases those of all others. On an error,
    /// nothing has changed.
    pub(super) fn change(&mut self, probes: &[PathProbe]) -> Result<Changes, PathProbeError> {
        let wanted: HashSet<&PathProbe> = probes.iter().collect();
        let most = MAX_PROBES as usize;
        if wanted.len() > most {
            return Err(PathProbeError::TooMany { wanted: wanted.len(), most });
        }
        let mut changes = Changes::default();
        self.numbers.retain(|probe, number| {
            let stays = wanted.contains(probe);
            if !stays {
                self.used.remove(number);
                changes.removed.push(*number);
            }
            stays
        });
        changes.removed.sort_unstable();
        for probe in probes {
            if !self.numbers.contains_key(probe) {
                let number = self.free_number();
                self.numbers.insert(probe.clone(), number);
                changes.added.push((number, probe.clone()));
            }
        }
        Ok(changes)
    }

    /// Every probe's number.
    pub(super) fn numbers(&self) -> &HashMap<PathProbe, u32> {
        &self.numbers
    }

    /// The next free number after the last assigned one. There is one: see `change`.
    fn free_number(&mut self) -> u32 {
        loop {
            self.last = self.last % MAX_PROBES + 1;
            if self.used.insert(self.last) {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::config::model::ForwardMode;

    fn probe(n: u32) -> PathProbe {
        PathProbe {
            vip: IpAddr::from([192, 0, 2, 1]),
            backend: IpAddr::from((0x0a00_0000 + n).to_be_bytes()),
            forward: ForwardMode::Direct,
            source: None,
            from: None,
            mac: None,
        }
    }

    fn probes(numbers: impl IntoIterator<Item = u32>) -> Vec<PathProbe> {
        numbers.into_iter().map(probe).collect()
    }

    #[test]
    fn a_number_stays_while_it_is_wanted_and_comes_back_last() {
        let mut marks = Marks::default();
        let first = marks.change(&probes(1..=3)).expect("fits");
        assert_eq!(first.added.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3]);
        let second = marks.change(&probes([3, 1])).expect("fits");
        assert_eq!(second, Changes { added: Vec::new(), removed: vec![2] });
        let third = marks.change(&probes([3, 1, 2])).expect("fits");
        assert_eq!(third.added, [(4, probe(2))], "not 2 again");
        assert_eq!(marks.numbers()[&probe(3)], 3);
    }

    #[test]
    fn what_differs_in_anything_is_another_probe() {
        let mut marks = Marks::default();
        marks.change(&probes([1])).expect("fits");
        let moved = PathProbe { source: Some(IpAddr::from([10, 0, 0, 9])), ..probe(1) };
        let changes = marks.change(std::slice::from_ref(&moved)).expect("fits");
        assert_eq!(changes, Changes { added: vec![(2, moved)], removed: vec![1] });
    }

    #[test]
    fn a_duplicate_probe_gets_one_number() {
        let mut marks = Marks::default();
        assert_eq!(marks.change(&probes([1, 1])).expect("fits").added.len(), 1);
    }

    #[test]
    fn all_numbers_can_be_assigned_and_not_one_more() {
        let mut marks = Marks::default();
        marks.change(&probes(1..=5)).expect("fits");
        let all = marks.change(&probes(1..=MAX_PROBES)).expect("fits");
        assert_eq!(all.added.len(), MAX_PROBES as usize - 5);
        let before = marks.numbers().clone();
        let refused = marks.change(&probes(0..=MAX_PROBES));
        assert!(matches!(refused, Err(PathProbeError::TooMany { .. })));
        assert_eq!(*marks.numbers(), before);
    }

    proptest! {
        #[test]
        fn numbers_are_never_shared(
            sets in proptest::collection::vec(proptest::collection::hash_set(0..40u32, 0..20), 1..20)
        ) {
            let mut marks = Marks::default();
            let mut entries = HashMap::new();
            for set in sets {
                let before = marks.numbers().clone();
                let changes = marks.change(&probes(set.iter().copied())).expect("fits");
                for number in changes.removed {
                    prop_assert!(entries.remove(&number).is_some());
                }
                for (number, probe) in changes.added {
                    prop_assert!((1..=MAX_PROBES).contains(&number));
                    prop_assert!(entries.insert(number, probe).is_none());
                }
                prop_assert_eq!(entries.len(), set.len());
                for (probe, number) in marks.numbers() {
                    prop_assert_eq!(entries.get(number), Some(probe));
                    prop_assert!(before.get(probe).is_none_or(|before| before == number));
                }
            }
        }
    }
}
