//! Frames captured on an interface.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use director_userspace::kernel::net::NetNs;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt::RcvBufForce,
    },
};

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;
const BUFFER: usize = 8 << 20;

/// A packet socket on one interface, with the frames received since it was opened.
pub struct Capture {
    socket: OwnedFd,
    interface: usize,
}

impl Capture {
    /// Starts capturing what the interface of this index receives, for any destination.
    ///
    /// # Panics
    /// If no socket can be opened.
    pub fn start(netns: &NetNs, interface: u32) -> Self {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let all = SockProtocol::EthAll;
            Ok::<_, director_userspace::kernel::net::NetError>(socket(
                AddressFamily::Packet,
                SockType::Raw,
                flags,
                all,
            ))
        };
        let socket = netns.run(open).expect("enters").expect("a packet socket");
        setsockopt(&socket, RcvBufForce, &BUFFER).expect("a large buffer");
        Self { socket, interface: interface as usize }
    }

    /// The frames received so far that `wanted` accepts. Waits until `at_least` have arrived, but
    /// not longer than `timeout`.
    ///
    /// # Panics
    /// If the socket fails.
    pub fn frames(
        &self,
        at_least: usize,
        timeout: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Vec<Vec<u8>> {
        let began = Instant::now();
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let ours = from.is_some_and(|from| {
                        from.ifindex() == self.interface && from.pkttype() != OUTGOING
                    });
                    if ours && wanted(&buffer[..length]) {
                        frames.push(buffer[..length].to_vec());
                    }
                }
                Err(Errno::EAGAIN) => {
                    if frames.len() >= at_least || began.elapsed() > timeout {
                        return frames;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("packet socket: {error}"),
            }
        }
    }
}
