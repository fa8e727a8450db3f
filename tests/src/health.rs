//! What the tests of the health engine share: checks, and single events from the engine.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use director_userspace::{
    health::{Checker, Event, Events, Health, Target},
    policy::{
        config::model::{HealthCheck, HttpProbe, HttpVersion, Percent, Probe, Start, Via},
        health_policy::HealthState,
    },
};
use tokio::runtime::{Builder, Runtime};

/// Where the servers of the tests listen.
pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// No probe takes longer.
pub const TIMEOUT: Duration = Duration::from_millis(500);

/// A runtime for servers and for waiting.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads")
}

/// A check that decides after one probe, and probes again only after an hour.
pub fn check(probe: Probe) -> HealthCheck {
    HealthCheck {
        probe,
        interval: Duration::from_secs(3600),
        timeout: TIMEOUT,
        rise: 1,
        fall: 1,
        jitter: Percent(0),
        start: Start::Up,
        port: None,
        via: Via::Direct,
    }
}

/// `GET /` over HTTP/1.1, expecting 200 to 299, with any certificate.
pub fn get() -> HttpProbe {
    HttpProbe {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        headers: Vec::new(),
        status: vec![200..=299],
        body: None,
        version: HttpVersion::Http1,
        sni: None,
        verify: false,
    }
}

/// The target of a check.
pub fn target(check: HealthCheck, to: SocketAddr) -> Target {
    Target { check: Arc::new(check), address: to.ip(), port: Some(to.port()), mark: None }
}

/// The next event of a check, which comes within 5 s.
pub async fn next(events: &mut Events) -> (Arc<Target>, Health) {
    let event = tokio::time::timeout(Duration::from_secs(5), events.recv()).await;
    match event.expect("an event within 5 s").expect("the checker runs") {
        Event::Check { target, health } => (target, health),
        Event::Agent { target, .. } => panic!("an agent event of {target}"),
    }
}

/// Probes once, with a separate checker.
pub async fn once(target: &Target) -> Health {
    let began = Instant::now();
    let (mut checker, mut events) = Checker::new().expect("threads");
    checker.set([target.clone()], [], &|_| None);
    let (_, health) = next(&mut events).await;
    let took = began.elapsed();
    assert!(took < target.check.timeout + Duration::from_millis(400), "{target} took {took:?}");
    // Dropping it may wait for its threads.
    tokio::task::spawn_blocking(move || drop(checker)).await.expect("no panic");
    health
}

/// Probes once and returns why the probe failed; empty if it succeeded.
#[track_caller]
pub fn reason(runtime: &Runtime, probe: Probe, to: SocketAddr) -> String {
    let health = runtime.block_on(once(&target(check(probe), to)));
    let state = if health.reason.is_empty() { HealthState::Up } else { HealthState::Down };
    assert_eq!(health.state, state, "{health:?}");
    assert_eq!((health.probes, health.not_made), (1, 0), "{health:?}");
    health.reason
}
