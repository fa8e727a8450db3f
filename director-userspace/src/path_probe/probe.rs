//! One way that probes go.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::sys::socket::{setsockopt, sockopt};

use crate::config::model::{Forward, MacAddr};

/// Largest TCP segment of a probe, bytes: what the smallest IPv6 link (1280) carries inside an IPv6
/// tunnel. A segment that fills the link to the backend would not fit its tunnel.
pub const MAX_SEGMENT: u16 = 1280 - 40 - 40 - 20;

/// The way of a service's packets to one backend. A check of any port and of TCP or UDP goes this
/// way with a socket that is connected to `backend` and carries the probe's mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathProbe {
    /// The service's address.
    pub vip: IpAddr,
    /// The backend's own address, which the socket is connected to.
    pub backend: IpAddr,
    /// How packets travel.
    pub forward: Forward,
    /// Source of the outer header, of the backend's family: what the data plane uses. Needed for
    /// [`Forward::Tunnel`] only.
    pub source: Option<IpAddr>,
    /// Address of this host that the backend's answers are to come to: of the VIP's family, and no
    /// VIP. Needed where VIP and backend are of different families; otherwise `None` leaves the
    /// choice to the kernel, or to whoever binds the socket.
    pub from: Option<IpAddr>,
    /// The next hop's MAC address, if the configuration fixes it.
    pub mac: Option<MacAddr>,
}

/// Makes a socket's packets go the way of the probe with this mark. To be called before it is
/// connected, by whoever has CAP_NET_ADMIN.
///
/// # Errors
///
/// Those of setsockopt(2).
pub fn mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    setsockopt(socket, sockopt::Mark, &mark)?;
    let segment = libc::c_int::from(MAX_SEGMENT);
    // SAFETY: the option's value is an int, whose address and size these are.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            (&raw const segment).cast(),
            size_of_val(&segment) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A socket of UDP, which has no segments.
            error if is_not_tcp(&error) => Ok(()),
            error => Err(error),
        },
    }
}

fn is_not_tcp(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn sockets_of_both_protocols_can_be_marked() {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        // Without the privilege, the mark is refused and not the segment size.
        for result in [mark(&udp, 1), mark(&tcp, 1)] {
            assert!(result.is_ok_and(|()| true) || !nix::unistd::geteuid().is_root());
        }
    }
}
