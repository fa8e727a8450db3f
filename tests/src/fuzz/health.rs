//! What backends and agents answer. A reason is one line of bounded length that no terminal obeys.

use std::{net::IpAddr, sync::LazyLock};

use director_userspace::{
    health::{AgentMode, AgentTarget, fuzz},
    policy::config::{
        self,
        model::{DnsProbe, GrpcProbe, HttpProbe, Probe},
    },
};

use super::{Outcome, stream};

const CONFIG: &str = r#"
services:
  - name: web
    address: 192.0.2.1
    protocol: tcp
    port: 80
    forward: tunnel
    health:
      - {type: http, path: /health, status: [200-299, 404], body: "(?i)ok|well"}
      - {type: http, path: /health, version: 2}
      - {type: dns, name: www.example.com, record: A}
      - {type: dns, name: ., record: SOA, answer: false}
      - {type: grpc, service: director}
    agent: {type: agent, port: 8080, min: 10%, smoothing: 50%}
    backends: [{address: 10.0.0.1}]
"#;

/// The configuration's checks.
struct Checks {
    http: Vec<HttpProbe>,
    dns: Vec<DnsProbe>,
    grpc: Vec<GrpcProbe>,
    agent: AgentTarget,
}

static CHECKS: LazyLock<Checks> = LazyLock::new(|| {
    let loaded = config::parse("checks", CONFIG);
    let service = loaded.unwrap_or_else(|errors| panic!("{errors}")).config.services.remove(0);
    let health = (*service.health).clone();
    let agent = health.agent.expect("one").into();
    let address = IpAddr::from([10, 0, 0, 1]);
    let agent = AgentTarget { agent, address, port: Some(8080) };
    let mut checks = Checks { http: Vec::new(), dns: Vec::new(), grpc: Vec::new(), agent };
    for check in health.checks {
        match check.probe {
            Probe::Http(probe) => checks.http.push(probe),
            Probe::Dns(probe) => checks.dns.push(probe),
            Probe::Grpc(probe) => checks.grpc.push(probe),
            other => panic!("{other:?}"),
        }
    }
    checks
});

/// Longest reason, characters: quoted text of 200 and some words around it.
const LONGEST: usize = 400;

#[track_caller]
fn check_shown(text: &str) {
    assert!(text.chars().count() <= LONGEST, "{} characters: {text:?}", text.chars().count());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn outcome(result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => 1,
        Err(reason) => {
            check_shown(&reason);
            2
        }
    }
}

/// The answers of an agent, one after another: zero bytes end one.
pub(super) fn agent(input: &[u8]) -> Outcome {
    let answers: Vec<_> =
        input.split(|byte| *byte == 0).map(|answer| String::from_utf8_lossy(answer)).collect();
    let report = fuzz::agent(&CHECKS.agent, answers.iter().map(AsRef::as_ref));
    check_shown(&report.text);
    report.failed.iter().for_each(|reason| check_shown(reason));
    assert!(report.share.is_none_or(|share| (10..=100).contains(&share)), "{report:?}");
    assert!(report.reported.is_none_or(|share| share <= 100), "{report:?}");
    usize::from(report.failed.is_some()) + 2 * usize::from(report.mode == AgentMode::Up)
}

/// A datagram that may answer a DNS question.
pub(super) fn dns(input: &[u8]) -> Outcome {
    let id = input.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    let results = CHECKS.dns.iter().map(|probe| fuzz::dns(probe, id, input).map_or(0, outcome));
    results.fold(0, |all, one| all * 3 + one)
}

/// A health report of gRPC, and the frames of an answer that has one.
pub(super) fn grpc(input: &[u8]) -> Outcome {
    let status = fuzz::grpc_status(input).map_or(0, |status| 1 + usize::from(status == 1));
    let sent = stream::Sent::new(input, 1 << 20);
    let result = stream::run(fuzz::grpc(&CHECKS.grpc[0], sent));
    status * 3 + outcome(result)
}

/// An answer over HTTP. The first byte chooses the version and how much is read at a time.
pub(super) fn http(input: &[u8]) -> Outcome {
    let Some((choice, sent)) = input.split_first() else { return 0 };
    let probe = &CHECKS.http[usize::from(choice & 1)];
    let sent = stream::Sent::new(sent, usize::from(choice >> 1) * 64);
    outcome(stream::run(fuzz::http(probe, sent)))
}

/// A packet of a raw ICMP socket.
pub(super) fn icmp(input: &[u8]) -> Outcome {
    let [v4, v6] = [false, true].map(|v6| usize::from(fuzz::is_about_an_echo(v6, input)));
    v4 + 2 * v6
}
