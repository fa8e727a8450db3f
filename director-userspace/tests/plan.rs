//! Plans as they are printed, applied to maps in memory.

use std::net::IpAddr;

use director_common::{
    address::Address,
    backend::{BackendFields, BackendState, BackendWord, ForwardMode, NextHop},
    flow::Family,
    service::{ServiceKey, WhenEmpty},
};
use director_userspace::policy::{
    config::{self, model::Availability},
    plan::{
        Capacity, Desired, Observed, ObservedBackend, ObservedRing, ObservedService, ObservedSome,
        Op, Path, PathKey, Paths, Plan, PlanError, Presence, View, diff, diff_growing,
        ring_fingerprint,
    },
};

const SECOND: u64 = 1_000_000_000;

/// New maps: empty.
fn empty() -> Observed {
    Observed::empty(Capacity { services: 3, backends: 7, rings: 4 })
}

/// Services as `name port: backend*weight ...`, all TCP on 192.0.2.1, drained for a minute; `3!` is a
/// backend that is down.
fn desired(services: &[&str]) -> Desired {
    let mut yaml = "services:\n".to_owned();
    for line in services {
        let (head, backends) = line.split_once(':').expect("name port: backends");
        let (name, port) = head.split_once(' ').expect("name port");
        yaml += &format!(
            "  - {{name: {name}, address: 192.0.2.1, protocol: tcp, port: {port}, forward: tunnel, \
             drain_timeout: 1m, backends: ["
        );
        for backend in backends.split_whitespace() {
            let backend = backend.trim_end_matches('!');
            let (address, weight) = backend.split_once('*').unwrap_or((backend, "1"));
            yaml += &format!("{{address: 10.0.0.{address}, weight: {weight}}}, ");
        }
        yaml += "]}\n";
    }
    if services.is_empty() {
        yaml = "services: []".into();
    }
    let mut config = match config::parse("plan.yaml", &yaml) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{errors}"),
    };
    for (service, line) in config.services.iter_mut().zip(services) {
        let words = line.split_once(':').expect("name port: backends").1.split_whitespace();
        for (backend, word) in service.backends.iter_mut().zip(words) {
            if word.ends_with('!') {
                backend.availability = Availability::Down;
            }
        }
    }
    Desired::new(&config, &paths(1))
}

/// Paths to all backends, by a next hop whose MAC address ends in `mac`.
fn paths(mac: u8) -> Paths {
    let path = Path {
        next_hop: NextHop::new([2, 0, 0, 0, 0, mac], 0, 1),
        source: "10.9.9.9".parse().ok(),
        mtu: 1500,
    };
    let backends = (1..20u8)
        .flat_map(|last| [ForwardMode::Tunnel, ForwardMode::Direct].map(|forward| (last, forward)));
    let key =
        |(last, forward)| PathKey { address: IpAddr::from([10, 0, 0, last]), forward, mac: None };
    backends.map(|backend| (key(backend), path)).collect()
}

/// What `datapath::apply` does to maps, here to their description.
fn carry_out(observed: &mut Observed, plan: &Plan) {
    for op in &plan.ops {
        step(observed, op);
    }
}

fn step(observed: &mut Observed, op: &Op) {
    match op {
        Op::RemoveStrayKey(key) => observed.stray_keys.retain(|stray| stray != key),
        Op::ResetService { slot } => {
            observed.damaged.services.remove(slot).expect("damaged");
        }
        Op::ResetBackend { reference } => {
            assert!(observed.damaged.backends.remove(&reference.slot()), "damaged");
            observed.words[reference.slot() as usize] = BackendWord::default();
        }
        Op::AddService { slot, key, name, drain_timeout_s, scheduler, when_empty } => {
            let service = ObservedService {
                scheduler: Some(*scheduler),
                key: *key,
                name: name.clone(),
                ring: ObservedRing::None,
                when_empty: *when_empty,
                drain_timeout_s: *drain_timeout_s,
                ring_fingerprint: 0,
                is_shown: false,
            };
            assert!(observed.services.insert(*slot, service).is_none(), "slot {slot} is taken");
        }
        Op::SetServiceMeta { slot, name, drain_timeout_s, scheduler, .. } => {
            let service = observed.services.get_mut(slot).expect("there");
            service.name.clone_from(name);
            service.drain_timeout_s = *drain_timeout_s;
            service.scheduler = Some(*scheduler);
        }
        Op::AddBackend { reference, service, spec }
        | Op::SetBackend { reference, service, spec, .. } => {
            let state = match op {
                Op::SetBackend { state, .. } => *state,
                _ if spec.availability == Availability::Down => BackendState::Down,
                _ => BackendState::Active,
            };
            let backend = ObservedBackend {
                service: *service,
                reference: *reference,
                state,
                address: spec.address,
                weight: spec.weight,
                forward: Some(spec.forward),
                fixed_next_hop: spec.fixed_next_hop,
                next_hop: spec.path.next_hop,
                source: spec.path.source.unwrap_or(Address::default().to_ip(Family::V4)),
                source_place: 0,
                mtu: spec.path.mtu,
                drain_deadline_ns: 0,
                is_exact: true,
            };
            let before = observed.backends.insert(reference.slot(), backend);
            assert_eq!(before.is_some(), matches!(op, Op::SetBackend { .. }), "{op}");
        }
        Op::SetRing { service, ring, scheduler, members, when_empty, .. } => {
            for member in members {
                let backend = &observed.backends[&member.reference.slot()];
                assert_eq!((backend.reference, backend.service), (member.reference, *service));
            }
            if let Some(ring) = ring {
                assert!(observed.free_rings().any(|free| free == *ring), "ring {ring} is in use");
            }
            let there = observed.services.get_mut(service).expect("there");
            there.ring = ring.map_or(ObservedRing::None, ObservedRing::Whole);
            there.when_empty = *when_empty;
            there.ring_fingerprint = ring_fingerprint(*scheduler, members, *when_empty);
        }
        Op::ShowService { slot, key } => {
            observed.services.get_mut(slot).expect("there").is_shown = true;
            observed.presence.entry((*key).into()).or_insert(*slot);
        }
        Op::DrainBackend { reference, deadline_ns, .. } => {
            let backend = observed.backends.get_mut(&reference.slot()).expect("there");
            backend.state = BackendState::Draining;
            backend.drain_deadline_ns = *deadline_ns;
            backend.weight = 0;
        }
        Op::StopBackend { reference, .. } => {
            let backend = observed.backends.get_mut(&reference.slot()).expect("there");
            backend.state = BackendState::Down;
        }
        Op::MoveBackend { reference, next_hop, mtu, .. } => {
            let backend = observed.backends.get_mut(&reference.slot()).expect("there");
            (backend.next_hop, backend.mtu) = (*next_hop, *mtu);
        }
        Op::FreeBackend { reference, .. } => {
            observed.backends.remove(&reference.slot()).expect("there");
            observed.words[reference.slot() as usize] = BackendWord::pack(BackendFields {
                generation: reference.generation() + 1,
                ..BackendWord::default().unpack()
            });
        }
        Op::HideService { slot, key, presence, .. } => {
            observed.services.get_mut(slot).expect("there").is_shown = false;
            match presence {
                Presence::Keep => {}
                Presence::Move(successor) => {
                    observed.presence.insert((*key).into(), *successor);
                }
                Presence::Remove => {
                    observed.presence.remove(&(*key).into());
                }
            }
        }
        Op::RemoveService { slot } => {
            observed.services.remove(slot).expect("there");
        }
    }
}

/// Applies the plan; a second one must be empty.
#[track_caller]
fn reach(observed: &mut Observed, desired: &Desired, now_ns: u64) -> String {
    let plan = match diff(observed, desired, now_ns) {
        Ok(plan) => plan,
        Err(error) => panic!("{error}"),
    };
    carry_out(observed, &plan);
    let rest = diff(observed, desired, now_ns).expect("there is room");
    assert!(rest.is_empty(), "left to do: {rest}");
    plan.to_string()
}

#[track_caller]
fn shows(plan: &str, lines: &[&str]) {
    assert_eq!(plan.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn a_service_is_shown_last() {
    let plan = reach(&mut empty(), &desired(&["web 80: 1 2*3", "any any: 1"]), 0);
    shows(
        &plan,
        &[
            "+ service web (tcp 192.0.2.1:80)",
            "+   backend 10.0.0.1 weight 1",
            "+   backend 10.0.0.2 weight 3",
            "~ service web (tcp 192.0.2.1:80): ring over 2 backends",
            "+ service at tcp 192.0.2.1:80 takes packets",
            "+ service any (tcp 192.0.2.1:any)",
            "+   backend 10.0.0.1 weight 1",
            "~ service any (tcp 192.0.2.1:any): ring over 1 backend",
            "+ service at tcp 192.0.2.1:any takes packets",
        ],
    );
}

#[test]
fn an_unchanged_state_needs_no_steps() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
    assert_eq!(reach(&mut maps, &desired(&["web 80: 2 1"]), 0), "nothing to change");
}

#[test]
fn a_name_changes_only_metadata() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1"]), 0);
    let plan = reach(&mut maps, &desired(&["www 80: 1"]), 0);
    shows(&plan, &["~ service www (tcp 192.0.2.1:80): drain_timeout 60s"]);
}

#[test]
fn weights_build_a_new_ring() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
    let plan = reach(&mut maps, &desired(&["web 80: 1 2*5"]), 0);
    shows(
        &plan,
        &[
            "~   backend 10.0.0.2: weight 1 -> 5",
            "~ service web (tcp 192.0.2.1:80): ring over 2 backends",
        ],
    );
    let plan = reach(&mut maps, &desired(&["web 80: 1*0 2*0"]), 0);
    assert!(plan.ends_with("ring over 0 backends"), "{plan}");
    assert_eq!(maps.free_rings().count(), 4, "no backend takes flows, so there is no ring");
}

#[test]
fn a_removed_backend_leaves_the_ring_and_then_drains() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
    let less = desired(&["web 80: 1"]);
    let plan = reach(&mut maps, &less, 10 * SECOND);
    let ring = "~ service web (tcp 192.0.2.1:80): ring over 1 backend";
    shows(&plan, &[ring, "-   backend 10.0.0.2 drains"]);
    assert_eq!(reach(&mut maps, &less, 69 * SECOND), "nothing to change");
    shows(&reach(&mut maps, &less, 70 * SECOND), &["-   backend 10.0.0.2"]);

    // Its slot has another generation now.
    reach(&mut maps, &desired(&["web 80: 1 2"]), 71 * SECOND);
    reach(&mut maps, &less, 72 * SECOND);
    let plan = reach(&mut maps, &desired(&["web 80: 1 2"]), 100 * SECOND);
    assert!(plan.starts_with("~   backend 10.0.0.2: no longer drains"), "{plan}");
}

/// A drain neither restarts nor loses its deadline when other things change.
#[test]
fn a_drain_keeps_its_deadline() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
    reach(&mut maps, &desired(&["web 80: 1"]), 10 * SECOND);
    reach(&mut maps, &desired(&["web 80: 1*2"]), 50 * SECOND);
    let plan = reach(&mut maps, &desired(&["web 80: 1*2"]), 70 * SECOND);
    shows(&plan, &["-   backend 10.0.0.2"]);
}

/// Next hops of draining backends change too.
#[test]
fn next_hops_change_in_place() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
    reach(&mut maps, &desired(&["web 80: 1"]), SECOND);
    let mut moved = desired(&["web 80: 1"]);
    moved.paths = paths(9);
    moved.services[0].backends[0].path.next_hop = NextHop::new([2, 0, 0, 0, 0, 9], 0, 1);
    let plan = reach(&mut maps, &moved, 2 * SECOND);
    assert_eq!(plan.lines().count(), 2, "{plan}");
    assert_eq!(plan.lines().next(), Some("~   backend 10.0.0.1: next hop"));
    assert!(maps.backends.values().all(|backend| backend.next_hop.mac()[5] == 9));
}

/// So do the MTUs of their paths, whatever is known besides, and neither goes back to unknown.
#[test]
fn mtus_change_in_place() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
    reach(&mut maps, &desired(&["web 80: 1"]), SECOND);
    for (hop, mtu, changes) in [
        (NextHop::new([2, 0, 0, 0, 0, 1], 0, 1), 1400, "mtu 1500 -> 1400"),
        (NextHop::UNRESOLVED, 1300, "mtu 1400 -> 1300"),
        (NextHop::UNRESOLVED, 0, ""),
        (NextHop::new([2, 0, 0, 0, 0, 9], 0, 1), 1500, "next hop, mtu 1300 -> 1500"),
    ] {
        let mut narrow = desired(&["web 80: 1"]);
        for path in narrow.paths.values_mut() {
            (path.next_hop, path.mtu) = (hop, mtu);
        }
        let path = &mut narrow.services[0].backends[0].path;
        (path.next_hop, path.mtu) = (hop, mtu);
        let plan = reach(&mut maps, &narrow, 2 * SECOND);
        let expected = match changes {
            "" => "nothing to change".to_owned(),
            _ => format!("~   backend 10.0.0.1: {changes}\n~   backend 10.0.0.2: {changes}"),
        };
        assert_eq!(plan.trim_end(), expected);
    }
}

/// While the path is unknown, the last known next hop stays.
#[test]
fn an_unknown_path_changes_nothing() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1"]), 0);
    let mut unknown = desired(&["web 80: 1"]);
    unknown.paths.clear();
    unknown.services[0].backends[0].path = Path::UNKNOWN;
    assert_eq!(reach(&mut maps, &unknown, 0), "nothing to change");
}

#[test]
fn a_removed_service_is_hidden_first() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1", "tls 443: 2"]), 0);
    let plan = reach(&mut maps, &desired(&["tls 443: 2"]), 0);
    shows(&plan, &["- service web (tcp 192.0.2.1:80)", "-   backend 10.0.0.1", "-   its ring"]);
    // The entry that both shared now names the remaining service, and is removed with it.
    let successor =
        maps.services.iter().find(|(_, service)| service.name == "tls").map(|(slot, _)| slot);
    assert_eq!(maps.presence.values().next(), successor);
    reach(&mut maps, &desired(&[]), 0);
    assert!(maps.presence.is_empty() && maps.backends.is_empty());
    assert_eq!(maps.free_rings().count(), 4);
}

/// A plan that stops after any step is completed by the next one.
#[test]
fn a_plan_may_stop_anywhere() {
    let states = [
        desired(&["web 80: 1 2*2", "tls 443: 3"]),
        desired(&["web 80: 2", "any any: 4*0"]),
        desired(&[]),
        desired(&["tls 443: 1 2"]),
    ];
    for from in &states {
        for to in &states {
            let mut start = empty();
            reach(&mut start, from, 0);
            let plan = diff(&start, to, SECOND).expect("there is room");
            for stop in 0..=plan.ops.len() {
                for then in &states {
                    let mut maps = start.clone();
                    let ops = plan.ops[..stop].to_vec();
                    carry_out(&mut maps, &Plan { ops });
                    reach(&mut maps, then, 100 * SECOND);
                    assert_eq!(maps.services.len(), then.services.len());
                }
            }
        }
    }
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1"]), 0);
    let stray = ServiceKey { port: 81u16.to_be_bytes(), ..maps.services[&first(&maps)].key };
    maps.stray_keys.push(stray);
    let mut orphan = maps.backends.values().next().expect("one").clone();
    orphan.service = 2;
    orphan.reference = director_common::backend::BackendRef::new(6, 0);
    maps.backends.insert(6, orphan);
    let plan = reach(&mut maps, &desired(&["web 80: 1"]), 0);
    shows(&plan, &["- stray entry tcp 192.0.2.1:81", "-   backend 10.0.0.1"]);
}

/// What another process wrote: the plan restores it, whatever it is.
#[test]
fn damage_is_repaired() {
    type Damage = fn(&mut Observed);
    const WEB: &str = "~ service web (tcp 192.0.2.1:80): ring over 2 backends";
    fn web(maps: &mut Observed) -> &mut ObservedService {
        maps.services.values_mut().next().expect("one")
    }
    fn backend(maps: &mut Observed) -> &mut ObservedBackend {
        maps.backends.values_mut().next().expect("two")
    }
    let cases: [(&str, Damage, &[&str]); 9] = [
        ("no slots", |maps| web(maps).ring = ObservedRing::None, &[WEB]),
        ("no such ring", |maps| web(maps).ring = ObservedRing::Damaged(Some(1)), &[WEB]),
        ("another policy", |maps| web(maps).when_empty = WhenEmpty::Pass, &[WEB]),
        (
            "no shared key",
            |maps| maps.presence.clear(),
            &["+ service at tcp 192.0.2.1:80 takes packets"],
        ),
        (
            "a damaged service entry",
            |maps| assert!(maps.damaged.services.insert(2, Some(3)).is_none()),
            &["- damaged entry 2 of services"],
        ),
        (
            "a damaged backend entry",
            |maps| assert!(maps.damaged.backends.insert(6)),
            &["- damaged entry 6 of backends"],
        ),
        (
            "a backend whose address another process changed: not drained",
            |maps| {
                let reference = backend(maps).reference;
                maps.backends.remove(&reference.slot());
                maps.damaged.backends.insert(reference.slot());
            },
            &["+   backend 10.0.0.1 weight 1", WEB, "- damaged entry 1 of backends"],
        ),
        (
            "a second entry of a backend: not drained",
            |maps| {
                let mut second = backend(maps).clone();
                second.reference = director_common::backend::BackendRef::new(5, 0);
                maps.backends.insert(5, second);
            },
            &["-   backend 10.0.0.1"],
        ),
        (
            "reserved bits",
            |maps| backend(maps).is_exact = false,
            &["~   backend 10.0.0.1: not as this version writes it"],
        ),
    ];
    for (name, damage, steps) in cases {
        let mut maps = empty();
        reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
        damage(&mut maps);
        let plan = reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
        assert_eq!(plan.lines().collect::<Vec<_>>(), steps, "{name}");
        assert_eq!(maps.damaged, empty().damaged, "{name}");
    }
}

/// A plan for some services takes nothing that the others may have.
#[test]
fn a_partial_view_adds_and_removes_no_service() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1", "tls 443: 2", "dns 53: 3"]), 0);
    let some = |maps: &Observed, name: &str| {
        let services: std::collections::BTreeMap<_, _> =
            maps.services.clone().into_iter().filter(|(_, s)| s.name == name).collect();
        let backends =
            maps.backends.clone().into_iter().filter(|(_, b)| services.contains_key(&b.service));
        let others = maps.services.iter().filter(|(slot, _)| !services.contains_key(slot));
        ObservedSome {
            capacity: maps.capacity,
            rings_of_others: others.filter_map(|(_, s)| s.ring.number()).collect(),
            backends: backends.collect(),
            words: maps.words.clone(),
            services,
        }
    };
    // The others stay, although the desired state does not name them; the one free ring is taken.
    let plan = diff(&some(&maps, "web"), &desired(&["web 80: 1*0"]), 0).expect("there is room");
    assert_eq!(plan.to_string().lines().count(), 2, "{plan}");
    let plan = diff(&some(&maps, "web"), &desired(&["web 80: 1*2 4"]), 0).expect("there is room");
    let rings: Vec<_> = plan.ops.iter().filter(|op| matches!(op, Op::SetRing { .. })).collect();
    assert!(matches!(rings.as_slice(), [Op::SetRing { ring: Some(3), .. }]), "{plan}");
    // The maps lost a service: no slot that was not seen to be free is taken for it.
    let lost = diff(&some(&maps, "none"), &desired(&["web 80: 1"]), 0);
    assert_eq!(lost, Err(PlanError::NotObserved { service: "tcp 192.0.2.1:80".into() }));
}

fn first(maps: &Observed) -> u32 {
    *maps.services.keys().next().expect("one")
}

#[test]
fn a_backend_that_goes_down_leaves_the_ring_first_and_comes_back_before_it() {
    let mut maps = empty();
    reach(&mut maps, &desired(&["web 80: 1 2"]), 0);
    let plan = reach(&mut maps, &desired(&["web 80: 1 2!"]), 0);
    assert_eq!(
        plan,
        "~ service web (tcp 192.0.2.1:80): ring over 1 backend\n\
         ~   backend 10.0.0.2: down, its flows go elsewhere"
    );
    // Other changes meanwhile do not bring it back.
    let plan = reach(&mut maps, &desired(&["web 80: 1 2*7!"]), 0);
    assert_eq!(plan, "~   backend 10.0.0.2: weight 1 -> 7");
    let plan = reach(&mut maps, &desired(&["web 80: 1 2*7"]), 0);
    assert_eq!(
        plan,
        "~   backend 10.0.0.2: takes packets again\n\
         ~ service web (tcp 192.0.2.1:80): ring over 2 backends"
    );
    // One that is down and removed has no flows to drain.
    reach(&mut maps, &desired(&["web 80: 1 2!"]), 0);
    assert_eq!(reach(&mut maps, &desired(&["web 80: 1"]), 0), "-   backend 10.0.0.2");
    // And one may be down from the start.
    let plan = reach(&mut maps, &desired(&["web 80: 1 3!"]), 0);
    assert_eq!(plan, "+   backend 10.0.0.3 weight 1");
}

#[test]
fn a_full_map_is_named() {
    let too_many = |what, capacity| Err(PlanError::Full { what, capacity });
    let services = desired(&["a 1:", "b 2:", "c 3:", "d 4:"]);
    assert_eq!(diff(&empty(), &services, 0), too_many("services", 3));
    // Slot 0 is never used.
    let backends = desired(&["a 1: 1 2 3 4 5 6 7"]);
    assert_eq!(diff(&empty(), &backends, 0), too_many("backends", 7));
    let mut few = empty();
    few.capacity.rings = 1;
    let two = desired(&["a 1: 1", "b 2: 1"]);
    assert_eq!(diff(&few, &two, 0), too_many("rings", 1));
    let error = diff(&few, &two, 0).expect_err("full").to_string();
    assert!(error.contains("rings"), "{error}");
}

#[test]
fn maps_grow_as_far_as_a_change_needs() {
    let most = Capacity { services: 3, backends: 100, rings: 100 };
    let growing = |maps: &Observed, desired: &Desired| diff_growing(maps, desired, 0, most);
    let mut few = empty();
    few.capacity.rings = 1;
    // Maps do not grow for what fits, and a ring can be replaced only with room for both.
    let one = desired(&["a 1: 1"]);
    let (plan, capacity) = growing(&few, &one).expect("room");
    assert_eq!(capacity, few.capacity);
    carry_out(&mut few, &plan);
    let (plan, capacity) = growing(&few, &desired(&["a 1: 1 2"])).expect("room");
    assert_eq!((capacity.backends, capacity.services), (7, 3), "there was room");
    assert!(capacity.rings > 1 && capacity.rings <= 100, "{capacity:?}");
    let mut larger = few.grown(capacity);
    carry_out(&mut larger, &plan);
    assert!(diff(&larger, &desired(&["a 1: 1 2"]), 0).expect("room").is_empty());

    let many: String = (1..=99).map(|n| format!(" {n}")).collect();
    let (_, capacity) = growing(&empty(), &desired(&[&format!("a 1:{many}")])).expect("room");
    assert_eq!(capacity.backends, 100);
    let too_many = desired(&[&format!("a 1:{many} 100")]);
    let full = PlanError::Full { what: "backends", capacity: 100 };
    assert_eq!(growing(&empty(), &too_many), Err(full));
    let services = desired(&["a 1:", "b 2:", "c 3:", "d 4:"]);
    let full = PlanError::Full { what: "services", capacity: 3 };
    assert_eq!(growing(&empty(), &services), Err(full));
}

#[test]
fn families_and_ports_are_written_as_in_urls() {
    let yaml = "services: [{name: six, address: \"2001:db8::1\", protocol: udp, port: any, forward: \
                direct, backends: []}]";
    let config = match config::parse("six.yaml", yaml) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{errors}"),
    };
    let plan = reach(&mut empty(), &Desired::new(&config, &Paths::default()), 0);
    assert!(plan.starts_with("+ service six (udp [2001:db8::1]:any)\n"), "{plan}");
}
