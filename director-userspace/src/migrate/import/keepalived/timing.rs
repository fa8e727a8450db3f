//! The timing of keepalived's checks, and Director's equivalent.

use std::time::Duration;

use super::{super::error::ImportError, tree::Node, value};

/// Director's shortest interval.
const SHORTEST: Duration = Duration::from_millis(100);
/// keepalived's defaults.
const DELAY_LOOP: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The timing of a block; what is missing is inherited: checker from server from service.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    delay_loop: Option<Duration>,
    timeout: Option<Duration>,
    retry: Option<u32>,
    delay_before_retry: Option<Duration>,
    /// Servers are down until they have been checked.
    pub(super) alpha: bool,
}

/// The defaults of a kind of checker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) retry: u32,
    /// None: the delay between checks.
    pub(super) delay_before_retry: Option<Duration>,
}

/// Director's timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) fall: u16,
}

impl Timers {
    /// Reads a line, if it is about timing; returns whether it is.
    pub(super) fn take(&mut self, node: &Node) -> Result<bool, ImportError> {
        match node.keyword() {
            "delay_loop" => self.delay_loop = Some(value::seconds(node)?),
            "connect_timeout" | "misc_timeout" => self.timeout = Some(value::seconds(node)?),
            "retry" | "nb_get_retry" | "nb_sock_retry" => {
                self.retry = Some(value::number(node, "the number of retries")?);
            }
            "delay_before_retry" => self.delay_before_retry = Some(value::seconds(node)?),
            "alpha" => self.alpha = node.word(1) != Some("false"),
            // Spreads the first checks, as Director's jitter does.
            "warmup" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The equivalent timing.
    ///
    /// keepalived checks every `delay_loop`; after a failure it retries `retry` times,
    /// `delay_before_retry` apart, and then takes the server out: at the latest `delay_loop +
    /// retry x (timeout + delay_before_retry) + timeout` after the server died, having failed
    /// `retry + 1` times in a row. Director probes at one interval, and needs `interval x fall +
    /// timeout`. So `fall` is `retry + 1`, and the interval the longest that takes no longer.
    pub(super) fn timing(&self, defaults: Defaults) -> Timing {
        let delay_loop = self.delay_loop.unwrap_or(DELAY_LOOP);
        let timeout = self.timeout.unwrap_or(CONNECT_TIMEOUT).max(SHORTEST);
        let retry = self.retry.unwrap_or(defaults.retry).min(u32::from(u16::MAX) - 1);
        let pause = self.delay_before_retry.or(defaults.delay_before_retry).unwrap_or(delay_loop);
        let until_out = delay_loop.saturating_add(timeout.saturating_add(pause) * retry);
        let same = until_out / (retry + 1);
        // A tenth of a second is exact enough for a reader.
        let tenths = same.min(delay_loop).as_millis() / 100;
        let interval = Duration::from_millis(u64::try_from(tenths).unwrap_or(u64::MAX) * 100);
        Timing {
            interval: interval.max(timeout).max(SHORTEST),
            timeout,
            fall: u16::try_from(retry + 1).unwrap_or(u16::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing(delay_loop: u32, timeout: u32, retry: u32, pause: u32) -> Timing {
        let timers = Timers {
            delay_loop: Some(delay_loop * SECOND),
            timeout: Some(timeout * SECOND),
            retry: Some(retry),
            delay_before_retry: Some(pause * SECOND),
            alpha: false,
        };
        timers.timing(Defaults { retry: 9, delay_before_retry: None })
    }

    #[test]
    fn a_dead_server_is_out_no_later_than_with_keepalived() {
        for delay_loop in [1, 2, 6, 10, 60] {
            for (timeout, retry, pause) in [(1, 0, 1), (1, 1, 1), (3, 3, 3), (5, 2, 1), (2, 9, 4)] {
                let ours = timing(delay_loop, timeout, retry, pause);
                let theirs = delay_loop + retry * (timeout + pause) + timeout;
                let needed = ours.interval * u32::from(ours.fall) + ours.timeout;
                assert_eq!(u32::from(ours.fall), retry + 1);
                assert!(ours.timeout <= ours.interval, "{ours:?}");
                // The exception: probes must not overlap.
                if ours.interval > ours.timeout {
                    let row = (delay_loop, timeout, retry, pause);
                    assert!(needed <= theirs * SECOND, "{row:?}: {needed:?} {theirs}");
                    assert!(ours.interval <= delay_loop * SECOND, "{row:?}");
                }
            }
        }
    }

    #[test]
    fn common_settings_keep_their_numbers() {
        let row = |delay_loop, timeout, retry, pause| {
            let timing = timing(delay_loop, timeout, retry, pause);
            (timing.interval.as_millis(), timing.timeout.as_millis(), timing.fall)
        };
        assert_eq!(row(6, 3, 3, 3), (6000, 3000, 4));
        assert_eq!(row(10, 3, 1, 1), (7000, 3000, 2));
        assert_eq!(row(5, 2, 0, 1), (5000, 2000, 1));
        assert_eq!(row(60, 5, 3, 3), (21_000, 5000, 4));
    }
}
