//! The share of its weight that a backend gets, smoothed.

use crate::policy::config::model::{Agent, Percent};

/// Largest remaining difference that is skipped, percent.
const SNAP: f64 = 5.0;

/// A smoothed share.
#[derive(Clone, Debug, Default)]
pub(super) struct Share(Option<f64>);

impl Share {
    /// An agent reports `percent`. The first report takes effect at once: there is nothing to
    /// smooth.
    pub(super) fn report(&mut self, percent: u8, agent: &Agent) {
        let target = f64::from(percent.max(agent.min.0));
        let Some(last) = self.0 else {
            self.0 = Some(target);
            return;
        };
        let step = (target - last) * f64::from(agent.smoothing.0) / 100.0;
        let rest = target - last - step;
        // A small rest that is not larger than the step is skipped, so that the share reaches the
        // target instead of approaching it for ever.
        let arrived = rest.abs() <= SNAP && rest.abs() <= step.abs();
        self.0 = Some(if arrived { target } else { last + step });
    }

    /// Percent, never below `min`.
    pub(super) fn percent(&self, min: Percent) -> Option<u8> {
        self.0.map(|share| (share.round().clamp(0.0, 100.0) as u8).max(min.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::config::model::AgentSource;

    /// The shares after each report.
    fn shares(smoothing: u8, min: u8, reports: &[u8]) -> Vec<u8> {
        let agent = Agent {
            source: AgentSource::Agent { port: 1.try_into().unwrap() },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            min: Percent(min),
            smoothing: Percent(smoothing),
        };
        let mut share = Share::default();
        let report = |&percent: &u8| {
            share.report(percent, &agent);
            share.percent(agent.min).unwrap()
        };
        reports.iter().map(report).collect()
    }

    #[test]
    fn a_share_approaches_the_target_with_each_report() {
        assert_eq!(Share::default().percent(Percent(10)), None);
        assert_eq!(shares(100, 0, &[100, 25, 50]), [100, 25, 50]);
        assert_eq!(shares(50, 0, &[100, 20, 20, 20, 20, 20]), [100, 60, 40, 30, 20, 20]);
        assert_eq!(shares(10, 0, &[50, 60, 60]), [50, 51, 52], "steps smaller than the rest stay");
        assert_eq!(shares(1, 0, &[0, 100, 100]), [0, 1, 2]);
    }

    #[test]
    fn with_eighty_percent_two_reports_reach_the_target() {
        assert_eq!(shares(80, 0, &[100, 25, 25]), [100, 40, 25]);
        assert_eq!(shares(80, 0, &[100, 0, 0]), [100, 20, 0]);
        assert_eq!(shares(80, 0, &[0, 100, 100]), [0, 80, 100]);
    }

    #[test]
    fn a_share_never_goes_below_the_minimum() {
        assert_eq!(shares(50, 30, &[0, 100, 0, 0, 0]), [30, 65, 48, 39, 30]);
        assert_eq!(shares(100, 100, &[0]), [100]);
    }
}
