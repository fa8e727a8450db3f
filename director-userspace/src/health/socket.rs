//! Sockets of probes: not inherited by programs, marked, never blocking.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;

use super::failure::Failure;

/// Marks the packets of `socket`.
pub(super) fn mark(socket: &impl AsFd, mark: Option<u32>) -> Result<(), Failure> {
    let Some(mark) = mark else { return Ok(()) };
    setsockopt(socket, sockopt::Mark, &mark).map_err(|errno| {
        Failure::host(format!("not probed: packets cannot be marked: {}", errno.desc()))
    })
}

/// A TCP socket for `to`.
///
/// It is closed by a reset (linger 0). A probe has got what it wanted by then, or given up; an
/// orderly close from this side would leave a TIME_WAIT entry for a minute: 120,000 of them with
/// 2,000 backends asked every second. Where the backend ends the conversation, as HTTP's `Connection:
/// close` asks for, the probe waits a little for that, so that the backend sees an orderly end too.
fn tcp_socket(to: SocketAddr, marked: Option<u32>) -> Result<TcpSocket, Failure> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    mark(&socket, marked)?;
    socket.set_zero_linger()?;
    Ok(socket)
}

/// Connects, and takes it back before the backend's program has been told.
///
/// The acknowledgement that would complete the handshake is delayed (TCP_QUICKACK off), and the reset
/// of the close overtakes it: the backend's kernel has answered SYN with SYN-ACK, so somebody
/// listens and has room in the queue, but `accept` never returns this connection. No program is
/// woken or logs a connection that said nothing, and neither side keeps a TIME_WAIT entry.
pub(super) async fn knock(to: SocketAddr, mark: Option<u32>) -> Result<(), Failure> {
    let socket = tcp_socket(to, mark)?;
    delay_acknowledgement(&socket);
    socket.connect(to).await?;
    Ok(())
}

/// Where it does not work the backend accepts a connection that ends at once, which is no harm.
fn delay_acknowledgement(socket: &TcpSocket) {
    let off: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the option's value is an int that lives through the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const off).cast(),
            size_of_val(&off) as libc::socklen_t,
        )
    };
}
