//! Which connections a listener keeps open: a bounded number in all, and of each peer. New ones are
//! served at once: the one that has been idle for longest makes room.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

/// Most connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) in_all: usize,
    pub(super) of_a_peer: usize,
}

/// The connections of a listener.
#[derive(Clone, Debug)]
pub(super) struct Limiter<P> {
    limits: Limits,
    open: Arc<Mutex<Vec<Open<P>>>>,
}

#[derive(Debug)]
struct Open<P> {
    peer: P,
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    now: Mutex<(Activity, Instant)>,
    close: Notify,
}

/// What a connection is doing. The former ones make room first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Activity {
    /// It waits for a request, or for the rest of one.
    Idle,
    /// Its client does not read.
    Stalled,
    /// A request is being served.
    Serving,
}

/// A connection's place, until dropped.
#[derive(Debug)]
pub(super) struct Place<P> {
    connection: Arc<Connection>,
    open: Arc<Mutex<Vec<Open<P>>>>,
}

/// Reports what a connection is doing.
#[derive(Clone, Debug)]
pub(super) struct Reporter(Arc<Connection>);

impl<P: PartialEq> Limiter<P> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default() }
    }

    /// A place for a new connection. `None` if there is none, and every other connection is being
    /// served.
    pub(super) fn admit(&self, peer: P) -> Option<Place<P>> {
        let mut open = lock(&self.open);
        if open.iter().filter(|other| other.peer == peer).count() >= self.limits.of_a_peer {
            make_room(&mut open, |other| *other == peer)?;
        }
        if open.len() >= self.limits.in_all {
            make_room(&mut open, |_| true)?;
        }
        let now = Mutex::new((Activity::Idle, Instant::now()));
        let connection = Arc::new(Connection { now, close: Notify::new() });
        open.push(Open { peer, connection: connection.clone() });
        Some(Place { connection, open: self.open.clone() })
    }
}

/// Closes the connection that has been idle, or stalled, for longest.
fn make_room<P>(open: &mut Vec<Open<P>>, of: impl Fn(&P) -> bool) -> Option<()> {
    let candidates = open.iter().enumerate().filter(|(_, other)| of(&other.peer));
    let candidates = candidates.map(|(at, other)| (*lock(&other.connection.now), at));
    let ((activity, _), at) = candidates.min()?;
    if activity == Activity::Serving {
        return None;
    }
    open.remove(at).connection.close.notify_one();
    Some(())
}

impl<P> Place<P> {
    /// Returns when the connection must make room.
    pub(super) async fn lost(&self) {
        self.connection.close.notified().await;
    }

    pub(super) fn reporter(&self) -> Reporter {
        Reporter(self.connection.clone())
    }
}

impl<P> Drop for Place<P> {
    fn drop(&mut self) {
        lock(&self.open).retain(|other| !Arc::ptr_eq(&other.connection, &self.connection));
    }
}

impl Reporter {
    /// Returns what it was doing before.
    pub(super) fn report(&self, activity: Activity) -> Activity {
        let mut now = lock(&self.0.now);
        let before = now.0;
        if before != activity {
            *now = (activity, Instant::now());
        }
        before
    }

    /// The client reads again: it does what it did `before` it stalled, unless that has ended.
    pub(super) fn resume(&self, before: Activity) {
        let mut now = lock(&self.0.now);
        if now.0 == Activity::Stalled {
            *now = (before, Instant::now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part of an address that stands for one host: with IPv6, hosts choose the lower half.
pub(super) fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_lost(place: &Place<u32>) -> bool {
        tokio::time::timeout(Duration::from_millis(1), place.lost()).await.is_ok()
    }

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room() {
        let limiter = Limiter::new(Limits { in_all: 4, of_a_peer: 3 });
        let first = limiter.admit(1).expect("room");
        let second = limiter.admit(1).expect("room");
        let third = limiter.admit(1).expect("room");
        first.reporter().report(Activity::Serving);
        // Its peer is full: the one that is being served stays.
        let fourth = limiter.admit(1).expect("room was made");
        assert!(is_lost(&second).await && !is_lost(&first).await && !is_lost(&third).await);
        drop(second);
        let other = limiter.admit(2).expect("room");
        third.reporter().report(Activity::Stalled);
        // All are open: an idle one goes before a stalled one.
        let fifth = limiter.admit(3).expect("room was made");
        assert!(is_lost(&fourth).await && !is_lost(&third).await);
        for place in [&other, &fifth] {
            place.reporter().report(Activity::Serving);
        }
        let sixth = limiter.admit(4).expect("room was made");
        assert!(is_lost(&third).await);
        sixth.reporter().report(Activity::Serving);
        assert!(limiter.admit(5).is_none(), "all are being served");
        drop(other);
        assert!(limiter.admit(5).is_some());
        first.reporter().report(Activity::Idle);
        assert!(!is_lost(&first).await);
    }

    #[test]
    fn addresses_of_one_host_count_together() {
        for (address, host) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(host_of(parse(address)), parse(host));
        }
    }
}
