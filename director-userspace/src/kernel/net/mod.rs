//! Reads and changes the kernel's interfaces, addresses, routes and neighbours.
//!
//! By netlink only: /sys/class/net shows the namespace that mounted it, not the one that the
//! caller is in. A [`Netlink`] belongs to the network namespace that the calling thread was in
//! when it connected, for everything it does: requests, ethtool, packet sockets, sysctls.
//!
//! - [`netns`]: namespaces themselves
//! - `link`, `address`, `route`, `neighbour`: what `ip` shows and sets
//! - `route_classes`: which destinations share a route
//! - `next_hop`: which interface and MAC address a packet to X leaves by
//! - `watch`: what changes
//! - `path_mtu`: has the kernel learn the MTUs of tunnels' paths, and follows them
//! - `announce`: gratuitous ARP and neighbour advertisements, and finding the owner of an address
//! - `ethtool`, `features`, `sysctl`: drivers, native XDP, kernel settings
//! - `xdp`: programs that stay with their device; `classifier`: the same for tc

mod address;
mod announce;
mod classifier;
mod error;
mod ethtool;
mod features;
#[doc(hidden)]
pub mod fuzz;
mod link;
mod neighbour;
pub mod netns;
mod next_hop;
mod packet;
mod path_mtu;
mod route;
mod route_classes;
mod sysctl;
mod watch;
mod xdp;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt as _;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST},
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{Socket, protocols::NETLINK_GENERIC},
};
use tokio::{sync::watch as latest, time::sleep};

use self::error::failed;
pub use self::{
    address::{Address, AddressScope},
    announce::AddressOwner,
    classifier::{Clsact, Filter, Side},
    error::NetError,
    ethtool::{Channels, Driver, Feature},
    features::XdpFeatures,
    link::{Link, LinkEnd, XdpAttached, XdpMode},
    neighbour::{Managed, Neighbour, NeighbourState},
    netns::NetNs,
    next_hop::NextHop,
    path_mtu::FollowedRoute,
    route::{NewRoute, Route, RouteKind},
    route_classes::{RouteClass, RouteClasses},
    sysctl::{read_sysctl, write_sysctl},
    watch::Change,
};

/// Attempts at a dump that the kernel marks as inconsistent.
const DUMP_ATTEMPTS: usize = 8;
/// How long to wait for a socket to finish another dump.
const BUSY_WAIT: Duration = Duration::from_millis(2);

/// A connection to the kernel's network configuration, in one network namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    /// A netlink socket runs one dump at a time and returns EBUSY for another.
    dumping: Arc<tokio::sync::Mutex<()>>,
    /// For the generic netlink families; one request at a time.
    generic: Arc<Mutex<Socket>>,
    /// Any socket will do for ethtool's ioctl: it carries the namespace.
    control: Arc<OwnedFd>,
    netns: Arc<NetNs>,
    /// Routes whose MTU is followed.
    followed: Arc<latest::Sender<path_mtu::FollowedRoutes>>,
}

impl Netlink {
    /// Connects in the network namespace of the calling thread, and runs the connection on the
    /// current tokio runtime.
    ///
    /// # Errors
    /// [`NetError::System`] if the sockets can't be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect() -> Result<Self, NetError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|e| failed("open a netlink socket", e))?;
        let generic = open_generic().map_err(|e| failed("open a generic netlink socket", e))?;
        let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|e| failed("open a socket for ethtool", e))?;
        let netns = NetNs::current()?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            dumping: Arc::default(),
            generic: Arc::new(Mutex::new(generic)),
            control: Arc::new(control),
            netns: Arc::new(netns),
            followed: Arc::new(latest::channel(path_mtu::FollowedRoutes::default()).0),
        })
    }

    /// Connects in another network namespace.
    ///
    /// # Errors
    /// [`NetError::System`] if the namespace can't be entered or the sockets can't be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect_in(netns: &NetNs) -> Result<Self, NetError> {
        let runtime = tokio::runtime::Handle::current();
        netns.run(|| {
            let _inside = runtime.enter();
            Self::connect()
        })
    }

    /// The network namespace of this connection.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Requests one object. An error of the kernel is returned as it is.
    async fn get(&self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        Ok(self.request(message, NLM_F_REQUEST).await?.0.into_iter().next())
    }

    /// Lists objects, and lists again if they changed meanwhile.
    async fn dump(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let _turn = self.dumping.lock().await;
        let mut outcome = Ok(Vec::new());
        for _ in 0..DUMP_ATTEMPTS {
            match self.request(message.clone(), NLM_F_REQUEST | NLM_F_DUMP).await {
                Ok((objects, torn)) => {
                    outcome = Ok(objects);
                    if !torn {
                        break;
                    }
                }
                // The dump of a caller that no longer waits for it is still being read.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    outcome = Err(e);
                    sleep(BUSY_WAIT).await;
                }
                Err(e) => return Err(e),
            }
        }
        outcome
    }

    /// Changes something and waits for the kernel's acknowledgement.
    async fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.request(message, NLM_F_REQUEST | NLM_F_ACK | flags).await.map(drop)
    }

    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let closed = || io::Error::other("the netlink connection is closed");
        let mut answers = self.handle.clone().request(request).map_err(|_| closed())?;
        let (mut objects, mut torn, mut answered) = (Vec::new(), false, false);
        while let Some(answer) = answers.next().await {
            answered = true;
            torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => objects.push(object),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        // An empty dump may end without a message; an ACK and a single object may not.
        if !answered && flags & NLM_F_DUMP != NLM_F_DUMP && flags & NLM_F_ACK == 0 {
            return Err(closed());
        }
        Ok((objects, torn))
    }

    /// Runs something that depends on the thread's namespace in this connection's namespace.
    fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetError> + Send,
    ) -> Result<T, NetError> {
        // Entering takes CAP_SYS_ADMIN, which the daemon lacks and does not need.
        if NetNs::current()?.id()? == self.netns.id()? { work() } else { self.netns.run(work) }
    }
}

fn open_generic() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    Ok(socket)
}
