//! Plans applied to real maps: from any content, and after an interruption at any step, the maps
//! reach the desired state.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    time::Duration,
};

use director_common::{
    abi::map,
    backend::{BackendState, ForwardMode, NextHop},
    service::{RING_CHUNKS, RING_SLOTS, WhenEmpty},
};
use director_tests::given::{Director, Given};
use director_userspace::{
    kernel::datapath::{Scrub, Simulation, apply, observe},
    policy::{
        config::{self, model::Config},
        plan::{Damaged, Desired, Path, PathKey, Paths, Plan, diff},
    },
};
use fastrand::Rng;

const MINUTE: u64 = 60_000_000_000;

/// A random configuration of up to six services, from a small set of addresses, so that they recur.
fn random(rng: &mut Rng) -> (Config, Desired) {
    let mut yaml = "flows: {size: 1Ki}\nservices:\n".to_owned();
    let mut taken = BTreeSet::new();
    for number in 0..rng.usize(..=6) {
        let (host, port) = (rng.u8(1..3), [80, 81, 0][rng.usize(..3)]);
        if !taken.insert((host, port)) {
            continue;
        }
        let port = if port == 0 { "any".to_owned() } else { port.to_string() };
        let forward = if rng.bool() { "tunnel" } else { "direct" };
        let when_empty = ["reject", "drop", "pass"][rng.usize(..3)];
        yaml += &format!(
            "  - {{name: s{number}, address: 192.0.2.{host}, protocol: tcp, port: {port}, forward: \
             {forward}, when_empty: {when_empty}, drain_timeout: {}m, backends: [",
            [0, 1, 5][rng.usize(..3)]
        );
        let mut backends: Vec<u8> = (1..9).collect();
        rng.shuffle(&mut backends);
        for backend in &backends[..rng.usize(..7)] {
            let weight = [0, 1, 1, 2, 100][rng.usize(..5)];
            yaml += &format!("{{address: 10.0.0.{backend}, weight: {weight}}}, ");
        }
        yaml += "]}\n";
    }
    if taken.is_empty() {
        yaml = "flows: {size: 1Ki}\nservices: []\n".into();
    }
    let config = match config::parse("random.yaml", &yaml) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{yaml}{errors}"),
    };
    let mut paths = Paths::default();
    for backend in 1..9u8 {
        let next_hop = NextHop::new([2, 0, 0, 0, rng.u8(..2), backend], rng.u16(..2), 1);
        let source: IpAddr = [10, 9, 9, rng.u8(1..3)].into();
        let mtu = [0, 1400, 1500][rng.usize(..3)];
        let path = Path { next_hop, source: Some(source), mtu };
        for forward in [ForwardMode::Tunnel, ForwardMode::Direct] {
            let address = [10, 0, 0, backend].into();
            paths.insert(PathKey { address, forward, mac: None }, path);
        }
    }
    let desired = Desired::new(&config, &paths);
    (config, desired)
}

/// Maps with room for the maximum of six services that `random` creates, and a spare ring for each.
fn simulation() -> Simulation {
    let services: Vec<String> = (1..12)
        .map(|port| {
            format!(
                "{{name: s{port}, address: 192.0.2.9, protocol: tcp, port: {port}, forward: direct, \
                 backends: []}}"
            )
        })
        .collect();
    let yaml = format!("flows: {{size: 1Ki}}\nservices: [{}]", services.join(", "));
    let mut simulation = Director::new(Given::new(&yaml)).simulation;
    simulation.reconcile(&Desired::default(), 0).expect("an empty state fits");
    simulation
}

#[track_caller]
fn plan(simulation: &Simulation, desired: &Desired, now_ns: u64) -> Plan {
    match diff(&observe(&simulation.tables), desired, now_ns) {
        Ok(plan) => plan,
        Err(error) => panic!("{error}"),
    }
}

/// Asserts that the maps hold the desired state, and nothing else except draining backends.
#[track_caller]
fn holds(simulation: &Simulation, desired: &Desired, now_ns: u64) {
    let left = plan(simulation, desired, now_ns);
    assert!(left.is_empty(), "the plan is not empty: {left}");
    let observed = observe(&simulation.tables);
    assert_eq!(observed.stray_keys, []);
    assert_eq!(observed.damaged, Damaged::default());
    let shown = observed.services.values().filter(|service| service.is_shown).count();
    assert_eq!((observed.services.len(), shown), (desired.services.len(), shown));
    let mut rings = 0;
    for (slot, service) in &observed.services {
        let wanted = desired.services.iter().find(|s| s.key == service.key).expect("desired");
        assert_eq!(service.name, wanted.name);
        assert_eq!(service.when_empty, wanted.when_empty);
        let backends: BTreeMap<IpAddr, _> = observed
            .backends_of(*slot)
            .filter(|(_, backend)| backend.state == BackendState::Active)
            .map(|(_, backend)| (backend.address, backend))
            .collect();
        assert_eq!(backends.len(), wanted.backends.len());
        for spec in &wanted.backends {
            let backend = backends[&spec.address];
            assert_eq!((backend.weight, backend.forward), (spec.weight, Some(spec.forward)));
            assert_eq!(backend.next_hop, spec.path.next_hop);
            assert_eq!(Some(backend.source), spec.path.source);
            if spec.path.mtu != 0 {
                assert_eq!(backend.mtu, spec.path.mtu);
            }
        }
        // Each slot of the ring refers to an active backend, in proportion to its weight.
        let ring = simulation.tables.ring(*slot);
        let total: u32 = wanted.backends.iter().map(|spec| u32::from(spec.weight)).sum();
        assert_eq!(ring.len(), if total == 0 { 0 } else { RING_SLOTS as usize });
        rings += u32::from(total > 0);
        let mut shares: BTreeMap<u32, u32> = BTreeMap::new();
        for reference in &ring {
            *shares.entry(reference.0).or_default() += 1;
        }
        for backend in backends.values() {
            let got = f64::from(shares.remove(&backend.reference.0).unwrap_or(0));
            let share = f64::from(RING_SLOTS) * f64::from(backend.weight) / f64::from(total.max(1));
            assert!((got - share).abs() <= 1.0, "{}: {got} of {share}", backend.address);
        }
        assert!(shares.is_empty(), "stale references in the ring: {shares:?}");
    }
    // No ring leaks: those that no service uses are free.
    let free = observed.free_rings().count();
    assert_eq!(free as u32, observed.capacity.rings - rings);
    let drained = |deadline: u64| deadline <= now_ns;
    for backend in observed.backends.values() {
        assert!(observed.services.contains_key(&backend.service), "a backend of no service");
        let is_late = backend.state == BackendState::Draining && drained(backend.drain_deadline_ns);
        assert!(!is_late, "{} drains beyond its deadline", backend.address);
    }
}

#[test]
fn any_state_to_any_other() {
    let mut rng = Rng::with_seed(0x1ab);
    let mut simulation = simulation();
    let capacity = observe(&simulation.tables).capacity;
    let mut now_ns = 1_000 * MINUTE;
    for _ in 0..60 {
        let (_, desired) = random(&mut rng);
        simulation.reconcile(&desired, now_ns).expect("there is room");
        holds(&simulation, &desired, now_ns);
        // A second plan without changes is empty; a later one only removes drained backends.
        now_ns += MINUTE * rng.u64(..8);
        simulation.reconcile(&desired, now_ns).expect("there is room");
        holds(&simulation, &desired, now_ns);
    }
    simulation.reconcile(&Desired::default(), now_ns).expect("an empty state fits");
    let observed = observe(&simulation.tables);
    assert_eq!(observed.capacity, capacity);
    assert!(
        observed.services.is_empty()
            && observed.backends.is_empty()
            && observed.presence.is_empty()
    );
    assert_eq!(observed.free_rings().count() as u32, capacity.rings, "every ring is free again");
}

/// If a process dies after any step, the next one brings the maps to its desired state.
#[test]
fn interruption_at_any_step() {
    let seed = fastrand::u64(..);
    println!("seed {seed:#x}");
    for seed in [0x57_0b, seed] {
        let mut rng = Rng::with_seed(seed);
        let mut simulation = simulation();
        let mut now_ns = 1_000 * MINUTE;
        for _ in 0..60 {
            let (_, abandoned) = random(&mut rng);
            let mut plan = plan(&simulation, &abandoned, now_ns);
            plan.ops.truncate(rng.usize(..=plan.ops.len()));
            apply(&mut simulation.tables, &plan.ops).expect("maps can be written");
            consistent_for_packets(&simulation);
            now_ns += MINUTE * rng.u64(..3);
            if rng.bool() {
                let (_, desired) = random(&mut rng);
                simulation.reconcile(&desired, now_ns).expect("there is room");
                holds(&simulation, &desired, now_ns);
            }
        }
    }
}

/// The maps after each step, as a packet between two steps finds them.
#[test]
fn every_step_leaves_consistent_maps() {
    let mut rng = Rng::with_seed(0x5_7e9);
    let mut simulation = simulation();
    for round in 0..12u64 {
        let (_, desired) = random(&mut rng);
        let now_ns = (1_000 + 7 * round) * MINUTE;
        for op in plan(&simulation, &desired, now_ns).ops {
            apply(&mut simulation.tables, &[op]).expect("maps can be written");
            consistent_for_packets(&simulation);
        }
        holds(&simulation, &desired, now_ns);
    }
}

/// Asserts that the ring of every visible service refers only to existing backends of that service.
#[track_caller]
fn consistent_for_packets(simulation: &Simulation) {
    let observed = observe(&simulation.tables);
    for (slot, service) in observed.services.iter().filter(|(_, service)| service.is_shown) {
        // Every eleventh slot: each backend has a few hundred.
        let ring = simulation.tables.ring(*slot);
        for reference in ring.into_iter().step_by(11).collect::<HashSet<_>>() {
            let backend = observed.backends.get(&reference.slot());
            let is_own = backend.is_some_and(|b| b.reference == reference && b.service == *slot);
            assert!(is_own, "{} refers to {reference:?}, which is {backend:?}", service.name);
        }
    }
    // Rings are never shared.
    let rings: Vec<u32> =
        observed.services.values().filter_map(|service| service.ring.number()).collect();
    assert_eq!(rings.iter().collect::<BTreeSet<_>>().len(), rings.len());
}

/// Bits to flip in a word: one, all, or any.
fn bits(rng: &mut Rng) -> u64 {
    match rng.u8(..4) {
        0 => u64::MAX,
        1 => rng.u64(..),
        _ => 1 << rng.u32(..64),
    }
}

/// Flips bits of a random word of a random array: where entries are in use, and where they are not.
fn damage(rng: &mut Rng, simulation: &mut Simulation, arrays: &[&str]) -> String {
    let name = arrays[rng.usize(..arrays.len())];
    let (entries, words) = match name {
        map::SERVICES => (10, 8),
        map::SERVICE_META => (10, 16),
        map::BACKENDS => (60, 8),
        map::BACKEND_META => (60, 2),
        map::INTERFACES => (16, 8),
        map::META => (1, 12),
        map::VIP_FILTER => (1024, 1),
        _ => unreachable!("{name}"),
    };
    let (index, word, bits) = (rng.u32(..entries), rng.usize(..words), bits(rng));
    simulation.tables.flip(name, index, word, bits);
    format!("{name}[{index}] word {word} ^ {bits:#x}")
}

/// Removes a key, diverts one, or adds a stray one.
fn damage_keys(rng: &mut Rng, simulation: &mut Simulation) -> String {
    let keys: Vec<_> = simulation.tables.present_keys().into_iter().collect();
    if keys.is_empty() {
        return String::new();
    }
    let (mut key, slot) = keys[rng.usize(..keys.len())];
    let slot = match rng.u8(..4) {
        0 => None,
        1 => Some(slot ^ 1 << rng.u32(..32)),
        2 => Some(rng.u32(..8)),
        _ => {
            key.port[1] ^= 1 << rng.u32(..8);
            key._pad[rng.usize(..4)] ^= rng.u8(..2);
            Some(slot)
        }
    };
    simulation.tables.divert(key, slot).expect("written");
    format!("{key:?} -> {slot:?}")
}

/// Maps that another process damaged while no daemon ran: from any content, one plan makes them
/// exactly what they should be.
#[test]
fn any_damage_to_the_desired_state() {
    const ARRAYS: [&str; 4] = [map::SERVICES, map::SERVICE_META, map::BACKENDS, map::BACKEND_META];
    let seed = fastrand::u64(..);
    println!("seed {seed:#x}");
    for seed in [0xda_3a9e, seed] {
        let mut rng = Rng::with_seed(seed);
        let mut simulation = simulation();
        let mut now_ns = 1_000 * MINUTE;
        for round in 0..50 {
            let (_, desired) = random(&mut rng);
            simulation.reconcile(&desired, now_ns).expect("there is room");
            let mut done = Vec::new();
            for _ in 0..rng.usize(1..6) {
                done.push(damage(&mut rng, &mut simulation, &ARRAYS));
                if rng.u8(..4) == 0 {
                    done.push(damage_keys(&mut rng, &mut simulation));
                }
            }
            // Sometimes the configuration changed, too.
            let desired = if rng.bool() { desired } else { random(&mut rng).1 };
            println!("{round}: {done:?}");
            simulation.reconcile(&desired, now_ns).expect("there is room");
            holds(&simulation, &desired, now_ns);
            now_ns += MINUTE * rng.u64(..3);
        }
    }
}

/// Under a process that keeps what it wrote: everything is again as it was, bit by bit, and each
/// place is named; and what it plans meanwhile is not misled.
#[test]
fn a_scrub_undoes_any_damage() {
    const ARRAYS: [&str; 7] = [
        map::SERVICES,
        map::SERVICE_META,
        map::BACKENDS,
        map::BACKEND_META,
        map::INTERFACES,
        map::META,
        map::VIP_FILTER,
    ];
    let contents = |simulation: &Simulation| {
        let tables = &simulation.tables;
        let mut words = Vec::new();
        for (name, entries) in ARRAYS.into_iter().zip([16, 16, 64, 64, 16, 1, 1024]) {
            words.extend((0..entries).flat_map(|index| tables.present(name, index)));
        }
        let rings: Vec<_> =
            observe(tables).services.keys().map(|service| tables.ring(*service)).collect();
        (words, rings, tables.present_keys())
    };
    let mut rng = Rng::with_seed(0x5c_4ab);
    let mut simulation = simulation();
    simulation.tables.keep_written();
    let mut scrub = Scrub::default();
    for round in 0..40 {
        let (_, desired) = random(&mut rng);
        simulation.reconcile(&desired, 0).expect("there is room");
        let before = contents(&simulation);
        let mut done = Vec::new();
        for _ in 0..rng.usize(1..8) {
            done.push(damage(&mut rng, &mut simulation, &ARRAYS));
            if rng.u8(..4) == 0 {
                done.push(damage_keys(&mut rng, &mut simulation));
            }
        }
        let rings: Vec<u32> = observe(&simulation.tables)
            .services
            .values()
            .filter_map(|service| service.ring.number())
            .collect();
        if !rings.is_empty() {
            let chunk = rings[rng.usize(..rings.len())] * RING_CHUNKS + rng.u32(..RING_CHUNKS);
            for word in 0..rng.usize(1..=8) {
                simulation.tables.flip(map::RINGS, chunk, word, bits(&mut rng));
            }
        }
        println!("{round}: {done:?}");
        // Plans are made from what was written, and see no damage.
        assert!(plan(&simulation, &desired, 0).is_empty());
        let (passes, mut found) = (scrub.passes(), Vec::new());
        while scrub.passes() < passes + 2 {
            found.extend(scrub.step(&mut simulation.tables, Duration::from_millis(50)));
        }
        assert!(contents(&simulation) == before, "not as before; found {found:#?}");
        assert!(!found.is_empty());
        assert_eq!(scrub.step(&mut simulation.tables, Duration::from_secs(1)), [] as [String; 0]);
    }
}

/// A plan that does not fit the maps is refused before any change.
#[test]
fn a_plan_that_does_not_fit_changes_nothing() {
    let yaml = |services: usize| {
        let services: Vec<String> = (1..=services)
            .map(|port| {
                format!(
                    "{{name: s{port}, address: 192.0.2.1, protocol: tcp, port: {port}, forward: \
                     direct, backends: [{{address: 10.0.0.1}}]}}"
                )
            })
            .collect();
        format!("flows: {{size: 1Ki}}\nservices: [{}]", services.join(", "))
    };
    let mut director = Director::new(Given::new(&yaml(2)));
    let before = observe(&director.simulation.tables);
    let given = Given::new(&yaml(9));
    let desired = given.desired(&given.config());
    let error =
        director.simulation.reconcile(&desired, 0).expect_err("rings for two and a spare one");
    assert!(error.to_string().contains("no room for rings"), "{error}");
    assert_eq!(observe(&director.simulation.tables), before);
    assert_eq!(desired.services[0].when_empty, WhenEmpty::Reject);
}
