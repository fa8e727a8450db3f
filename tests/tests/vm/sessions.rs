//! TCP sessions that carry data in both directions and compare every byte.

use std::{
    io::{Error, Read, Result, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use director_userspace::setup::lab::Node;

/// How long a step of a session may take. A lost segment is retransmitted within a second: that is
/// no failure here, but it shows in the counters.
const TIMEOUT: Duration = Duration::from_secs(15);
/// What a session carries, in bytes: to the server, and back.
pub(crate) const SESSIONS: [(usize, usize); 8] = [
    (1, 1),
    (100, 100),
    (1_440, 1_440),
    (5, 3_000),
    (3_000, 5),
    (200_000, 10),
    (10, 200_000),
    (150_000, 150_000),
];

/// Packets that a client sends in all of [`SESSIONS`] at least: every one has a handshake, an end,
/// and as many full segments as its data fills.
pub(crate) fn least_packets() -> u64 {
    const SEGMENT: usize = 1_460;
    SESSIONS.iter().map(|(up, _)| 3 + (up / SEGMENT) as u64).sum()
}

/// Serves sessions on these ports of a node, on all its addresses, as long as the process runs.
pub(crate) fn serve(node: &Node, ports: &[u16]) {
    for &port in ports {
        let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        let listener = node.run(bind).expect("enters").expect("a free port");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream));
            }
        });
    }
}

/// Runs all of [`SESSIONS`], one after the other, from a node.
pub(crate) fn run(node: &Node, server: SocketAddr) {
    for (up, down) in SESSIONS {
        let session = node.run(|| run_session(server, up, down)).expect("enters");
        session.unwrap_or_else(|error| panic!("{server}, {up} up, {down} down: {error}"));
    }
}

fn run_session(server: SocketAddr, up: usize, down: usize) -> Result<()> {
    let mut stream = connected(TcpStream::connect_timeout(&server, TIMEOUT)?)?;
    stream.write_all(&(up as u64).to_be_bytes())?;
    stream.write_all(&(down as u64).to_be_bytes())?;
    stream.write_all(&pattern(up))?;
    stream.shutdown(Shutdown::Write)?;
    expect(&mut stream, down)
}

/// Answers only if all announced data arrived intact; otherwise the client receives an early end.
fn answer(stream: TcpStream) -> Result<()> {
    let mut stream = connected(stream)?;
    let mut length = || {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).map(|()| u64::from_be_bytes(bytes) as usize)
    };
    let (up, down) = (length()?, length()?);
    expect(&mut stream, up)?;
    stream.write_all(&pattern(down))
}

fn connected(stream: TcpStream) -> Result<TcpStream> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Reads up to the end, which must come after `length` bytes of the pattern.
fn expect(stream: &mut TcpStream, length: usize) -> Result<()> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    if received == pattern(length) {
        return Ok(());
    }
    let wrong = received.iter().zip(pattern(length)).take_while(|(a, b)| **a == *b).count();
    let got = received.len();
    Err(Error::other(format!("{got} bytes instead of {length}, correct up to byte {wrong}")))
}

/// Bytes that repeat after no power of two, so that a segment in the wrong place shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}
