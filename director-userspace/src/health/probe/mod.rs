//! A single probe, from its start to its result.

pub(super) mod dns;
mod echo;
pub(super) mod echo_packet;
pub(super) mod exec;
mod expression;
pub(super) mod grpc;
pub(super) mod http;
mod tls;
mod udp;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    failure::{Failure, shown},
    socket,
    streak::Outcome,
};
use crate::policy::config::model::{HealthCheck, Probe};

/// State shared by all probes.
#[derive(Default)]
pub(super) struct Common {
    pub(super) tls: tls::Tls,
    echo: echo::EchoSockets,
}

/// A check, prepared once for all its targets.
pub(super) struct Prepared {
    timeout: Duration,
    kind: Kind,
}

enum Kind {
    Tcp,
    Http(http::HttpCheck),
    Dns(dns::Question),
    Udp(udp::Datagram),
    Icmp,
    Exec(exec::Program),
    Grpc(grpc::Call),
    /// An invalid check, which a validated configuration never has.
    Invalid(Failure),
}

/// The destination of a probe, and the mark of its packets.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) mark: Option<u32>,
}

impl Destination {
    pub(super) fn socket(&self) -> Result<SocketAddr, Failure> {
        let port = self.port.ok_or_else(|| Failure::host("not probed: the target has no port"))?;
        Ok(SocketAddr::new(self.address, port))
    }
}

impl Prepared {
    pub(super) fn new(check: &HealthCheck) -> Self {
        let kind = match &check.probe {
            Probe::Tcp => Ok(Kind::Tcp),
            Probe::Http(probe) => http::HttpCheck::new(probe, false).map(Kind::Http),
            Probe::Https(probe) => http::HttpCheck::new(probe, true).map(Kind::Http),
            Probe::Dns(probe) => dns::Question::new(probe).map(Kind::Dns),
            Probe::Udp(probe) => Ok(Kind::Udp(udp::Datagram::new(probe))),
            Probe::Icmp => Ok(Kind::Icmp),
            Probe::Exec(probe) => Ok(Kind::Exec(exec::Program::new(probe))),
            Probe::Grpc(probe) => Ok(Kind::Grpc(grpc::Call::new(probe))),
        };
        Self { timeout: check.timeout, kind: kind.unwrap_or_else(Kind::Invalid) }
    }

    /// Probes once. Ends at the timeout at the latest.
    pub(super) async fn probe(&self, to: Destination, common: &Arc<Common>) -> Outcome {
        let start = Instant::now();
        let took = |()| Some(start.elapsed());
        // A program check applies the timeout itself, and kills the program.
        if let Kind::Exec(program) = &self.kind {
            return Box::pin(program.check(to, self.timeout)).await.map(|_| took(()));
        }
        within(self.timeout, async |stage| match &self.kind {
            Kind::Tcp => {
                stage.enter(Stage::CONNECT);
                socket::half_open(to.socket()?, to.mark).await.map(took)
            }
            // Large futures are boxed, so that the others stay small.
            Kind::Http(http) => Box::pin(http.check(to, common, stage)).await.map(took),
            Kind::Grpc(call) => Box::pin(call.check(to, stage)).await.map(took),
            Kind::Dns(question) => question.query(to).await.map(took),
            Kind::Udp(datagram) => datagram.send(to, start + self.timeout).await,
            Kind::Icmp => common.echo.ping(to.address, to.mark).await.map(took),
            Kind::Exec(_) => unreachable!("handled above"),
            Kind::Invalid(failure) => Err(failure.clone()),
        })
        .await
    }
}

/// The stage of a probe, for the reason of a timeout.
pub(super) struct Stage(AtomicU8);

impl Stage {
    pub(super) const ANSWER: u8 = 0;
    pub(super) const CONNECT: u8 = 1;
    pub(super) const HANDSHAKE: u8 = 2;
    pub(super) const BODY: u8 = 3;

    pub(super) fn enter(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }

    fn missing(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            Self::CONNECT => "no connection",
            Self::HANDSHAKE => "no TLS handshake",
            Self::BODY => "no complete body",
            _ => "no answer",
        }
    }
}

/// Runs `probe` for `limit` at most.
pub(super) async fn within<T>(
    limit: Duration,
    probe: impl AsyncFnOnce(&Stage) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let stage = Stage(AtomicU8::new(Stage::ANSWER));
    match timeout(limit, probe(&stage)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::backend(format!("{} within {}", stage.missing(), shown(limit)))),
    }
}
