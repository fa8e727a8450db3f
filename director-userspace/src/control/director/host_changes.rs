//! What changed on the host and was not looked at yet.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until},
};
use tracing::{error, info};

use crate::kernel::net::{Change, NetError, Netlink};

/// Changes of the host come in bursts; they are handled this long after the last one.
const SETTLE: Duration = Duration::from_millis(20);
/// A burst that does not end is handled this long after its first change.
const SETTLE_AT_MOST: Duration = Duration::from_millis(250);
/// Changes that are older than this and were not looked at: the host is not followed.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(5);
/// While the kernel's notifications cannot be had, the host is looked at this often.
const POLL: Duration = Duration::from_millis(500);

/// Most other neighbours that are remembered; beyond, some answers are noticed by the next repair.
const OTHERS_AT_MOST: usize = 1 << 16;

/// What may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostChange {
    /// Nothing.
    #[default]
    Nothing,
    /// These neighbours, or the paths to these backends.
    Neighbours(BTreeSet<IpAddr>),
    /// Anything: interfaces, addresses, routes, neighbours.
    Anything,
}

impl HostChange {
    /// Both changes.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, change) | (change, Self::Nothing) => change,
            (Self::Neighbours(mut some), Self::Neighbours(more)) => {
                some.extend(more);
                Self::Neighbours(some)
            }
            (Self::Anything, _) | (_, Self::Anything) => Self::Anything,
        }
    }
}

/// Whether the last look at the host succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastLook {
    #[default]
    Succeeded,
    Failed,
}

#[derive(Default)]
struct State {
    change: HostChange,
    /// When the first and the last change came that were not taken yet.
    since: Option<(Instant, Instant)>,
    /// When the oldest change came that is being handled.
    handled: Option<Instant>,
    last_look: LastLook,
    /// Since when the maps do not have the next hops that a look found.
    maps_lag: Option<Instant>,
    /// Neighbours that packets are sent to: others change all the time.
    neighbours: HashSet<IpAddr>,
    /// Others that changed: one that is resolved may answer before it is known that packets are to
    /// be sent to it.
    others: HashSet<IpAddr>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    noted: Notify,
}

/// Changes of the host, shared by the task that receives them, the director that follows them, and
/// the heartbeat, which says how fresh that is.
#[derive(Clone, Default)]
pub struct HostChanges(Arc<Shared>);

impl HostChanges {
    /// Receives the kernel's notifications from now on, in a task of its own. Should they end, the
    /// host counts as changed twice a second until they can be had again.
    ///
    /// # Errors
    ///
    /// If they cannot be had.
    pub fn watch(&self, netlink: &Netlink) -> Result<(), NetError> {
        let mut changes = netlink.watch()?;
        let (this, netlink) = (self.clone(), netlink.clone());
        tokio::spawn(async move {
            loop {
                this.receive(&mut changes).await;
                error!(
                    "the kernel's notifications of interfaces, routes and neighbours have ended: \
                     the host is looked at every half second until they can be had again"
                );
                changes = loop {
                    this.note(HostChange::Anything);
                    sleep(POLL).await;
                    if let Ok(changes) = netlink.watch() {
                        break changes;
                    }
                };
                this.note(HostChange::Anything);
                info!("the kernel's notifications are received again");
            }
        });
        Ok(())
    }

    async fn receive(&self, changes: &mut mpsc::Receiver<Change>) {
        while let Some(change) = changes.recv().await {
            let change = match change {
                Change::Neighbour { neighbour, .. } => {
                    let mut state = self.state();
                    if !state.neighbours.contains(&neighbour.ip) {
                        if state.others.len() == OTHERS_AT_MOST {
                            state.others.clear();
                        }
                        state.others.insert(neighbour.ip);
                        continue;
                    }
                    HostChange::Neighbours(BTreeSet::from([neighbour.ip]))
                }
                Change::PathMtu { destination } => {
                    HostChange::Neighbours(BTreeSet::from([destination]))
                }
                Change::Link { .. } | Change::Address { .. } | Change::Route | Change::Resync => {
                    HostChange::Anything
                }
            };
            self.note(change);
        }
    }

    /// Notes that something may have changed.
    pub fn note(&self, change: HostChange) {
        let mut state = self.state();
        let now = Instant::now();
        state.change = std::mem::take(&mut state.change).and(change);
        let first = state.since.map_or(now, |(first, _)| first);
        state.since = Some((first, now));
        drop(state);
        self.0.noted.notify_one();
    }

    /// Waits for a change, and for the end of its burst.
    pub async fn settled(&self) {
        loop {
            let due =
                self.state().since.map(|(first, last)| (last + SETTLE).min(first + SETTLE_AT_MOST));
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
                None => self.0.noted.notified().await,
            }
        }
    }

    /// What changed since the last call. [`HostChanges::looked`] must follow.
    pub fn take(&self) -> HostChange {
        let mut state = self.state();
        let first = state.since.take().map(|(first, _)| first);
        state.handled = [state.handled, first].into_iter().flatten().min();
        std::mem::take(&mut state.change)
    }

    /// As [`HostChanges::take`], if only neighbours changed.
    pub fn take_neighbours(&self) -> BTreeSet<IpAddr> {
        let mut state = self.state();
        let HostChange::Neighbours(neighbours) = &mut state.change else {
            return BTreeSet::new();
        };
        let taken = std::mem::take(neighbours);
        state.change = HostChange::Nothing;
        let first = state.since.take().map(|(first, _)| first);
        state.maps_lag = [state.maps_lag, first].into_iter().flatten().min();
        taken
    }

    /// What was taken was looked at.
    pub fn looked(&self) {
        let mut state = self.state();
        state.handled = None;
        state.last_look = LastLook::Succeeded;
    }

    /// What was taken could not be looked at: anything may have changed.
    pub fn look_failed(&self) {
        let mut state = self.state();
        state.last_look = LastLook::Failed;
        state.change = HostChange::Nothing;
        // The next attempt has a time of its own; no burst has to settle for it.
        state.since = None;
    }

    /// A look found next hops that the maps do not have yet.
    pub fn maps_lag(&self) {
        let mut state = self.state();
        let since = state.handled.unwrap_or_else(Instant::now);
        state.maps_lag.get_or_insert(since);
    }

    /// The maps have the next hops that the last look found.
    pub fn maps_follow(&self) {
        self.state().maps_lag = None;
    }

    /// Whether next hops are fresh: the last look succeeded, and no change has waited for long.
    pub fn is_followed(&self) -> bool {
        self.is_followed_at(Instant::now())
    }

    fn is_followed_at(&self, now: Instant) -> bool {
        let state = self.state();
        let first = state.since.map(|(first, _)| first);
        let oldest = [state.handled, first, state.maps_lag].into_iter().flatten().min();
        state.last_look == LastLook::Succeeded
            && oldest.is_none_or(|oldest| now.duration_since(oldest) < FOLLOWED_WITHIN)
    }

    /// Sets the neighbours whose changes matter. One that is new among them, and changed already, is
    /// a change.
    pub fn set_neighbours(&self, neighbours: impl Iterator<Item = IpAddr>) {
        let neighbours: HashSet<IpAddr> = neighbours.collect();
        let mut state = self.state();
        let new = neighbours.difference(&state.neighbours);
        let changed: BTreeSet<IpAddr> =
            new.filter(|neighbour| state.others.contains(*neighbour)).copied().collect();
        state.others.clear();
        state.neighbours = neighbours;
        drop(state);
        if !changed.is_empty() {
            self.note(HostChange::Neighbours(changed));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbours(last: &[u8]) -> HostChange {
        HostChange::Neighbours(last.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect())
    }

    #[test]
    fn changes_add_up_and_are_taken_once() {
        let changes = HostChanges::default();
        for (first, second, both) in [
            (HostChange::Nothing, neighbours(&[1]), neighbours(&[1])),
            (neighbours(&[1]), neighbours(&[2]), neighbours(&[1, 2])),
            (neighbours(&[1]), HostChange::Anything, HostChange::Anything),
            (HostChange::Anything, neighbours(&[1]), HostChange::Anything),
        ] {
            changes.note(first);
            changes.note(second);
            assert_eq!(changes.take(), both);
            assert_eq!(changes.take(), HostChange::Nothing);
            changes.looked();
        }
    }

    #[tokio::test]
    async fn a_burst_settles_and_an_endless_one_is_cut() {
        let changes = HostChanges::default();
        let began = Instant::now();
        changes.note(neighbours(&[1]));
        changes.settled().await;
        assert!(began.elapsed() >= SETTLE);
        changes.take();
        let began = Instant::now();
        let noisy = changes.clone();
        let noise = tokio::spawn(async move {
            loop {
                noisy.note(neighbours(&[1]));
                sleep(SETTLE / 2).await;
            }
        });
        changes.settled().await;
        noise.abort();
        // Endless otherwise.
        assert!(began.elapsed() >= SETTLE);
    }

    #[test]
    fn the_host_is_followed_while_changes_are_looked_at_in_time() {
        let changes = HostChanges::default();
        assert!(changes.is_followed());
        changes.note(HostChange::Anything);
        let later = |part: u32| Instant::now() + FOLLOWED_WITHIN * part / 2;
        assert!(changes.is_followed_at(later(1)));
        assert!(!changes.is_followed_at(later(3)));
        // Taken is not looked at.
        changes.take();
        assert!(!changes.is_followed_at(later(3)));
        changes.looked();
        assert!(changes.is_followed_at(later(3)));
        changes.note(HostChange::Anything);
        changes.take();
        changes.look_failed();
        assert!(!changes.is_followed());
    }
}
