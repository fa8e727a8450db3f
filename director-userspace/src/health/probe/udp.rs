//! Checks by a UDP datagram, with or without an expected answer.

use tokio::time::{Instant, timeout_at};

use super::{
    super::{
        failure::{Failure, one_line},
        socket,
        streak::Outcome,
    },
    Destination,
    expression::Expression,
};
use crate::policy::config::model::UdpProbe;

/// Larger than any datagram.
const DATAGRAM: usize = 64 << 10;

pub(super) struct Datagram {
    bytes: Vec<u8>,
    expect: Option<Expression>,
}

impl Datagram {
    pub(super) fn new(probe: &UdpProbe) -> Self {
        let expect = probe.expect.as_deref().map(Expression::new);
        Self { bytes: probe.send.clone().into_bytes(), expect }
    }

    /// Sends the datagram. Without `expect` it waits until the deadline for an error or an answer.
    pub(super) async fn send(&self, to: Destination, deadline: Instant) -> Outcome {
        let start = Instant::now();
        let socket = socket::udp(to.socket()?, to.mark).await?;
        socket.send(&self.bytes).await?;
        let mut buffer = vec![0; DATAGRAM];
        let answer = socket.recv(&mut buffer);
        let Some(expect) = &self.expect else {
            return match timeout_at(deadline, answer).await {
                Ok(answer) => answer.map(|_| Some(start.elapsed())).map_err(refused),
                Err(_) => Ok(None),
            };
        };
        let length = answer.await.map_err(refused)?;
        if expect.is_match(&buffer[..length])? {
            return Ok(Some(start.elapsed()));
        }
        let text = one_line(&String::from_utf8_lossy(&buffer[..length.min(64)]));
        Err(Failure::backend(format!("answered {text:?} ({length} bytes), which does not match")))
    }
}

/// ECONNREFUSED on a UDP socket is an ICMP "port unreachable".
pub(super) fn refused(error: std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Failure::backend("port unreachable: no listener"),
        _ => error.into(),
    }
}
