//! Sockets of probes: close-on-exec, marked, non-blocking.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream, UdpSocket},
};

use super::failure::Failure;
use crate::kernel::path_probe;

/// Most bytes that a probe reads from a stream: more than the headers, the body and the
/// certificates that any probe evaluates.
pub(super) const MAX_RECEIVED: usize = 256 << 10;

/// Marks the packets of `socket`.
fn mark(socket: &impl AsFd, mark: Option<u32>) -> Result<(), Failure> {
    let Some(mark) = mark else { return Ok(()) };
    // Also makes sure that a full segment fits the tunnel.
    path_probe::mark(socket, mark)
        .map_err(|error| Failure::host(format!("not probed: packets cannot be marked: {error}")))
}

/// A TCP socket for `to`.
///
/// It is closed by a reset (linger 0). The probe has its result by then; an orderly close from this
/// side would leave a TIME_WAIT entry for a minute: 120,000 of them with 2,000 backends probed
/// every second. After an exchange of data, the probe first waits briefly for an orderly end.
fn tcp_socket(to: SocketAddr, marked: Option<u32>) -> Result<TcpSocket, Failure> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    mark(&socket, marked)?;
    socket.set_zero_linger()?;
    Ok(socket)
}

/// Connects, to exchange data.
pub(super) async fn connect(to: SocketAddr, mark: Option<u32>) -> Result<Stream, Failure> {
    let stream = tcp_socket(to, mark)?.connect(to).await?;
    // Requests are written whole.
    stream.set_nodelay(true)?;
    Ok(Stream { inner: stream, left: MAX_RECEIVED })
}

/// Connects, and resets the connection before `accept` returns it (half-open check).
///
/// The acknowledgement that would complete the handshake is delayed (TCP_QUICKACK off), and the
/// reset of the close overtakes it: the backend's kernel has answered SYN with SYN-ACK, so a
/// program listens and its queue has room, but `accept` never returns this connection. No program
/// is woken or logs a connection without data, and neither side keeps a TIME_WAIT entry.
pub(super) async fn half_open(to: SocketAddr, mark: Option<u32>) -> Result<(), Failure> {
    let socket = tcp_socket(to, mark)?;
    // If this fails, the backend accepts a connection that ends at once, which is harmless.
    let _ = set_option(&socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, &0);
    socket.connect(to).await?;
    Ok(())
}

/// A UDP socket that receives datagrams from `to` only, and every ICMP error about its own
/// datagrams.
pub(super) async fn udp(to: SocketAddr, marked: Option<u32>) -> Result<UdpSocket, Failure> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    mark(&socket, marked)?;
    // Without it the kernel reports only "port unreachable", not "host unreachable" or "filtered".
    let reported = match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    };
    reported.map_err(io::Error::from)?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Sets an option that nix has no name for.
pub(super) fn set_option<T: Copy>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the descriptor is open; the value is valid during the call, and its size is passed.
    let result = unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, size_of::<T>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A connection from which at most [`MAX_RECEIVED`] bytes are read.
pub(super) struct Stream {
    inner: TcpStream,
    left: usize,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            let error = format!("sent more than {} KiB", MAX_RECEIVED >> 10);
            return Poll::Ready(Err(io::Error::other(error)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.left = self.left.saturating_sub(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
