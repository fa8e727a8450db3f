//! For the fuzz targets in `tests/src/fuzz`: answers of backends and agents, without sockets.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{AgentReport, AgentTarget, agent::AgentCell, failure::Failure, probe};
use crate::policy::config::model::{DnsProbe, GrpcProbe, HttpProbe};

fn reason<T>(result: Result<T, Failure>) -> Result<T, String> {
    result.map_err(|failure| match failure {
        Failure::Backend(reason) | Failure::Host(reason) => reason,
    })
}

/// An agent's report after these answers.
pub fn agent<'a>(target: &AgentTarget, answers: impl Iterator<Item = &'a str>) -> AgentReport {
    let cell = AgentCell::new(Arc::new(target.clone()));
    for answer in answers {
        cell.record(Ok(answer.to_owned()));
    }
    cell.report()
}

/// The result of a DNS check whose question `id` is answered by this datagram; `None` if it does
/// not answer that.
///
/// # Errors
///
/// Why the check fails.
pub fn dns(probe: &DnsProbe, id: u16, datagram: &[u8]) -> Option<Result<(), String>> {
    match reason(probe::dns::Question::new(probe)) {
        Ok(question) => question.result_of(id, datagram).map(reason),
        Err(reason) => Some(Err(reason)),
    }
}

/// The result of an HTTP check whose connection is `stream`.
///
/// # Errors
///
/// Why the check fails.
pub async fn http<S>(probe: &HttpProbe, stream: S) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let check = reason(probe::http::HttpCheck::new(probe, false))?;
    reason(check.check_over(stream).await)
}

/// The result of a gRPC check whose connection is `stream`.
///
/// # Errors
///
/// Why the check fails.
pub async fn grpc<S>(probe: &GrpcProbe, stream: S) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    reason(probe::grpc::Call::new(probe).check_over("192.0.2.1:50051", stream).await)
}

/// Whether a gRPC health report says that the service is served; `None` if it is none.
pub fn grpc_status(message: &[u8]) -> Option<u64> {
    probe::grpc::serving_status(message)
}

/// Whether a packet of a raw ICMP socket is about an echo request.
pub fn is_about_an_echo(v6: bool, packet: &[u8]) -> bool {
    let message = if v6 { Some(packet) } else { probe::echo_packet::without_ipv4_header(packet) };
    message.and_then(|message| probe::echo_packet::parse(v6, message)).is_some()
}
