use std::{sync::Arc, time::Duration};

use super::*;
use crate::policy::{
    config::{
        self,
        model::{Availability, Health, Percent},
    },
    health_policy::{Drain, Load},
};

/// A service with these weights and health settings.
fn service(weights: &[u16], health: Health) -> Service {
    let backends: Vec<_> = (1..)
        .zip(weights)
        .map(|(last, weight)| format!("{{address: 10.0.0.{last}, weight: {weight}}}"))
        .collect();
    let yaml = format!(
        "services: [{{name: web, address: 192.0.2.1, protocol: tcp, port: 80, forward: tunnel, \
         backends: [{}]}}]",
        backends.join(", ")
    );
    let mut service = config::parse("test", &yaml).expect("valid").config.services.remove(0);
    service.health = Arc::new(health);
    service
}

fn sorry(service: &mut Service) {
    let address = "10.0.0.99".parse().expect("an address");
    service.sorry =
        Some(Backend { address, weight: 1, mac: None, availability: Availability::Available });
}

fn checked(state: HealthState) -> Facts {
    let reason = match state {
        HealthState::Up => "",
        HealthState::Down => "connection refused",
    };
    Facts { checked: Some(Checked { state, reason: reason.into() }), ..Facts::default() }
}

/// Evaluates with backends up (`u`), down (`d`) or unchecked (`-`), by their position in the file.
fn evaluated(service: &Service, memory: &mut Memory, ns: u64, states: &str) -> Evaluation {
    let states: Vec<char> = states.chars().collect();
    let position = |backend: &Backend| {
        service.backends.iter().position(|b| b.address == backend.address).expect("its own")
    };
    evaluate(service, memory, Now { ns, unix: ns }, |backend| match states[position(backend)] {
        'u' => checked(HealthState::Up),
        'd' => checked(HealthState::Down),
        _ => Facts::default(),
    })
}

/// Weights in effect, with `!` after those that are down.
fn weights(evaluation: &Evaluation) -> String {
    let one = |b: &Backend| {
        format!("{}{}", b.weight, if b.availability == Availability::Down { "!" } else { "" })
    };
    evaluation.service.backends.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn unchecked_backends_keep_the_files_weights() {
    let service = service(&[1, 0, 5], Health::default());
    let evaluation = evaluated(&service, &mut Memory::default(), 1, "---");
    assert_eq!(evaluation.service, service);
    assert_eq!((evaluation.state, evaluation.changes.len()), (ServiceState::Unchecked, 0));
    assert_eq!(evaluation.again_ns, None);
}

#[test]
fn a_backend_that_is_down_gets_no_flows_and_is_reported_once() {
    let service = service(&[1, 2, 3], Health::default());
    let mut memory = Memory::default();
    assert_eq!(evaluated(&service, &mut memory, 1, "uuu").changes, []);
    let evaluation = evaluated(&service, &mut memory, 2, "udu");
    assert_eq!(weights(&evaluation), "1 0! 3");
    assert_eq!(evaluation.state, ServiceState::Degraded);
    let address = service.backends[1].address;
    let reason = "connection refused".to_owned();
    let state = HealthState::Down;
    assert_eq!(evaluation.changes, [Change::Backend { address, state, reason }]);
    assert_eq!(evaluation.backends[1].since, 2);
    let again = evaluated(&service, &mut memory, 3, "udu");
    assert_eq!((again.changes.len(), again.backends[1].since), (0, 2));
    let back = evaluated(&service, &mut memory, 4, "uuu");
    assert_eq!(weights(&back), "1 2 3");
    let (state, reason) = (HealthState::Up, String::new());
    assert_eq!(back.changes, [Change::Backend { address, state, reason }]);
}

#[test]
fn on_down_keep_keeps_flows() {
    let health = Health { on_down: OnDown::Keep, ..Health::default() };
    let service = service(&[1, 2], health);
    assert_eq!(weights(&evaluated(&service, &mut Memory::default(), 1, "ud")), "1 0");
}

#[test]
fn quorum_is_lost_and_regained_with_hysteresis() {
    let health = Health { quorum: 4, hysteresis: 1, ..Health::default() };
    let mut service = service(&[1, 1, 1, 1, 1], health);
    sorry(&mut service);
    let mut memory = Memory::default();
    let mut outcome = |states: &str| {
        let evaluation = evaluated(&service, &mut memory, 1, states);
        let quorum: Vec<_> = evaluation
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Quorum { quorum, weight, needed } => Some((*quorum, *weight, *needed)),
                _ => None,
            })
            .collect();
        (weights(&evaluation), evaluation.state, quorum)
    };
    assert_eq!(outcome("uuuud"), ("1 1 1 1 0! 0".into(), ServiceState::Degraded, vec![]));
    assert_eq!(outcome("uuudd").1, ServiceState::Degraded, "3 is not below 4 - 1");
    // Those that are up keep their flows.
    assert_eq!(
        outcome("uuddd"),
        ("0 0 0! 0! 0! 1".into(), ServiceState::Sorry, vec![(QuorumState::Lost, 2, 4)])
    );
    assert_eq!(outcome("uuuud").1, ServiceState::Sorry, "4 is below 4 + 1");
    assert_eq!(
        outcome("uuuuu"),
        ("1 1 1 1 1 0".into(), ServiceState::Up, vec![(QuorumState::Held, 5, 4)])
    );
}

#[test]
fn a_service_without_backends_up_is_down() {
    let service = service(&[1, 1], Health::default());
    let evaluation = evaluated(&service, &mut Memory::default(), 1, "dd");
    assert_eq!((weights(&evaluation).as_str(), evaluation.state), ("0! 0!", ServiceState::Down));
}

#[test]
fn when_too_many_are_down_at_once_all_are_kept() {
    let health = Health { panic: Percent(50), ..Health::default() };
    // The last one has no weight anyway.
    let service = service(&[1, 1, 1, 1, 0], health);
    let mut memory = Memory::default();
    let half = evaluated(&service, &mut memory, 1, "dduuu");
    assert_eq!((weights(&half).as_str(), half.state), ("0! 0! 1 1 0", ServiceState::Degraded));
    let more = evaluated(&service, &mut memory, 2, "ddduu");
    assert_eq!((weights(&more).as_str(), more.state), ("1 1 1 1 0", ServiceState::Panic));
    assert!(more.changes.contains(&Change::Panic { panics: true, down: 3, of: 4 }));
    assert_eq!(more.backends[0].state, Some(HealthState::Down), "the check result is still shown");
    let fewer = evaluated(&service, &mut memory, 3, "uuduu");
    assert_eq!(weights(&fewer), "1 1 0! 1 0");
    assert!(fewer.changes.contains(&Change::Panic { panics: false, down: 1, of: 4 }));
}

#[test]
fn an_admin_drain_keeps_flows_until_its_deadline() {
    let service = service(&[1, 1], Health::default());
    let mut memory = Memory::default();
    let mut at = |ns| {
        evaluate(&service, &mut memory, Now { ns, unix: 0 }, |backend| {
            let drain = Some(Drain { since: 0, deadline_ns: Some(100) });
            let is_first = backend.address == service.backends[0].address;
            let admin_override = if is_first {
                Override { drain, ..Override::default() }
            } else {
                Override::default()
            };
            Facts { admin_override, ..Facts::default() }
        })
    };
    let before = at(10);
    assert_eq!((weights(&before).as_str(), before.again_ns), ("0 1", Some(100)));
    let after = at(100);
    assert_eq!((weights(&after).as_str(), after.again_ns), ("0! 1", None));
    assert!(after.backends[0].is_over);
}

#[test]
fn admin_weights_override_the_files() {
    let service = service(&[1, 1], Health::default());
    let evaluation = evaluate(&service, &mut Memory::default(), Now::default(), |_| Facts {
        admin_override: Override { weight: Some(9), ..Override::default() },
        ..Facts::default()
    });
    assert_eq!(weights(&evaluation), "9 9");
    assert_eq!(evaluation.backends[0].configured_weight, 1);
}

/// Evaluates with this report of the first backend's agent.
fn with_load(service: &Service, load: &Load) -> Evaluation {
    evaluate(service, &mut Memory::default(), Now::default(), |backend| Facts {
        load: (backend.address == service.backends[0].address).then(|| load.clone()),
        ..Facts::default()
    })
}

#[test]
fn a_loaded_backend_gets_its_share_of_its_weight() {
    let load = |share| Load { share, drains: false, down: None };
    let three = service(&[1, 1, 1], Health::default());
    assert_eq!(weights(&with_load(&three, &load(25))), "25 100 100");
    assert_eq!(with_load(&three, &load(25)).backends[0].weight, 0.25);
    // Scaled as far as a weight can be.
    let heavy = service(&[40_000, 65_535], Health::default());
    assert_eq!(weights(&with_load(&heavy, &load(50))), "20000 65535");
    // A share that is not 0 gives a weight that is not 0.
    let light = service(&[1, 65_535], Health::default());
    assert_eq!(weights(&with_load(&light, &load(1))), "1 65535");
    let drains = Load { share: 50, drains: true, down: None };
    assert_eq!(weights(&with_load(&three, &drains)), "0 100 100");
    let down = Load { share: 100, drains: false, down: Some("down".into()) };
    let evaluation = with_load(&three, &down);
    assert_eq!(weights(&evaluation), "0! 1 1");
    assert_eq!(evaluation.backends[0].reason, "its agent reports down");
}

#[test]
fn a_backend_that_comes_back_starts_slowly() {
    let health = Health { slow_start: Duration::from_nanos(1000), ..Health::default() };
    let service = service(&[2, 2], health);
    let mut memory = Memory::default();
    assert_eq!(weights(&evaluated(&service, &mut memory, 0, "uu")), "2 2", "up from the start");
    evaluated(&service, &mut memory, 10, "du");
    let steps = [(1000, "20 200", Some(1100)), (1099, "20 200", Some(1100))];
    let later = [(1550, "100 200", Some(1600)), (2000, "2 2", None), (9000, "2 2", None)];
    for (ns, expected, again) in steps.into_iter().chain(later) {
        let evaluation = evaluated(&service, &mut memory, ns, "uu");
        assert_eq!((weights(&evaluation).as_str(), evaluation.again_ns), (expected, again), "{ns}");
    }
}
