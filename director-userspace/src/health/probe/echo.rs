//! ICMP echo checks: one socket per family for all targets.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, recvfrom, socket},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};

use super::{
    super::{events::lock, failure::Failure, socket::set_option},
    echo_packet::{self, Message, REQUEST},
};

/// Larger than any evaluated message with its IP header.
const PACKET: usize = 2048;
/// Messages read in a row before the task yields.
const BURST: usize = 64;
/// The pause after a read error.
const PAUSE: Duration = Duration::from_millis(10);

/// The open sockets.
#[derive(Default)]
pub(super) struct EchoSockets {
    v4: Mutex<Option<Arc<EchoSocket>>>,
    v6: Mutex<Option<Arc<EchoSocket>>>,
}

impl EchoSockets {
    /// Sends an echo request to `address`, and waits for the reply without timeout.
    pub(super) async fn ping(&self, address: IpAddr, mark: Option<u32>) -> Result<(), Failure> {
        let socket = self.socket(address.is_ipv6())?;
        let (sequence, answer) = socket.expect(address)?;
        // Removes the waiter however this function ends.
        let _guard = WaiterGuard { socket: &socket, sequence: sequence.0 };
        let packet = echo_packet::request(socket.v6, socket.id, sequence.0, sequence.1);
        socket.send(&packet, address, mark).await?;
        answer.await.unwrap_or_else(|_| Err(Failure::host("not probed: the probe was ended")))
    }

    fn socket(&self, v6: bool) -> Result<Arc<EchoSocket>, Failure> {
        let mut open = lock(if v6 { &self.v6 } else { &self.v4 });
        if let Some(socket) = &*open {
            return Ok(socket.clone());
        }
        let socket = Arc::new(EchoSocket::open(v6)?);
        // The task ends with the runtime.
        tokio::spawn(socket.clone().read());
        *open = Some(socket.clone());
        Ok(socket)
    }
}

/// A socket, and the probes that wait for a reply on it.
struct EchoSocket {
    fd: AsyncFd<OwnedFd>,
    v6: bool,
    /// A raw socket receives all ICMP messages of the host; a ping socket only its own, with an
    /// identifier assigned by the kernel.
    raw: bool,
    id: u16,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u16,
    by_sequence: HashMap<u16, Waiter>,
}

struct Waiter {
    address: IpAddr,
    token: u64,
    answer: oneshot::Sender<Result<(), Failure>>,
}

struct WaiterGuard<'a> {
    socket: &'a EchoSocket,
    sequence: u16,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        lock(&self.socket.waiting).by_sequence.remove(&self.sequence);
    }
}

impl EchoSocket {
    fn open(v6: bool) -> Result<Self, Failure> {
        let (fd, raw) = match open_socket(v6, SockType::Raw) {
            Ok(fd) => (fd, true),
            Err(Errno::EPERM | Errno::EACCES) => match open_socket(v6, SockType::Datagram) {
                Ok(fd) => (fd, false),
                Err(Errno::EPERM | Errno::EACCES) => {
                    return Err(Failure::host(
                        "not probed: icmp needs CAP_NET_RAW, or this group in \
                         net.ipv4.ping_group_range",
                    ));
                }
                Err(errno) => return Err(io::Error::from(errno).into()),
            },
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        if raw {
            only_echo(&fd, v6)?;
        }
        // SAFETY: an `OwnedFd` names the same descriptor, open, as long as it lives.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)?;
        Ok(Self { fd, v6, raw, id: fastrand::u16(1..), waiting: Mutex::default() })
    }

    /// An unused sequence number, a random token, and the receiver of the answer.
    #[expect(clippy::type_complexity, reason = "read once, two lines from here")]
    fn expect(
        &self,
        address: IpAddr,
    ) -> Result<((u16, u64), oneshot::Receiver<Result<(), Failure>>), Failure> {
        let (answer, answered) = oneshot::channel();
        let token = fastrand::u64(..);
        let mut waiting = lock(&self.waiting);
        if waiting.by_sequence.len() > usize::from(u16::MAX) {
            return Err(Failure::host("not probed: 65,536 echo requests are outstanding"));
        }
        while waiting.by_sequence.contains_key(&waiting.next) {
            waiting.next = waiting.next.wrapping_add(1);
        }
        let sequence = waiting.next;
        waiting.next = sequence.wrapping_add(1);
        waiting.by_sequence.insert(sequence, Waiter { address, token, answer });
        Ok(((sequence, token), answered))
    }

    async fn send(
        &self,
        packet: &[u8; REQUEST],
        to: IpAddr,
        mark: Option<u32>,
    ) -> Result<(), Failure> {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        let sent = self.fd.async_io(Interest::WRITABLE, |fd| send_marked(fd, packet, &to, mark));
        let sent = sent.await;
        match &sent {
            Err(error) if mark.is_some() && error.raw_os_error() == Some(libc::EPERM) => {
                Err(Failure::host("not probed: packets cannot be marked without CAP_NET_ADMIN"))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(Failure::host("not probed: this host cannot send to that address"))
            }
            _ => Ok(sent?),
        }
    }

    /// Delivers messages to their waiters, for ever.
    async fn read(self: Arc<Self>) {
        let mut buffer = vec![0; PACKET];
        loop {
            let Ok(mut ready) = self.fd.readable().await else { return };
            for _ in 0..BURST {
                let read = ready.try_io(|fd| {
                    recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer)
                        .map_err(io::Error::from)
                });
                match read {
                    Ok(Ok((length, Some(from)))) => self.deliver(&buffer[..length], &from),
                    Ok(Ok(_)) => {}
                    // An error of another request, or the interface was removed.
                    Ok(Err(_)) => {
                        tokio::time::sleep(PAUSE).await;
                        break;
                    }
                    Err(_would_block) => break,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn deliver(&self, packet: &[u8], from: &SockaddrStorage) {
        let from: IpAddr = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
            (Some(v4), _) => v4.ip().into(),
            (_, Some(v6)) => v6.ip().into(),
            _ => return,
        };
        let packet = match self.raw && !self.v6 {
            true => echo_packet::without_ipv4_header(packet),
            false => Some(packet),
        };
        let Some(message) = packet.and_then(|packet| echo_packet::parse(self.v6, packet)) else {
            return;
        };
        let (id, sequence) = match message {
            Message::Reply { id, sequence, .. } | Message::Error { id, sequence, .. } => {
                (id, sequence)
            }
        };
        if self.raw && id != self.id {
            return;
        }
        let mut waiting = lock(&self.waiting);
        let Some(waiter) = waiting.by_sequence.get(&sequence) else { return };
        let result = match message {
            Message::Reply { token, .. } if token == waiter.token && from == waiter.address => {
                Ok(())
            }
            Message::Error { about, what, .. } if about == waiter.address => {
                Err(Failure::backend(format!("{what} (reported by {from})")))
            }
            // Late, or forged.
            _ => return,
        };
        if let Some(waiter) = waiting.by_sequence.remove(&sequence) {
            let _ = waiter.answer.send(result);
        }
    }
}

fn open_socket(v6: bool, kind: SockType) -> Result<OwnedFd, Errno> {
    let (family, protocol) = match v6 {
        false => (AddressFamily::Inet, nix::sys::socket::SockProtocol::Icmp),
        true => (AddressFamily::Inet6, nix::sys::socket::SockProtocol::IcmpV6),
    };
    socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)
}

/// Filters a raw socket: only replies and errors pass.
fn only_echo(fd: &OwnedFd, v6: bool) -> Result<(), Failure> {
    /// linux/icmp.h.
    const ICMP_FILTER: libc::c_int = 1;
    /// linux/icmpv6.h.
    const ICMPV6_FILTER: libc::c_int = 1;
    // A set bit blocks a type.
    if v6 {
        let mut blocked = [u32::MAX; 8];
        for kind in [1u8, 3, 129] {
            blocked[usize::from(kind >> 5)] &= !(1 << (kind & 31));
        }
        return Ok(set_option(fd, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &blocked)?);
    }
    let wanted = 1u32 << 0 | 1 << 3 | 1 << 11;
    Ok(set_option(fd, libc::SOL_RAW, ICMP_FILTER, &!wanted)?)
}

/// A buffer for one control message of four bytes, aligned for a `cmsghdr`.
#[repr(C, align(8))]
struct Control([u8; 24]);

/// sendmsg(2) with a mark for this packet only.
fn send_marked(
    fd: &OwnedFd,
    packet: &[u8; REQUEST],
    to: &SockaddrStorage,
    mark: Option<u32>,
) -> io::Result<()> {
    let mut part =
        libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    let mut control = Control([0; 24]);
    // SAFETY: a `msghdr` may be all zeros.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = nix::sys::socket::SockaddrLike::as_ptr(to).cast_mut().cast();
    message.msg_namelen = nix::sys::socket::SockaddrLike::len(to);
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(mark) = mark {
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: computes a length; `control` has CMSG_SPACE(4) = 24 bytes on 64-bit Linux, of
        // which no more are used, and is aligned for a `cmsghdr`.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size_of::<u32>() as u32) as _;
            debug_assert!(message.msg_controllen as usize <= control.0.len());
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SO_MARK;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<u32>() as u32) as _;
            libc::CMSG_DATA(header).cast::<u32>().write_unaligned(mark);
        }
    }
    // SAFETY: every pointer in the message is to data that is valid during the call, with its
    // length; the kernel does not write to it.
    let sent =
        unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, MsgFlags::MSG_NOSIGNAL.bits()) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
