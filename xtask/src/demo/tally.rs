//! The results of the requests. No I/O.

use std::{collections::HashSet, net::IpAddr};

use super::scene::Service;

/// When a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// While every backend was in the configuration.
    Steady,
    /// While the configuration was being changed: old and new are both correct.
    Changing,
    /// After the change was in effect.
    After,
}

impl Phase {
    pub(super) const ALL: [Self; 3] = [Self::Steady, Self::Changing, Self::After];
}

/// The requests of one service in one phase.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Answered, by backend, in the service's order.
    pub(super) by_backend: Vec<u64>,
    /// Not answered, or not correctly.
    pub(super) errors: u64,
}

impl Counts {
    /// All requests that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.by_backend.iter().sum()
    }

    /// The fraction that each backend answered.
    pub(super) fn shares(&self) -> Vec<f64> {
        let all = self.answered().max(1) as f64;
        self.by_backend.iter().map(|&n| n as f64 / all).collect()
    }

    /// The largest difference of a share from its fair share, in percentage points.
    pub(super) fn deviation(&self, fair: &[f64]) -> f64 {
        let shares = self.shares();
        let off = shares.iter().zip(fair).map(|(share, fair)| (share - fair).abs() * 100.0);
        off.fold(0.0, f64::max)
    }
}

/// All requests.
#[derive(Debug, Default)]
pub(super) struct Tally {
    nodes: Vec<Vec<&'static str>>,
    counts: Vec<[Counts; 3]>,
    sources: HashSet<(IpAddr, u16)>,
    failures: Vec<String>,
}

/// Failures kept: the first show what is wrong, the others only repeat it.
const MAX_FAILURES: usize = 3;

impl Tally {
    pub(super) fn new(services: &[Service]) -> Self {
        let nodes: Vec<Vec<_>> = services
            .iter()
            .map(|service| service.backends.iter().map(|backend| backend.node).collect())
            .collect();
        let empty = |nodes: &Vec<_>| Counts { by_backend: vec![0; nodes.len()], errors: 0 };
        let counts = nodes.iter().map(|nodes| [(); 3].map(|()| empty(nodes))).collect();
        Self { nodes, counts, ..Self::default() }
    }

    /// Counts an answer: `NODE ADDRESS PORT`, the last two as the server saw the client.
    pub(super) fn answered(&mut self, service: usize, phase: Phase, answer: &str) {
        let Some((backend, source)) = self.read(service, answer) else {
            return self.failed(service, phase, format!("an answer of no backend: {answer:?}"));
        };
        self.counts[service][phase as usize].by_backend[backend] += 1;
        self.sources.insert(source);
    }

    fn read(&self, service: usize, answer: &str) -> Option<(usize, (IpAddr, u16))> {
        let mut words = answer.split_ascii_whitespace();
        let node = words.next()?;
        let backend = self.nodes[service].iter().position(|name| *name == node)?;
        Some((backend, (words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
    }

    /// Counts a request without a correct answer.
    pub(super) fn failed(&mut self, service: usize, phase: Phase, why: String) {
        self.counts[service][phase as usize].errors += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(why);
        }
    }

    /// The counts of one service in one phase.
    pub(super) fn counts(&self, service: usize, phase: Phase) -> &Counts {
        &self.counts[service][phase as usize]
    }

    /// Answers and errors over services, in these phases.
    pub(super) fn total(&self, phases: &[Phase]) -> (u64, u64) {
        let all = self.counts.iter().flat_map(|of| phases.iter().map(|&phase| &of[phase as usize]));
        all.fold((0, 0), |(good, bad), counts| (good + counts.answered(), bad + counts.errors))
    }

    /// A copy of the counts only, while more are added.
    pub(super) fn snapshot(&self) -> Self {
        Self { counts: self.counts.clone(), ..Self::default() }
    }

    /// The number of different addresses and ports that requests came from.
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Why requests failed: the first few.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::{super::scene, *};

    fn tally(answers: &[(&str, u64)]) -> Tally {
        let mut tally = Tally::new(&scene::services());
        let mut port = 0;
        for &(node, times) in answers {
            for _ in 0..times {
                port += 1;
                tally.answered(0, Phase::Steady, &format!("{node} 198.18.0.1 {port}\n"));
            }
        }
        tally
    }

    #[test]
    fn deviation_is_the_largest_of_all_backends() {
        let fair = scene::services()[0].fair(None);
        let exact = tally(&[("b1", 100), ("b2", 200), ("b3", 300)]);
        assert!(exact.counts(0, Phase::Steady).deviation(&fair) < 1e-9);
        let off = tally(&[("b1", 100), ("b2", 150), ("b3", 250)]);
        let deviation = off.counts(0, Phase::Steady).deviation(&fair);
        assert!((deviation - 3.333).abs() < 0.001, "{deviation}");
    }

    #[test]
    fn no_answers_give_the_largest_deviation() {
        let fair = scene::services()[0].fair(None);
        assert!(tally(&[]).counts(0, Phase::Steady).deviation(&fair) > 49.0);
    }

    #[test]
    fn phases_services_and_errors_are_counted_separately() {
        let mut tally = tally(&[("b1", 2)]);
        tally.answered(1, Phase::After, "b3 fd00::1 7");
        tally.failed(1, Phase::Changing, "refused".into());
        assert_eq!(tally.total(&[Phase::Steady]), (2, 0));
        assert_eq!(tally.total(&[Phase::Changing, Phase::After]), (1, 1));
        assert_eq!(tally.counts(1, Phase::After).by_backend, [0, 0, 1]);
        assert_eq!(tally.failures(), ["refused"]);
        assert_eq!(tally.sources(), 3);
    }

    #[test]
    fn an_answer_of_no_backend_is_an_error() {
        for answer in ["", "b9 198.18.0.1 1", "b1", "b1 x 1", "<html>"] {
            let mut tally = Tally::new(&scene::services());
            tally.answered(0, Phase::Steady, answer);
            assert_eq!(tally.total(&Phase::ALL), (0, 1), "{answer:?}");
        }
    }
}
