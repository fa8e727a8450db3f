//! Servers that reply with their own name and the received data, over TCP and UDP.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use director_userspace::{kernel::net::NetNs, setup::lab::Node};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// Bytes that a client sends over TCP before it waits for the answer.
pub(super) const BLOCK: usize = 2048;
/// Bytes of a name in an answer, filled up with spaces.
pub(super) const NAME: usize = 8;
/// Buffer size of datagram sockets, bytes: no datagram must be lost to a full buffer.
const BUFFER: usize = 8 << 20;

/// The servers of one backend. They stop when this is dropped.
pub struct Echo {
    stop: Option<oneshot::Sender<()>>,
    worker: Option<JoinHandle<()>>,
}

impl Echo {
    /// Serves TCP and UDP at these addresses of a node; ready on return.
    ///
    /// # Panics
    /// If the node cannot be entered, or an address does not exist.
    pub fn start(node: &Node, addresses: &[SocketAddr]) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let name = format!("{:NAME$}", node.name());
        let addresses = addresses.to_vec();
        let worker = in_namespace_of(node, async move {
            for address in addresses {
                let listener = TcpListener::bind(address).await.expect("a free port");
                tokio::spawn(serve_tcp(listener, name.clone()));
                tokio::spawn(serve_udp(datagrams(address).expect("a socket"), name.clone()));
            }
            ready.send(()).expect("waited for");
            // Returns also if the sender is gone.
            let _ = stopped.await;
        });
        is_ready.recv().expect("serves");
        Self { stop: Some(stop), worker: Some(worker) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// Runs a future on a new thread in a node's network namespace.
pub(super) fn in_namespace_of<T: Send + 'static>(
    node: &Node,
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let path = format!("/run/netns/{}", node.netns().label());
    let netns = NetNs::open(&path).expect("is there");
    thread::spawn(move || {
        netns.enter().expect("enters");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work)
    })
}

/// A datagram socket with a large buffer.
pub(super) fn datagrams(address: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket)
}

async fn serve_tcp(listener: TcpListener, name: String) {
    // Ends with the runtime.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, name.clone()));
    }
}

/// Echoes block by block until the client closes.
async fn answer(mut stream: TcpStream, name: String) -> io::Result<()> {
    let mut block = vec![0; NAME + BLOCK];
    block[..NAME].copy_from_slice(name.as_bytes());
    loop {
        stream.read_exact(&mut block[NAME..]).await?;
        stream.write_all(&block).await?;
    }
}

async fn serve_udp(socket: tokio::net::UdpSocket, name: String) {
    let mut datagram = vec![0; 2048];
    datagram[..NAME].copy_from_slice(name.as_bytes());
    loop {
        // An error concerns an answer to a client that has already closed its socket.
        if let Ok((length, from)) = socket.recv_from(&mut datagram[NAME..]).await {
            let _ = socket.send_to(&datagram[..NAME + length], from).await;
        }
    }
}
