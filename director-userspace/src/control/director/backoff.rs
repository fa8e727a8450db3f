//! When what failed is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits that grow with each failure in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    wait: Duration,
    at: Instant,
}

impl Backoff {
    /// After the first failure.
    pub(super) fn new() -> Self {
        Self { wait: FIRST, at: Instant::now() + FIRST }
    }

    /// After a further failure.
    pub(super) fn again(self) -> Self {
        let wait = (2 * self.wait).min(LONGEST);
        Self { wait, at: Instant::now() + wait }
    }

    /// Something changed that may help.
    pub(super) fn due_now() -> Self {
        Self { wait: FIRST, at: Instant::now() }
    }

    /// When to try again.
    pub(super) fn at(self) -> Instant {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new();
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push(backoff.wait.as_secs());
            assert!(backoff.at() <= Instant::now() + backoff.wait);
            backoff = backoff.again();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }
}
