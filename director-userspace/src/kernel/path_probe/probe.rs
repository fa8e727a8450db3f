//! The path of a probe.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::sys::socket::{setsockopt, sockopt};

use super::PathProbeError;
use crate::policy::config::model::{ForwardMode, MacAddr};

/// Largest TCP segment of a probe, bytes: what the smallest IPv6 link (1280) carries inside an IPv6
/// tunnel. A segment that fills the link to the backend would not fit its tunnel.
pub const MAX_SEGMENT: u16 = 1280 - 40 - 40 - 20;

/// The path of a service's packets to one backend. A check of any port and of TCP or UDP takes this
/// path with a socket that is connected to `backend` and carries the probe's mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathProbe {
    /// The service's address.
    pub vip: IpAddr,
    /// The backend's own address, which the socket is connected to.
    pub backend: IpAddr,
    /// The forward mode.
    pub forward: ForwardMode,
    /// Source of the outer header, of the backend's family: what the data plane uses. Needed for
    /// [`ForwardMode::Tunnel`] only.
    pub source: Option<IpAddr>,
    /// Address of this host for the backend's replies: of the VIP's family, and not a VIP. Needed
    /// where VIP and backend are of different families; otherwise `None` leaves the choice to the
    /// kernel, or to the code that binds the socket.
    pub from: Option<IpAddr>,
    /// The next hop's MAC address, if the configuration fixes it.
    pub mac: Option<MacAddr>,
}

impl PathProbe {
    /// Checks that the addresses allow this path.
    ///
    /// # Errors
    ///
    /// What is missing or does not fit, and what to do.
    pub fn check(&self) -> Result<(), PathProbeError> {
        let Self { vip, backend, .. } = *self;
        let family = |address: IpAddr| if address.is_ipv6() { "IPv6" } else { "IPv4" };
        let mismatch = |what| PathProbeError::Mismatch { vip, backend, what };
        if !self.forward.mixes_families() && family(vip) != family(backend) {
            return Err(mismatch("`forward: direct` needs both of one address family"));
        }
        match self.source {
            _ if !self.forward.encapsulates() => {}
            None => return Err(PathProbeError::NoSource { vip, backend }),
            Some(source) if family(source) != family(backend) => {
                return Err(mismatch("the tunnel's source is of another address family"));
            }
            Some(_) => {}
        }
        match self.from {
            Some(from) if family(from) != family(vip) => {
                Err(mismatch("the address for answers is not of the VIP's family"))
            }
            None if family(vip) != family(backend) => {
                Err(PathProbeError::NoAddress { vip, backend, family: family(vip) })
            }
            _ => Ok(()),
        }
    }
}

/// Makes a socket's packets take the path of the probe with this mark. Must be called before it is
/// connected, with CAP_NET_ADMIN.
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
            // A UDP socket, which has no segments.
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
    fn an_impossible_path_is_refused_with_the_reason() {
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        let probe = |vip, backend, forward, source: &str, from: &str| PathProbe {
            vip: ip(vip),
            backend: ip(backend),
            forward,
            source: source.parse().ok(),
            from: from.parse().ok(),
            mac: None,
        };
        let (tunnel, direct) = (ForwardMode::Tunnel, ForwardMode::Direct);
        for good in [
            probe("192.0.2.1", "10.0.0.1", direct, "", ""),
            probe("192.0.2.1", "10.0.0.1", tunnel, "10.0.0.2", ""),
            probe("192.0.2.1", "2001:db8::1", tunnel, "2001:db8::2", "10.0.0.2"),
            probe("2001:db8::a", "10.0.0.1", tunnel, "10.0.0.2", "2001:db8::2"),
        ] {
            good.check().expect("possible");
        }
        for (bad, reason) in [
            (probe("192.0.2.1", "10.0.0.1", tunnel, "", ""), "source is not known"),
            (
                probe("192.0.2.1", "10.0.0.1", tunnel, "2001:db8::2", ""),
                "of another address family",
            ),
            (
                probe("192.0.2.1", "2001:db8::1", tunnel, "2001:db8::2", ""),
                "an IPv4 address of this",
            ),
            (probe("192.0.2.1", "2001:db8::1", direct, "", "10.0.0.2"), "both of one"),
            (probe("192.0.2.1", "10.0.0.1", direct, "", "2001:db8::2"), "not of the VIP's"),
        ] {
            let error = bad.check().expect_err("impossible").to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

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
