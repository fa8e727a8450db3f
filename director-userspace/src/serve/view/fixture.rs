//! Synthetic snapshots for tests.

use std::{net::IpAddr, sync::Arc, time::Instant};

use director_common::{backend::BackendRef, verdict::Verdict};

use super::{
    BackendView, InterfaceView, ServiceView, Snapshot, Traffic, VerdictView,
    status::{
        BackendHealth, BackendStatus, CheckStatus, Quorum, ServiceState, ServiceStatus, Status,
    },
};
use crate::kernel::wall_clock;

fn backend(slot: u32, address: &str, packets: u64) -> BackendView {
    BackendView {
        reference: BackendRef::new(slot, 0),
        address: address.parse().expect("an address"),
        weight: 1,
        share: 33.3,
        state: "active",
        drain_left_s: None,
        forward: "tunnel",
        next_hop: Some("02:00:00:00:00:02".into()),
        traffic: Traffic { packets, bytes: packets * 100, flows: packets / 10 },
        established: packets / 20,
        rate: None,
        is_sorry: false,
        status: None,
    }
}

fn service(name: &str, frontend: &str, backends: Vec<BackendView>) -> ServiceView {
    let sum = |of: fn(&BackendView) -> u64| backends.iter().map(of).sum();
    ServiceView {
        name: name.into(),
        frontend: frontend.into(),
        scheduler: "maglev",
        traffic: Traffic {
            packets: sum(|b| b.traffic.packets),
            bytes: sum(|b| b.traffic.bytes),
            flows: sum(|b| b.traffic.flows),
        },
        dropped: 3,
        untracked: 0,
        established: sum(|b| b.established),
        rate: None,
        dropped_rate: None,
        status: None,
        backends,
    }
}

/// Two services: `web` with three backends of `packets` each, `dns` with one of a tenth.
pub fn snapshot(packets: u64) -> Snapshot {
    let web = (1..=3).map(|n| backend(n, &format!("10.0.0.{}", 10 + n), packets)).collect();
    let dns = vec![backend(4, "2001:db8:1::11", packets / 10)];
    let services = vec![
        service("dns", "udp [2001:db8::53]:53", dns),
        service("web", "tcp 192.0.2.10:80", web),
    ];
    let verdicts = Verdict::all().map(|verdict| {
        let packets = match verdict {
            Verdict::Tx => packets * 31 / 10,
            Verdict::Drop(_) => u64::from(verdict.code()) - 30,
            _ => 5,
        };
        VerdictView { verdict, packets, rate: None }
    });
    Snapshot {
        taken: Instant::now(),
        at_ms: wall_clock::now() * 1000,
        instance: "default".into(),
        heartbeat_age_ms: Some(200),
        interfaces: vec![InterfaceView { name: "eth0".into(), index: 2, mode: "native" }],
        verdicts: verdicts.collect(),
        flow_capacity: 1 << 20,
        established: services.iter().map(|service| service.established).sum(),
        counted: 1.0,
        services,
        status: None,
    }
}

/// Status of [`snapshot`]'s services: all up, except the backends of `web` in `down`.
pub fn status(down: &[&str]) -> Arc<Status> {
    let now = wall_clock::now();
    let of = |address: &str| {
        let is_down = down.contains(&address);
        let reason = if is_down { "connection refused" } else { "" };
        BackendStatus {
            address: address.parse::<IpAddr>().expect("an address"),
            configured_weight: 1,
            weight: u16::from(!is_down),
            state: if is_down { BackendHealth::Down } else { BackendHealth::Up },
            since: now - if is_down { 12 } else { 7200 },
            reason: reason.into(),
            override_: None,
            agent: None,
            checks: vec![CheckStatus {
                kind: "tcp".into(),
                via: "direct".into(),
                up: Some(!is_down),
                reason: if is_down { reason } else { "connected" }.into(),
                latency_ms: (!is_down).then_some(0.4),
                since: now - 12,
            }],
        }
    };
    let service = |name: &str, frontend: &str, addresses: &[&str]| {
        let backends: Vec<_> = addresses.iter().map(|address| of(address)).collect();
        let up = backends.iter().filter(|b| b.state == BackendHealth::Up).count() as u32;
        ServiceStatus {
            name: name.into(),
            frontend: frontend.into(),
            state: match up as usize {
                0 => ServiceState::Down,
                up if up == backends.len() => ServiceState::Up,
                _ => ServiceState::Degraded,
            },
            since: now - 12,
            quorum: Quorum { needed: 1, up, held: up > 0 },
            sorry: None,
            backends,
        }
    };
    Arc::new(Status {
        instance: "default".into(),
        pid: 4711,
        version: env!("CARGO_PKG_VERSION").into(),
        started: now - 7200,
        config_path: "/etc/director/director.yaml".into(),
        revision: 7,
        applied: now - 3600,
        refused: None,
        warnings: Vec::new(),
        services: vec![
            service("web", "tcp 192.0.2.10:80", &["10.0.0.11", "10.0.0.12", "10.0.0.13"]),
            service("dns", "udp [2001:db8::53]:53", &["2001:db8:1::11"]),
        ],
    })
}
