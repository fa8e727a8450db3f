//! The checks of the demo's results. No I/O.

use super::{
    counters::Counters,
    scene::{REMOVED, Service},
    screen::thousands,
    tally::{Phase, Tally},
};

/// Minimum number of requests of a service for the check of its shares.
pub(super) const STEADY_REQUESTS: u64 = 3000;
/// The same, after the removal.
pub(super) const AFTER_REQUESTS: u64 = 2000;
/// Maximum difference of a share from its fair share, in percentage points.
const TOLERANCE: f64 = 5.0;
/// Packets of the smallest HTTP connection from client to server: SYN, ACK, request, FIN.
const LEAST_PACKETS: u64 = 4;

/// Begins another line of a check's text, under the first.
const CONTINUED: &str = "\n        ";

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) passed: bool,
    pub(super) what: String,
}

impl Check {
    pub(super) fn new(passed: bool, what: String) -> Self {
        Self { passed, what }
    }
}

/// Checks the requests.
pub(super) fn requests(services: &[Service], tally: &Tally, counters: &Counters) -> Vec<Check> {
    let mut checks = shares(services, tally, Phase::Steady);

    let (answered, errors) = tally.total(&Phase::ALL);
    let mut text = format!(
        "{} of {} requests failed; they came from {} ports",
        thousands(errors),
        thousands(answered + errors),
        thousands(tally.sources() as u64)
    );
    for failure in tally.failures() {
        text.push_str(CONTINUED);
        text.push_str(failure);
    }
    checks.push(Check::new(errors == 0 && answered > 0, text));

    let (packets, flows) = counters.total();
    let text = format!(
        "{} connections, {} packets, all through XDP; {} dropped",
        thousands(flows),
        thousands(packets),
        thousands(counters.dropped)
    );
    // A reused port may match its old connection in the flow table.
    let all = packets >= answered * LEAST_PACKETS
        && flows >= tally.sources() as u64
        && counters.dropped == 0;
    checks.push(Check::new(all, text));

    let (during, failed) = tally.total(&[Phase::Changing, Phase::After]);
    let reached = reached_after(services, tally);
    let text = format!(
        "{REMOVED} removed under load: {} of {} requests failed, {} still reached it",
        thousands(failed),
        thousands(during + failed),
        thousands(reached)
    );
    checks.push(Check::new(failed == 0 && reached == 0 && during > 0, text));
    checks.extend(shares(services, tally, Phase::After));
    checks
}

/// Checks that each backend got its fair share.
fn shares(services: &[Service], tally: &Tally, phase: Phase) -> Vec<Check> {
    let (without, least, when) = match phase {
        Phase::After => (Some(REMOVED), AFTER_REQUESTS, format!(" without {REMOVED}")),
        Phase::Steady | Phase::Changing => (None, STEADY_REQUESTS, String::new()),
    };
    let check = |(number, service): (usize, &Service)| {
        let counts = tally.counts(number, phase);
        let off = counts.deviation(&service.fair(without));
        let passed = off <= TOLERANCE && counts.answered() >= least;
        let mut text = format!(
            "{}{when}: shares at most {off:.1} points off, over {} requests",
            service.name,
            thousands(counts.answered())
        );
        if !passed {
            let least = thousands(least);
            text.push_str(&format!(
                "{CONTINUED}expected: at most {TOLERANCE}, over {least} or more"
            ));
        }
        Check::new(passed, text)
    };
    services.iter().enumerate().map(check).collect()
}

/// Requests that were answered by the removed backend although sent after its removal.
fn reached_after(services: &[Service], tally: &Tally) -> u64 {
    let of = |(number, service): (usize, &Service)| {
        let counts = &tally.counts(number, Phase::After).by_backend;
        let removed = service.backends.iter().zip(counts);
        removed.filter(|(backend, _)| backend.node == REMOVED).map(|(_, n)| *n).sum::<u64>()
    };
    services.iter().enumerate().map(of).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::scene, *};

    /// Answers in the shares that weights give, `rounds` times the sum of the weights.
    fn add_answers(tally: &mut Tally, phase: Phase, rounds: u64, without: Option<&str>) {
        for (number, service) in scene::services().iter().enumerate() {
            for backend in service.backends.iter().filter(|backend| Some(backend.node) != without) {
                for turn in 0..rounds * u64::from(backend.weight) {
                    let address = format!("fd00::{}:{}", phase as u8, backend.weight);
                    let answer = format!("{} {address} {turn}", backend.node);
                    tally.answered(number, phase, &answer);
                }
            }
        }
    }

    fn good() -> Tally {
        let mut tally = Tally::new(&scene::services());
        add_answers(&mut tally, Phase::Steady, 500, None);
        add_answers(&mut tally, Phase::Changing, 10, None);
        add_answers(&mut tally, Phase::After, 500, Some(REMOVED));
        tally
    }

    fn counters(packets: u64, dropped: u64) -> Counters {
        let services = scene::services();
        let shown = |service: &Service| -> Value {
            let backends = service.backends.iter().map(|backend| {
                let address = backend.address.to_string();
                json!({"address": address, "state": "active", "packets": packets, "flows": packets / 5})
            });
            json!({"name": service.name, "backends": backends.collect::<Vec<_>>()})
        };
        let shown: Vec<_> = services.iter().map(shown).collect();
        Counters::read(&json!({"drop": {"x": dropped}, "services": shown}), &services).unwrap()
    }

    fn failed(tally: &Tally, counters: &Counters) -> Vec<String> {
        let checks = requests(&scene::services(), tally, counters).into_iter();
        checks.filter(|check| !check.passed).map(|check| check.what).collect()
    }

    #[test]
    fn a_good_run_passes() {
        assert_eq!(failed(&good(), &counters(100_000, 0)), [""; 0]);
    }

    #[test]
    fn a_failed_request_fails_the_run_and_is_shown() {
        let mut tally = good();
        tally.failed(0, Phase::Steady, "connection refused".into());
        let failed = failed(&tally, &counters(100_000, 0));
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(failed[0].contains("connection refused"), "{failed:?}");
    }

    #[test]
    fn a_request_that_fails_during_the_removal_counts_there_too() {
        for phase in [Phase::Changing, Phase::After] {
            let mut tally = good();
            tally.failed(1, phase, "reset".into());
            assert_eq!(failed(&tally, &counters(100_000, 0)).len(), 2);
        }
    }

    #[test]
    fn a_request_that_reaches_the_removed_backend_fails_the_run() {
        let mut tally = good();
        tally.answered(0, Phase::After, "b2 198.18.0.1 1");
        let failed = failed(&tally, &counters(100_000, 0));
        assert!(failed.iter().any(|what| what.contains("1 still reached it")), "{failed:?}");
    }

    #[test]
    fn too_few_requests_and_wrong_shares_fail_the_run() {
        let mut few = Tally::new(&scene::services());
        add_answers(&mut few, Phase::Steady, 499, None);
        add_answers(&mut few, Phase::After, 500, Some(REMOVED));
        assert_eq!(failed(&few, &counters(100_000, 0)).len(), 2, "both services");

        let mut skewed = good();
        for port in 0..600 {
            skewed.answered(0, Phase::Steady, &format!("b1 198.18.0.9 {port}"));
        }
        assert_eq!(failed(&skewed, &counters(100_000, 0)).len(), 1);
    }

    #[test]
    fn requests_that_bypassed_the_program_or_were_dropped_fail_the_run() {
        assert_eq!(failed(&good(), &counters(10, 0)).len(), 1);
        assert_eq!(failed(&good(), &counters(100_000, 1)).len(), 1);
    }
}
