//! Notifications of changes in the kernel's network configuration.

use std::{future::poll_fn, io, net::IpAddr};

use bytes::BytesMut;
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::sync::mpsc;

use super::{
    Address, Link, Neighbour, NetError, Netlink,
    address::address_of,
    failed,
    link::link_of,
    neighbour::neighbour_of,
    path_mtu::{self, ErrorSockets},
};

/// Changes that wait for a slow reader. When it is full the kernel's own buffer takes more, and
/// when that is full the reader gets a [`Change::Resync`].
const QUEUE: usize = 256;
/// The kernel's buffer, in bytes: some thousand changes.
const RECEIVE_BUFFER: libc::c_int = 1 << 20;
/// More than the longest datagram of changes the kernel builds (32 KiB).
const DATAGRAM: usize = 64 << 10;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface is new or different, or (`removed`) gone.
    Link {
        /// The interface.
        link: Link,
        /// It is gone.
        removed: bool,
    },
    /// An address is new or different, or (`removed`) gone.
    Address {
        /// The address.
        address: Address,
        /// It is gone.
        removed: bool,
    },
    /// Some route was added, changed or removed. Which of them serves a destination depends on
    /// rules and metrics: call [`Netlink::route_to`] again.
    Route,
    /// A neighbour is new or different, or (`removed`) gone.
    Neighbour {
        /// The neighbour.
        neighbour: Neighbour,
        /// It is gone.
        removed: bool,
    },
    /// The path to a destination has another MTU, or its own has ended: see
    /// [`Netlink::follow_path_mtus`]. A learned one is no change of a route.
    PathMtu {
        /// The destination.
        destination: IpAddr,
    },
    /// Changes were lost, because too many came at once: read everything again.
    Resync,
}

impl Netlink {
    /// Subscribes to the changes in this connection's namespace, and has the kernel learn the path
    /// MTUs of tunnels meanwhile. The subscription ends when the receiver is dropped; the channel
    /// ends when the socket fails for good.
    ///
    /// # Errors
    /// [`NetError::System`] if the socket can't be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn watch(&self) -> Result<mpsc::Receiver<Change>, NetError> {
        let runtime = tokio::runtime::Handle::current();
        let socket = self.inside(|| {
            let _inside = runtime.enter();
            subscribe().map_err(|e| failed("watch the network's configuration", e))
        })?;
        let errors = self.inside(|| {
            let _inside = runtime.enter();
            let doing = "have the kernel learn the path MTUs of tunnels (CAP_NET_RAW is needed)";
            ErrorSockets::open().map_err(|e| failed(doing, e))
        });
        let errors = errors.unwrap_or_else(|error| {
            tracing::warn!("{error}: packets that are too big for a path behind a router are lost");
            ErrorSockets::none()
        });
        let (sender, receiver) = mpsc::channel(QUEUE);
        let followed = self.followed.subscribe();
        tokio::spawn(path_mtu::follow(self.clone(), errors, followed, sender.downgrade()));
        tokio::spawn(async move {
            tokio::select! {
                () = forward(&socket, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let mask = groups.into_iter().fold(0, |mask, group| mask | 1 << (group as u32 - 1));
    let socket_mut = socket.socket_mut();
    socket_mut.set_rx_buf_sz(RECEIVE_BUFFER)?;
    socket_mut.bind(&SocketAddr::new(0, mask))?;
    Ok(socket)
}

/// Reads until the socket fails or the receiver is dropped.
async fn forward(socket: &TokioSocket, sender: &mpsc::Sender<Change>) {
    let mut datagram = BytesMut::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        datagram.reserve(DATAGRAM);
        let changes = match poll_fn(|cx| socket.poll_recv(cx, &mut datagram)).await {
            Ok(()) => changes_of(&datagram),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                // What is still queued is older than what the reader is about to read.
                discard_queued(socket, &mut datagram);
                vec![Change::Resync]
            }
            Err(_) => return,
        };
        for change in changes {
            if sender.send(change).await.is_err() {
                return;
            }
        }
    }
}

fn discard_queued(socket: &TokioSocket, datagram: &mut BytesMut) {
    loop {
        datagram.clear();
        match socket.socket_ref().recv(datagram, libc::MSG_DONTWAIT) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(_) => return,
        }
    }
}

/// The changes in one datagram, in order. An unreadable message becomes a [`Change::Resync`].
pub(super) fn changes_of(datagram: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(length) = NetlinkBuffer::new_checked(rest).map(|header| header.length() as usize)
        else {
            changes.push(Change::Resync);
            break;
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
            Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) => {
                changes.extend(change_of(message));
            }
            Ok(_) => {}
            Err(_) => changes.push(Change::Resync),
        }
        // Messages are aligned to four bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}

fn change_of(message: RouteNetlinkMessage) -> Option<Change> {
    use RouteNetlinkMessage as Message;
    match message {
        Message::NewLink(message) => Some(Change::Link { link: link_of(message), removed: false }),
        Message::DelLink(message) => Some(Change::Link { link: link_of(message), removed: true }),
        Message::NewAddress(message) => {
            address_of(&message).map(|address| Change::Address { address, removed: false })
        }
        Message::DelAddress(message) => {
            address_of(&message).map(|address| Change::Address { address, removed: true })
        }
        Message::NewRoute(_) | Message::DelRoute(_) => Some(Change::Route),
        Message::NewNeighbour(message) => {
            neighbour_of(&message).map(|neighbour| Change::Neighbour { neighbour, removed: false })
        }
        Message::DelNeighbour(message) => {
            neighbour_of(&message).map(|neighbour| Change::Neighbour { neighbour, removed: true })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{link::LinkMessage, route::RouteMessage};

    use super::*;

    fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_datagram_may_hold_several_changes() {
        let mut link = LinkMessage::default();
        link.header.index = 4;
        let mut datagram = bytes(RouteNetlinkMessage::NewRoute(RouteMessage::default()));
        datagram.extend(bytes(RouteNetlinkMessage::DelLink(link)));
        let changes = changes_of(&datagram);
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0], Change::Route);
        assert!(
            matches!(&changes[1], Change::Link { link, removed: true } if link.index == 4),
            "{changes:?}"
        );
    }

    #[test]
    fn garbage_means_resync() {
        assert_eq!(changes_of(&[1, 2, 3]), [Change::Resync]);
        assert_eq!(changes_of(&[0; 64]), [Change::Resync]);
        assert_eq!(changes_of(&[]), []);
    }
}
