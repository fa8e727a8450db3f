//! Path MTUs: has the kernel learn those of tunnels, and notices when one begins or ends.
//!
//! A router that cannot forward a tunnel's packet reports that to this host. The kernel keeps what
//! it reports, with an end, for outer protocols that some socket or device of the host handles; the
//! director's tunnels have neither. The sockets here handle them: they receive no packets, and
//! become readable when the kernel has learned something. What it learns otherwise, it does not
//! report: routes are looked up again from time to time, and when a path's MTU should end.
//!
//! The kernel's own rules decide what is learned, and for how long (`net.ipv4.route.min_pmtu`,
//! `mtu_expires`). It checks only that the quoted packet is from an address of this host, as it does
//! for quoted answers to pings without any socket.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use futures_util::future::select_all;
use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, watch as latest},
    time::{sleep, sleep_until},
};

use super::{Change, Netlink};
use crate::policy::by_address::ByAddress;

/// The shortest time between two lookups of all routes.
const POLL: Duration = Duration::from_secs(10);
/// Looking all of them up takes at most 1/`POLL_SHARE` of the time.
const POLL_SHARE: u32 = 50;
/// The kernel gives a path MTU's end in hundredths of a second, rounded down.
const END_ROUNDING: Duration = Duration::from_millis(20);
/// Most errors that are read at once, which is more than a socket's queue holds, and the pause after
/// them: a flood of errors costs little.
const MAX_ERRORS: usize = 512;
const PAUSE: Duration = Duration::from_millis(50);
/// Errors about one destination change its MTU at most once in this time: forged ones can lower it
/// hundreds of times.
const HOLD: Duration = Duration::from_secs(1);

/// What is followed of the route to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowedRoute {
    /// The MTU that the route or path MTU discovery sets.
    pub mtu: Option<u32>,
    /// When it ends, if it does.
    pub mtu_ends: Option<Instant>,
    /// Whether there is a router on the way, or only the link.
    pub on_link: bool,
}

/// Routes by destination.
pub(super) type FollowedRoutes = ByAddress<FollowedRoute>;

impl Netlink {
    /// Replaces the routes whose MTU is followed: every [`Netlink::watch`] of this connection sends
    /// a [`Change::PathMtu`] when one differs from what is given here.
    pub fn follow_path_mtus(&self, routes: impl IntoIterator<Item = (IpAddr, FollowedRoute)>) {
        self.followed.send_replace(routes.into_iter().collect());
    }
}

/// The sockets of one namespace.
pub(super) struct ErrorSockets(Vec<AsyncFd<OwnedFd>>);

impl ErrorSockets {
    /// Opens them in the calling thread's namespace, inside a runtime. Needs CAP_NET_RAW.
    pub(super) fn open() -> io::Result<Self> {
        let mut sockets = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [libc::IPPROTO_IPIP, libc::IPPROTO_IPV6] {
                let socket = match open(family, protocol) {
                    Ok(socket) => socket,
                    // A kernel without IPv6.
                    Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => continue,
                    Err(error) => return Err(error),
                };
                // SAFETY: `socket` owns an open descriptor, which lives as long as the `AsyncFd`.
                sockets.push(unsafe { AsyncFd::register_with_interest(socket, Interest::ERROR) }?);
            }
        }
        Ok(Self(sockets))
    }

    /// No sockets: only what the kernel learns otherwise is noticed.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Waits until there are errors, and reads the destinations of packets that did not fit.
    async fn destinations(&self) -> Vec<IpAddr> {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let ready = self.0.iter().map(|socket| Box::pin(socket.ready(Interest::ERROR)));
        let (Ok(mut guard), ..) = select_all(ready).await else {
            // The runtime ends.
            return std::future::pending().await;
        };
        let (destinations, left) = read_errors(guard.get_inner());
        if !left {
            guard.clear_ready();
            // Those that came between the two would never be reported.
            let (more, _) = read_errors(guard.get_inner());
            return [destinations, more].concat();
        }
        destinations
    }
}

/// A raw socket that receives errors only.
fn open(family: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain system call; the descriptor it returns is ours alone.
    let socket = unsafe {
        let fd = libc::socket(family, kind, protocol);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut keep_nothing =
        libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let filter = libc::sock_fprog { len: 1, filter: &raw mut keep_nothing };
    // SAFETY: the pointer and length describe `filter`, which points to one instruction; the kernel
    // copies both.
    let attached = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if attached < 0 {
        return Err(io::Error::last_os_error());
    }
    match family {
        libc::AF_INET => setsockopt(&socket, Ipv4RecvErr, &true)?,
        _ => setsockopt(&socket, Ipv6RecvErr, &true)?,
    }
    Ok(socket)
}

/// The destinations of quoted packets that did not fit, and whether more errors wait.
fn read_errors(socket: &OwnedFd) -> (Vec<IpAddr>, bool) {
    let mut destinations = Vec::new();
    for _ in 0..MAX_ERRORS {
        let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let fd = socket.as_raw_fd();
        let Ok(message) = recvmsg::<SockaddrStorage>(fd, &mut [], Some(&mut space), flags) else {
            return (destinations, false);
        };
        let is_too_big = message.cmsgs().is_ok_and(|mut all| all.any(|error| is_too_big(&error)));
        if is_too_big && let Some(address) = message.address {
            destinations.extend(address.as_sockaddr_in().map(|to| IpAddr::V4(to.ip())));
            destinations.extend(address.as_sockaddr_in6().map(|to| IpAddr::V6(to.ip())));
        }
    }
    (destinations, true)
}

/// Whether an error is ICMP's "fragmentation needed" or ICMPv6's "packet too big".
fn is_too_big(error: &ControlMessageOwned) -> bool {
    const FRAGMENTATION_NEEDED: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP, 3, 4);
    const PACKET_TOO_BIG: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP6, 2, 0);
    match error {
        ControlMessageOwned::Ipv4RecvErr(error, _) => {
            (error.ee_origin, error.ee_type, error.ee_code) == FRAGMENTATION_NEEDED
        }
        ControlMessageOwned::Ipv6RecvErr(error, _) => {
            (error.ee_origin, error.ee_type, error.ee_code) == PACKET_TOO_BIG
        }
        _ => false,
    }
}

/// Sends a change for every route whose MTU is no longer the one that is followed, until the
/// receiver of the changes is gone.
pub(super) async fn follow(
    netlink: Netlink,
    sockets: ErrorSockets,
    mut routes: latest::Receiver<FollowedRoutes>,
    changes: mpsc::WeakSender<Change>,
) {
    // What was followed before is followed too.
    routes.mark_changed();
    let mut followed = Followed::default();
    let mut poll_at = Instant::now() + POLL;
    loop {
        let (mut pause, mut polled) = (Duration::ZERO, None);
        let due = followed.next_end().map_or(poll_at, |end| end.min(poll_at));
        let addresses = tokio::select! {
            changed = routes.changed() => {
                if changed.is_err() {
                    return;
                }
                followed.replace(routes.borrow_and_update().clone());
                continue;
            }
            destinations = sockets.destinations() => {
                pause = PAUSE;
                followed.of(destinations, Instant::now())
            }
            () = sleep_until(due.into()) => {
                let now = Instant::now();
                if now >= poll_at {
                    polled = Some(now);
                    followed.behind_routers()
                } else {
                    followed.ended(now)
                }
            }
        };
        for destination in addresses {
            let Ok(route) = netlink.route_to(destination).await else { continue };
            let on_link = route.gateway.is_none();
            let route = FollowedRoute { mtu: route.mtu, mtu_ends: route.mtu_ends, on_link };
            if followed.is_news(destination, route, Instant::now()) {
                let Some(changes) = changes.upgrade() else { return };
                if changes.send(Change::PathMtu { destination }).await.is_err() {
                    return;
                }
            }
        }
        if changes.strong_count() == 0 {
            return;
        }
        if let Some(began) = polled {
            poll_at = Instant::now() + POLL.max(began.elapsed() * POLL_SHARE);
        }
        sleep(pause).await;
    }
}

/// The routes that are followed, as last seen.
#[derive(Debug, Default)]
struct Followed {
    routes: FollowedRoutes,
    ends: BTreeSet<(Instant, IpAddr)>,
    /// When their MTU last changed, if not long ago.
    news: ByAddress<Instant>,
    /// Errors that are held back.
    held: BTreeSet<(Instant, IpAddr)>,
}

impl Followed {
    fn replace(&mut self, routes: FollowedRoutes) {
        let end = |(to, route): (&IpAddr, &FollowedRoute)| Some((route.mtu_ends?, *to));
        self.ends = routes.iter().filter_map(end).collect();
        self.routes = routes;
    }

    /// Those of `destinations` that are followed, and did not change just now: the others are due
    /// later.
    fn of(&mut self, destinations: Vec<IpAddr>, now: Instant) -> Vec<IpAddr> {
        self.news.retain(|_, at| *at + HOLD > now);
        let mut distinct: HashSet<IpAddr> = destinations.into_iter().collect();
        distinct.retain(|to| self.routes.contains_key(to));
        let (held, due): (Vec<_>, Vec<_>) =
            distinct.into_iter().partition(|to| self.news.contains_key(to));
        self.held.extend(held.into_iter().map(|to| (self.news[&to] + HOLD, to)));
        due
    }

    /// Those behind a router, which alone has a path beyond the link.
    fn behind_routers(&self) -> Vec<IpAddr> {
        self.routes.iter().filter(|(_, route)| !route.on_link).map(|(to, _)| *to).collect()
    }

    /// When the next MTU ends, or what was held back is due.
    fn next_end(&self) -> Option<Instant> {
        let end = self.ends.first().map(|(end, _)| *end + END_ROUNDING);
        let held = self.held.first().map(|(due, _)| *due);
        end.into_iter().chain(held).min()
    }

    /// Those whose MTU should have ended at `now`, and what was held back until then.
    fn ended(&mut self, now: Instant) -> Vec<IpAddr> {
        let mut ended = Vec::new();
        while let Some((end, to)) = self.ends.first().copied()
            && end + END_ROUNDING <= now
        {
            self.ends.pop_first();
            ended.push(to);
        }
        while let Some((due, to)) = self.held.first().copied()
            && due <= now
        {
            self.held.pop_first();
            ended.push(to);
        }
        ended
    }

    /// Records the route as it is now; whether its MTU is another one.
    fn is_news(&mut self, to: IpAddr, now: FollowedRoute, at: Instant) -> bool {
        let Some(known) = self.routes.get_mut(&to) else { return false };
        let before = std::mem::replace(known, now);
        self.ends.extend(now.mtu_ends.map(|end| (end, to)));
        if let Some(end) = before.mtu_ends
            && before.mtu_ends != now.mtu_ends
        {
            self.ends.remove(&(end, to));
        }
        let is_news = before.mtu != now.mtu;
        if is_news {
            self.news.insert(to, at);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 2));

    fn route(mtu: Option<u32>, mtu_ends: Option<Instant>) -> FollowedRoute {
        FollowedRoute { mtu, mtu_ends, on_link: false }
    }

    fn followed() -> Followed {
        let mut followed = Followed::default();
        let near = FollowedRoute { on_link: true, ..route(None, None) };
        followed.replace([(NEAR, near), (FAR, route(None, None))].into_iter().collect());
        followed
    }

    #[test]
    fn an_mtu_is_news_when_it_begins_changes_and_ends() {
        let (mut followed, start) = (followed(), Instant::now());
        let after = |seconds| Some(start + Duration::from_secs(seconds));
        for (mtu, ends, is_news) in [
            (None, None, false),
            (Some(1400), after(600), true),
            (Some(1400), after(600), false),
            // Reported again: it ends later.
            (Some(1400), after(900), false),
            (Some(1300), after(900), true),
            (None, None, true),
            // Set by an administrator.
            (Some(1300), None, true),
        ] {
            assert_eq!(followed.is_news(FAR, route(mtu, ends), start), is_news, "{mtu:?} {ends:?}");
            assert_eq!(followed.next_end(), ends.map(|end| end + END_ROUNDING), "{mtu:?}");
        }
        assert!(!followed.is_news(OTHER, route(Some(1400), after(1)), start));
        assert_eq!(followed.next_end(), None, "it is not followed");
    }

    #[test]
    fn an_mtu_is_looked_up_once_when_it_ends() {
        let (mut followed, start) = (followed(), Instant::now());
        let end = start + Duration::from_secs(3);
        assert!(followed.is_news(FAR, route(Some(1400), Some(end)), start));
        assert_eq!(followed.ended(end), [] as [IpAddr; 0]);
        assert_eq!(followed.ended(end + END_ROUNDING), [FAR]);
        assert_eq!(followed.ended(end + END_ROUNDING), [] as [IpAddr; 0]);
        // Found in place when it is followed anew.
        let known = [(OTHER, route(Some(1400), Some(end)))];
        followed.replace(known.into_iter().collect());
        assert_eq!(followed.ended(end + END_ROUNDING), [OTHER]);
    }

    #[test]
    fn only_followed_destinations_are_looked_up() {
        let mut followed = followed();
        assert_eq!(followed.of(vec![OTHER, FAR, FAR], Instant::now()), [FAR]);
        assert_eq!(followed.behind_routers(), [FAR]);
    }

    /// The first error counts at once, the last one of many a second later.
    #[test]
    fn errors_about_one_destination_are_held_back() {
        const NONE: [IpAddr; 0] = [];
        let (mut followed, start) = (followed(), Instant::now());
        assert_eq!(followed.of(vec![FAR], start), [FAR]);
        assert!(followed.is_news(FAR, route(Some(1400), None), start));
        for n in 1..10 {
            let now = start + HOLD * n / 10;
            assert_eq!(followed.of(vec![FAR, NEAR], now), [NEAR], "another is not held back");
            // The daemon has followed meanwhile.
            followed.replace(followed.routes.clone());
            assert_eq!(followed.ended(now), NONE);
        }
        assert_eq!(followed.next_end(), Some(start + HOLD));
        assert_eq!(followed.ended(start + HOLD), [FAR]);
        assert_eq!(followed.next_end(), None);
        assert_eq!(followed.of(vec![FAR], start + HOLD), [FAR]);
    }
}
