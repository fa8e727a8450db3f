//! What is doubtful: whether the host must be looked at, and which services the maps may not hold as
//! wanted.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{DirectorError, backoff::Backoff};

/// What of the host and the maps is doubtful.
#[derive(Debug, Default)]
pub(super) struct Doubtful {
    look: Look,
    /// The last look failed, as a whole or in part.
    look_failed: Option<LookFailed>,
    whole: Whole,
    /// Services whose next hops changed, by index: the first to be brought right.
    moved: BTreeSet<usize>,
    /// Other services.
    services: BTreeSet<usize>,
    /// Services that could not be brought right; the others go on.
    stuck: BTreeMap<usize, Failed>,
}

/// Whether something is known to have changed on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Look {
    #[default]
    NotDue,
    Due,
}

/// A look at the host that failed.
#[derive(Debug)]
struct LookFailed {
    /// `None`: the kernel was short of something for a next hop, which has a warning of its own.
    error: Option<String>,
    backoff: Backoff,
}

/// An attempt that failed, and when the next is.
#[derive(Debug)]
struct Failed {
    error: String,
    backoff: Backoff,
}

/// Whether the maps as a whole must be compared with what is wanted.
#[derive(Debug, Default)]
enum Whole {
    #[default]
    Right,
    Doubtful,
    Failed(Failed),
}

impl Doubtful {
    /// These services are doubtful.
    pub(super) fn services(&mut self, more: impl IntoIterator<Item = usize>) {
        for at in more {
            self.stuck.remove(&at);
            self.services.insert(at);
        }
    }

    /// The next hops of these services changed.
    pub(super) fn moved(&mut self, more: impl IntoIterator<Item = usize>) {
        for at in more {
            self.stuck.remove(&at);
            self.moved.insert(at);
        }
    }

    /// All services are doubtful, and what belongs to none.
    pub(super) fn everything(&mut self) {
        if matches!(self.whole, Whole::Right) {
            self.whole = Whole::Doubtful;
        }
    }

    /// Whether something besides some services is.
    pub(super) fn is_everything(&self) -> bool {
        !matches!(self.whole, Whole::Right)
    }

    /// Whether the maps as a whole are to be compared now.
    pub(super) fn whole_is_due(&self) -> bool {
        match &self.whole {
            Whole::Right => false,
            Whole::Doubtful => true,
            Whole::Failed(failed) => failed.backoff.at() <= Instant::now(),
        }
    }

    /// The next services to be brought right, at most so many.
    pub(super) fn portion(&mut self, most: usize) -> Vec<usize> {
        let now = Instant::now();
        let due: Vec<usize> =
            self.stuck.iter().filter(|(_, f)| f.backoff.at() <= now).map(|(at, _)| *at).collect();
        let all = self.moved.iter().chain(&self.services).copied();
        let portion: Vec<usize> = all.take(most).collect();
        // What failed before is tried alone.
        if portion.is_empty() { due.into_iter().take(1).collect() } else { portion }
    }

    /// These services are right.
    pub(super) fn right(&mut self, services: &[usize]) {
        for at in services {
            self.moved.remove(at);
            self.services.remove(at);
            self.stuck.remove(at);
        }
    }

    /// A service could not be brought right.
    pub(super) fn service_failed(&mut self, at: usize, error: &DirectorError) {
        self.moved.remove(&at);
        self.services.remove(&at);
        let before = self.stuck.remove(&at);
        let backoff = before.map_or_else(Backoff::new, |before| before.backoff.again());
        self.stuck.insert(at, Failed { error: error.to_string(), backoff });
    }

    /// The maps could not be brought right as a whole.
    pub(super) fn whole_failed(&mut self, error: &DirectorError) {
        let backoff = match std::mem::take(&mut self.whole) {
            Whole::Failed(before) => before.backoff.again(),
            Whole::Right | Whole::Doubtful => Backoff::new(),
        };
        self.whole = Whole::Failed(Failed { error: error.to_string(), backoff });
    }

    /// The maps as a whole hold what is wanted, but for the services that are doubtful.
    pub(super) fn whole_is_right(&mut self) {
        self.whole = Whole::Right;
    }

    /// The maps hold everything as wanted.
    pub(super) fn maps_are_right(&mut self) {
        self.whole = Whole::Right;
        self.moved.clear();
        self.services.clear();
        self.stuck.clear();
    }

    /// Whether next hops in the maps are what is known of the host.
    pub(super) fn next_hops_are_right(&self) -> bool {
        self.moved.is_empty() && matches!(self.whole, Whole::Right)
    }

    /// The host is to be looked at.
    pub(super) fn look(&mut self) {
        self.look = Look::Due;
    }

    /// The look failed as a whole, or (without an error) for some next hops.
    pub(super) fn look_failed(&mut self, error: Option<String>) {
        self.look = Look::NotDue;
        let before = self.look_failed.take();
        let backoff = before.map_or_else(Backoff::new, |before| before.backoff.again());
        self.look_failed = Some(LookFailed { error, backoff });
    }

    /// The look succeeded.
    pub(super) fn looked(&mut self) {
        self.look = Look::NotDue;
        self.look_failed = None;
    }

    /// Whether the last look failed, as a whole or in part.
    pub(super) fn has_look_failed(&self) -> bool {
        self.look_failed.is_some()
    }

    /// Whether the host is to be looked at now.
    pub(super) fn look_is_due(&self) -> bool {
        self.look == Look::Due
            || self.look_failed.as_ref().is_some_and(|f| f.backoff.at() <= Instant::now())
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> Option<Instant> {
        let look = match self.look {
            Look::NotDue => self.look_failed.as_ref().map(|failed| failed.backoff.at()),
            Look::Due => Some(Instant::now()),
        };
        [look, self.maps_due()].into_iter().flatten().min()
    }

    /// When the maps are to be brought right.
    pub(super) fn maps_due(&self) -> Option<Instant> {
        let whole = match &self.whole {
            Whole::Right => None,
            Whole::Doubtful => Some(Instant::now()),
            Whole::Failed(failed) => Some(failed.backoff.at()),
        };
        let has_services = !self.moved.is_empty() || !self.services.is_empty();
        let services = has_services.then(Instant::now);
        let stuck = self.stuck.values().map(|failed| failed.backoff.at()).min();
        [whole, services, stuck].into_iter().flatten().min()
    }

    /// Why something is not as wanted.
    pub(super) fn error(&self) -> Option<&str> {
        let look = self.look_failed.as_ref().and_then(|failed| failed.error.as_deref());
        let whole = match &self.whole {
            Whole::Failed(failed) => Some(failed.error.as_str()),
            Whole::Right | Whole::Doubtful => None,
        };
        let stuck = self.stuck.values().next().map(|failed| failed.error.as_str());
        look.or(whole).or(stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> DirectorError {
        DirectorError::Kernel("no memory".into())
    }

    #[test]
    fn a_service_that_fails_is_alone_with_its_wait() {
        let mut doubtful = Doubtful::default();
        doubtful.services([1, 2, 3]);
        doubtful.moved([7]);
        assert_eq!(doubtful.portion(2), [7, 1], "what moved comes first");
        doubtful.service_failed(7, &error());
        doubtful.right(&[1]);
        assert_eq!(doubtful.portion(9), [2, 3]);
        doubtful.right(&[2, 3]);
        assert_eq!(doubtful.portion(9), [] as [usize; 0], "it waits");
        assert_eq!(doubtful.error(), Some("no memory"));
        assert!(doubtful.due().is_some_and(|due| due > Instant::now()));
        // Whatever changes it is a reason to try at once.
        doubtful.services([7]);
        assert_eq!((doubtful.portion(9), doubtful.error()), (vec![7], None));
    }

    #[test]
    fn a_whole_that_fails_does_not_keep_services_waiting() {
        let mut doubtful = Doubtful::default();
        doubtful.everything();
        assert!(doubtful.whole_is_due());
        doubtful.whole_failed(&error());
        assert!(!doubtful.whole_is_due() && doubtful.is_everything());
        doubtful.services([4]);
        assert_eq!(doubtful.portion(1), [4]);
        doubtful.right(&[4]);
        assert!(!doubtful.next_hops_are_right());
        doubtful.maps_are_right();
        assert!(doubtful.next_hops_are_right() && doubtful.due().is_none());
    }
}
