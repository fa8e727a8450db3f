//! The flow table: what is tracked, for how long, and what survives a change of configuration.

use std::{net::IpAddr, time::Duration};

use director_common::{
    decision::Connection,
    flow_table::MAX_ADMITTED_PER_TICK,
    verdict::{PassReason, ReplyReason},
};
use director_tests::{
    case::{TX, check_in, pass, pin_to_a_cpu, reply},
    given::{Director, Given, Seen, lend},
    packet::{ACK, FIN, Packet, RST, SYN},
};
use rstest::rstest;

const V4: &str = "198.51.100.7:40000";
const V6: &str = "[2001:db8:1::7]:40000";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[track_caller]
fn sent(director: &mut Director, packet: &Packet, service: &str, connection: Connection) -> Seen {
    let seen = check_in(director, packet, TX, Some(service));
    assert_eq!(seen.connection, connection, "{packet:?}");
    seen
}

#[rstest]
#[case::v4("198.51.100.7:40000", "192.0.2.1:80", "t44")]
#[case::v6("[2001:db8:1::7]:40000", "[2001:db8::2]:80", "t66")]
fn a_flow_is_new_once(#[case] from: &str, #[case] to: &str, #[case] service: &str) {
    let mut director = lend(&Given::everything());
    for packet in [Packet::tcp(from, to), Packet::udp(from, to)] {
        let first = sent(&mut director, &packet, service, Connection::New);
        for _ in 0..3 {
            let seen = sent(&mut director, &packet, service, Connection::Known);
            assert_eq!(seen.backend, first.backend);
        }
    }
}

/// The first packet seen is from the middle of the flow: another director had it before, and the
/// ring selects the same backend.
#[test]
fn a_flow_may_start_with_any_packet() {
    let mut director = lend(&Given::everything());
    let packet = |flags| Packet::tcp_with(V4, "192.0.2.1:80", flags);
    let first = sent(&mut director, &packet(ACK), "t44", Connection::New);
    let seen = sent(&mut director, &packet(ACK), "t44", Connection::Known);
    assert_eq!(seen.backend, first.backend);
}

/// Timeouts: `tcp: 2h`, `tcp_closing: 1m` (also until the handshake is complete), `udp: 5m`.
#[rstest]
#[case::half_open(&[SYN], 60)]
#[case::syn_repeated(&[SYN, SYN, SYN], 60)]
#[case::established(&[SYN, ACK], 7200)]
#[case::closed_by_fin(&[SYN, ACK, FIN | ACK], 60)]
#[case::closed_by_reset(&[SYN, ACK, RST], 60)]
#[case::last_ack(&[SYN, ACK, FIN | ACK, ACK], 60)]
fn tcp_idles(#[case] flags: &[u8], #[case] timeout: u64) {
    let packet = |flags| Packet::tcp_with(V4, "192.0.2.1:80", flags);
    for (idle, connection) in [(timeout - 1, Connection::Known), (timeout + 1, Connection::New)] {
        let mut director = lend(&Given::everything());
        for flags in flags {
            director.run(&packet(*flags).frame());
        }
        director.after(secs(idle));
        sent(&mut director, &packet(ACK), "t44", connection);
    }
}

#[test]
fn udp_idles() {
    for (idle, connection) in [(299, Connection::Known), (301, Connection::New)] {
        let mut director = lend(&Given::everything());
        let packet = Packet::udp(V6, "[2001:db8::1]:80");
        sent(&mut director, &packet, "t64", Connection::New);
        director.after(secs(idle));
        sent(&mut director, &packet, "t64", connection);
    }
}

fn with_timeouts(timeout: &str) -> Director {
    let yaml = format!(
        "flows: {{size: 1Ki, tcp: {timeout}, tcp_closing: {timeout}, udp: {timeout}}}\n\
         services: [{{name: a, address: 192.0.2.1, protocol: [tcp, udp], port: 80, \
         forward: tunnel, backends: [{{address: 10.0.0.1}}]}}]"
    );
    Director::new(Given::new(&yaml))
}

/// Whatever the timeout is, and wherever between two ticks (67 ms) the packets fall: a flow never ends
/// before its timeout, sub-second parts included, and at most 0.7 s after it.
#[rstest]
fn no_flow_ends_early(#[values(1000, 1001, 1500, 10_000, 61_234)] timeout_ms: u64) {
    let mut director = with_timeouts(&format!("{timeout_ms}ms"));
    let mut rng = fastrand::Rng::with_seed(timeout_ms);
    let millis = Duration::from_millis;
    for round in 0..300_u16 {
        let from = format!("198.51.100.7:{}", 2000 + round);
        let tcp = |flags| Packet::tcp_with(&from, "192.0.2.1:80", flags);
        // UDP, an established connection, and a closing one.
        let (packet, more) = match round % 3 {
            0 => (Packet::udp(&from, "192.0.2.1:80"), None),
            1 => (tcp(ACK), Some(ACK)),
            _ => (tcp(ACK), Some(FIN | ACK)),
        };
        sent(&mut director, &packet, "a", Connection::New);
        if let Some(flags) = more {
            sent(&mut director, &tcp(flags), "a", Connection::Known);
        }
        // In use: the entry is not written for every packet, and the last one counts.
        for _ in 0..rng.u32(..8) {
            director.after(millis(rng.u64(..=timeout_ms)));
            sent(&mut director, &packet, "a", Connection::Known);
        }
        director.after(millis(timeout_ms));
        sent(&mut director, &packet, "a", Connection::Known);
        director.after(millis(timeout_ms + 700));
        sent(&mut director, &packet, "a", Connection::New);
        director.after(Duration::from_nanos(rng.u64(..100_000_000)) + secs(7200));
    }
}

/// With `udp: 1s`, a flow of a datagram each 100 ms was placed anew every 1.2 s.
#[rstest]
fn a_busy_flow_never_ends(#[values("1s", "1500ms")] timeout: &str) {
    let mut director = with_timeouts(timeout);
    let packet = Packet::udp(V4, "192.0.2.1:80");
    for gap_ms in [1, 33, 100, 250, 500, 750, 1000] {
        director.after(secs(10));
        sent(&mut director, &packet, "a", Connection::New);
        for _ in 0..500 {
            director.after(Duration::from_millis(gap_ms));
            let seen = director.run(&packet.frame());
            assert_eq!(seen.connection, Connection::Known, "{gap_ms} ms");
        }
    }
}

/// Every packet refreshes the flow, though the entry is only written twice a second.
#[test]
fn a_flow_in_use_does_not_idle() {
    let mut director = lend(&Given::everything());
    let packet = Packet::udp(V4, "192.0.2.1:80");
    sent(&mut director, &packet, "t44", Connection::New);
    for _ in 0..1000 {
        director.after(Duration::from_millis(700));
        assert_eq!(director.run(&packet.frame()).connection, Connection::Known);
    }
    director.after(secs(298));
    sent(&mut director, &packet, "t44", Connection::Known);
}

/// A client that reuses a port opens a new connection.
#[rstest]
#[case::after_fin(FIN | ACK)]
#[case::after_reset(RST)]
fn a_syn_on_a_closing_flow(#[case] end: u8) {
    let mut director = lend(&Given::everything());
    let packet = |flags| Packet::tcp_with(V4, "192.0.2.1:80", flags);
    sent(&mut director, &packet(SYN), "t44", Connection::New);
    sent(&mut director, &packet(ACK), "t44", Connection::Known);
    sent(&mut director, &packet(SYN), "t44", Connection::Known);
    sent(&mut director, &packet(end), "t44", Connection::Known);
    sent(&mut director, &packet(ACK), "t44", Connection::Known);
    sent(&mut director, &packet(SYN | ACK), "t44", Connection::Known);
    sent(&mut director, &packet(SYN), "t44", Connection::New);
    sent(&mut director, &packet(ACK), "t44", Connection::Known);
    director.after(secs(7000));
    sent(&mut director, &packet(ACK), "t44", Connection::Known);
}

/// A flow that finds its set full of established ones is placed by the ring with each of its packets:
/// none of them makes it a flow, and each is counted as a packet of an untracked one.
#[rstest]
#[case::udp(|from: &str| Packet::udp(from, "192.0.2.1:80"))]
#[case::tcp(|from: &str| Packet::tcp_with(from, "192.0.2.1:80", ACK))]
#[case::slow_path(|from: &str| Packet::udp(from, "192.0.2.1:80").options(4))]
fn a_flow_without_a_place_is_no_new_flow(#[case] packet: fn(&str) -> Packet) {
    let yaml = "flows: {size: 1Ki}\nservices: [{name: a, address: 192.0.2.1, protocol: [tcp, udp], \
                port: 80, forward: tunnel, backends: [{address: 10.0.0.1}]}]";
    let mut director = Director::new(Given::new(yaml));
    let flows = |director: &Director| {
        let counters = director.counters();
        let services = counters.services.values();
        services.fold((0, 0, 0), |(flows, untracked, packets), service| {
            let total = &service.total;
            (flows + total.flows, untracked + service.untracked, packets + total.packets)
        })
    };
    // Twice as many established flows as there are places.
    let all: Vec<Packet> =
        (0..8192).map(|n| packet(&format!("198.51.100.7:{}", 2000 + n))).collect();
    let mut known = 0;
    for packet in &all {
        director.run(&packet.frame());
        let seen = director.run(&packet.frame());
        known += u64::from(seen.connection == Connection::Known);
    }
    let before = flows(&director);
    assert_eq!(before.0, known, "flows are those in the table");
    assert!(known > 2000 && known < 8000, "{known} of 8192 found a place");
    let without = all.len() as u64 - known;
    assert_eq!(before.1, 2 * without, "packets of flows without a place");
    for packet in &all {
        let seen = director.run(&packet.frame());
        assert_ne!(seen.connection, Connection::New, "an untracked flow is not new again");
    }
    assert_eq!(
        flows(&director),
        (before.0, before.1 + without, before.2 + all.len() as u64),
        "flows, packets of untracked flows, packets"
    );
}

/// The end of an untracked flow is forwarded and not recorded.
#[rstest]
fn the_end_of_an_untracked_flow(#[values(FIN, FIN | ACK, RST, RST | ACK)] flags: u8) {
    let mut director = lend(&Given::everything());
    let packet = Packet::tcp_with(V4, "192.0.2.1:80", flags);
    let first = sent(&mut director, &packet, "t44", Connection::None);
    let again = sent(&mut director, &packet, "t44", Connection::None);
    assert_eq!(again.backend, first.backend);
}

/// A packet that is dropped or replied to creates no flow.
#[test]
fn no_backend_no_flow() {
    let mut director = lend(&Given::everything());
    let packet = Packet::tcp(V4, "192.0.2.7:80");
    for _ in 0..2 {
        let seen = check_in(&mut director, &packet, reply(ReplyReason::NoBackend), Some("reject4"));
        assert_eq!((seen.connection, seen.backend), (Connection::None, None));
    }
}

// Changes of configuration, each in a separate director.

const BACKENDS: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

fn yaml(services: &[(&str, &[(&str, u16)])]) -> String {
    let mut yaml = "flows: {size: 64Ki}\nservices:\n".to_owned();
    if services.is_empty() {
        yaml = yaml.replace("services:\n", "services: []\n");
    }
    for (name, backends) in services {
        let port = 80 + u16::from(name.as_bytes()[0] - b'a');
        yaml += &format!(
            "  - {{name: {name}, address: 192.0.2.1, protocol: tcp, port: {port}, forward: tunnel, \
             drain_timeout: 10m, backends: ["
        );
        for (address, weight) in *backends {
            yaml += &format!("{{address: {address}, weight: {weight}}}, ");
        }
        yaml += "]}\n";
    }
    yaml
}

/// Established flows, with the backend of each.
fn flows(director: &mut Director, ports: std::ops::Range<u16>, to: &str) -> Vec<(Packet, IpAddr)> {
    let mut flows = Vec::new();
    for port in ports {
        let packet = |flags| Packet::tcp_with(&format!("198.51.100.7:{port}"), to, flags);
        let seen = director.run(&packet(SYN).frame());
        assert_eq!(seen.verdict, TX);
        director.run(&packet(ACK).frame());
        flows.push((packet(ACK), seen.backend.expect("sent somewhere")));
    }
    flows
}

fn count(flows: &[(Packet, IpAddr)], backend: &str) -> usize {
    flows.iter().filter(|(_, to)| to.to_string() == backend).count()
}

#[track_caller]
fn all_stay(director: &mut Director, flows: &[(Packet, IpAddr)]) {
    for (packet, backend) in flows {
        let seen = director.run(&packet.frame());
        assert_eq!((seen.verdict, seen.backend), (TX, Some(*backend)), "{packet:?}");
        assert_eq!(seen.connection, Connection::Known);
    }
}

#[test]
fn a_removed_backend_drains() {
    let all = BACKENDS.map(|backend| (backend, 1));
    let mut director = Director::new(Given::new(&yaml(&[("a", &all)])));
    let known = flows(&mut director, 10_000..10_300, "192.0.2.1:80");
    assert!(BACKENDS.iter().all(|backend| count(&known, backend) > 70));

    director.change(&yaml(&[("a", &all[1..])]));
    all_stay(&mut director, &known);
    let new = flows(&mut director, 20_000..20_300, "192.0.2.1:80");
    assert_eq!(count(&new, BACKENDS[0]), 0, "no new flow to a removed backend");

    // Shortly before the deadline the flows stay, after it they are rescheduled.
    director.after(secs(599));
    director.change(&yaml(&[("a", &all[1..])]));
    all_stay(&mut director, &known);
    director.after(secs(2));
    director.change(&yaml(&[("a", &all[1..])]));
    for (packet, backend) in &known {
        let seen = director.run(&packet.frame());
        assert_eq!(seen.verdict, TX);
        if backend.to_string() == BACKENDS[0] {
            assert_eq!(seen.connection, Connection::New);
            assert_ne!(seen.backend, Some(*backend));
        } else {
            assert_eq!((seen.connection, seen.backend), (Connection::Known, Some(*backend)));
        }
    }
}

#[test]
fn a_backend_that_comes_back_ends_its_drain() {
    let all = BACKENDS.map(|backend| (backend, 1));
    let mut director = Director::new(Given::new(&yaml(&[("a", &all)])));
    let known = flows(&mut director, 10_000..10_100, "192.0.2.1:80");
    director.change(&yaml(&[("a", &all[1..])]));
    director.after(secs(300));
    director.change(&yaml(&[("a", &all)]));
    director.after(secs(500));
    director.change(&yaml(&[("a", &all)]));
    all_stay(&mut director, &known);
    let new = flows(&mut director, 20_000..20_300, "192.0.2.1:80");
    assert!(count(&new, BACKENDS[0]) > 70, "it takes new flows again");
}

#[test]
fn weight_zero_keeps_known_flows() {
    let mut director =
        Director::new(Given::new(&yaml(&[("a", &BACKENDS.map(|backend| (backend, 1)))])));
    let known = flows(&mut director, 10_000..10_100, "192.0.2.1:80");
    let drained = [(BACKENDS[0], 0), (BACKENDS[1], 1), (BACKENDS[2], 1)];
    director.change(&yaml(&[("a", &drained)]));
    director.after(secs(3600));
    director.change(&yaml(&[("a", &drained)]));
    all_stay(&mut director, &known);
    let new = flows(&mut director, 20_000..20_100, "192.0.2.1:80");
    assert_eq!(count(&new, BACKENDS[0]), 0);
}

#[test]
fn a_weight_moves_its_share_of_new_flows_and_no_known_one() {
    let mut director =
        Director::new(Given::new(&yaml(&[("a", &BACKENDS.map(|backend| (backend, 1)))])));
    let known = flows(&mut director, 10_000..11_000, "192.0.2.1:80");
    director.change(&yaml(&[("a", &[(BACKENDS[0], 2), (BACKENDS[1], 1), (BACKENDS[2], 1)])]));
    all_stay(&mut director, &known);
    let new = flows(&mut director, 20_000..24_000, "192.0.2.1:80");
    for (backend, share) in [(BACKENDS[0], 2000), (BACKENDS[1], 1000), (BACKENDS[2], 1000)] {
        let got = count(&new, backend);
        assert!(got.abs_diff(share) < 150, "{backend} got {got} of 4000, {share} are its share");
    }
    // Of untracked flows, only those that the heavier backend gains move.
    director.after(secs(30_000));
    let moved = known.iter().filter(|(packet, backend)| {
        let syn = director.run(&packet.frame());
        syn.backend != Some(*backend)
    });
    let moved = moved.count();
    assert!((100..260).contains(&moved), "{moved} of 1000 moved, a sixth should");
}

#[test]
fn flows_of_a_removed_service_are_unmatched() {
    let all = BACKENDS.map(|backend| (backend, 1));
    let mut director = Director::new(Given::new(&yaml(&[("a", &all), ("b", &all)])));
    let of_a = flows(&mut director, 10_000..10_030, "192.0.2.1:80");
    let of_b = flows(&mut director, 10_000..10_030, "192.0.2.1:81");
    director.change(&yaml(&[("b", &all)]));
    for (packet, _) in &of_a {
        check_in(&mut director, packet, pass(PassReason::NoService), None);
    }
    all_stay(&mut director, &of_b);

    // Created again, in any free slots: the old flows are new.
    director.change(&yaml(&[("a", &all), ("b", &all)]));
    for (packet, backend) in &of_a {
        let seen = sent(&mut director, packet, "a", Connection::New);
        assert_eq!(seen.backend, Some(*backend), "the same ring as before");
    }
    all_stay(&mut director, &of_b);
}

/// A slot is reused by another backend, which does not get the old flows.
#[test]
fn a_reused_slot_revives_nothing() {
    let mut director = Director::new(Given::new(&yaml(&[("a", &[(BACKENDS[0], 1)])])));
    let known = flows(&mut director, 10_000..10_050, "192.0.2.1:80");
    for round in 0..3 {
        // The service and its backend are removed; another service gets the slots.
        director.change(&yaml(&[]));
        director.change(&yaml(&[("b", &[("10.9.9.9", 1)])]));
        for (packet, _) in &known {
            check_in(&mut director, packet, pass(PassReason::NoService), None);
        }
        director.change(&yaml(&[]));
        director.change(&yaml(&[("a", &[("10.8.8.8", 1), ("10.7.7.7", 1)])]));
        for (packet, backend) in &known {
            let seen = director.run(&packet.frame());
            assert_eq!(seen.connection, Connection::New, "round {round}");
            assert_ne!(seen.backend, Some(*backend));
        }
    }
}

/// Names and order move no flow.
#[test]
fn names_and_order_do_not_matter() {
    let all = BACKENDS.map(|backend| (backend, 1));
    let mut reversed = all;
    reversed.reverse();
    let mut director = Director::new(Given::new(&yaml(&[("a", &all), ("b", &all)])));
    let known = flows(&mut director, 10_000..10_100, "192.0.2.1:80");
    let other = yaml(&[("b", &reversed), ("a", &reversed)]).replace("name: a", "name: renamed");
    director.change(&other);
    all_stay(&mut director, &known);
    let seen = director.run(&known[0].0.frame());
    assert_eq!(seen.service.as_deref(), Some("renamed"));

    let mut fresh = Director::new(Given::new(&other));
    for (packet, backend) in flows(&mut director, 20_000..20_100, "192.0.2.1:80") {
        assert_eq!(fresh.run(&packet.frame()).backend, Some(backend), "another director agrees");
    }
}

/// The path to a backend changes: packets follow at once.
#[test]
fn a_changed_path_is_used_at_once() {
    let mut director = Director::new(Given::new(&yaml(&[("a", &[(BACKENDS[0], 1)])])));
    let known = flows(&mut director, 10_000..10_005, "192.0.2.1:80");
    director.given = director.given.clone().vlan(12).mtu(1500);
    let same = yaml(&[("a", &[(BACKENDS[0], 1)])]);
    director.change(&same);
    for (packet, _) in &known {
        check_in(&mut director, packet, TX, Some("a"));
        let big = packet.clone().payload(1450);
        check_in(&mut director, &big, reply(ReplyReason::TooBig), Some("a"));
    }
}

#[rstest]
#[case::three(3)]
#[case::a_hundred(100)]
#[case::a_thousand(1000)]
fn shares_by_the_ring(#[case] backends: u32) {
    // Weights 1 to 3, over the maps that packets read.
    let weight = |at: u32| 1 + at % 3;
    let list: Vec<String> = (0..backends)
        .map(|at| {
            format!("{{address: 10.1.{}.{}, weight: {}}}", at / 250, 1 + at % 250, weight(at))
        })
        .collect();
    let yaml = format!(
        "flows: {{size: 1Ki}}\nservices: [{{name: a, address: 192.0.2.1, protocol: tcp, port: 80, \
         forward: tunnel, backends: [{}]}}]",
        list.join(", ")
    );
    let director = Director::new(Given::new(&yaml));
    let ring = director.simulation.tables.ring(0);
    let slots = ring.len() as f64;
    let total: u32 = (0..backends).map(weight).sum();
    let mut got: std::collections::HashMap<u32, u32> = std::collections::HashMap::new();
    for backend in ring {
        *got.entry(backend.slot()).or_default() += 1;
    }
    assert_eq!(got.len(), backends as usize, "no other backend");
    let observed = director_userspace::kernel::datapath::observe(&director.simulation.tables);
    for (slot, backend) in &observed.backends {
        let share = slots * f64::from(backend.weight) / f64::from(total);
        let off = (f64::from(got[slot]) - share).abs();
        assert!(off <= 1f64.max(share / 100.0), "{}: {} of {share}", backend.address, got[slot]);
    }
}

/// A SYN flood beyond 8,192 new TCP flows in 67 ms is forwarded and not recorded, whatever its packets
/// carry: the limit protects the flow table on the fast path and on the slow path.
#[rstest]
#[case::plain(V4, "192.0.2.1:80", |packet: Packet| packet)]
#[case::plain_v6(V6, "[2001:db8::2]:80", |packet: Packet| packet)]
#[case::vlan_tag(V4, "192.0.2.1:80", |packet: Packet| packet.tag(0x8100, 77))]
#[case::ip_options(V4, "192.0.2.1:80", |packet: Packet| packet.options(4))]
fn a_syn_flood_is_limited(
    #[case] from: &str,
    #[case] to: &str,
    #[case] kind: fn(Packet) -> Packet,
) {
    const LIMIT: usize = MAX_ADMITTED_PER_TICK as usize;
    const BEYOND: usize = 100;
    pin_to_a_cpu();
    let mut director = Director::new(Given::everything());
    let address = from.rsplit_once(':').expect("a port").0;
    let syn = |n: usize| kind(Packet::tcp_with(&format!("{address}:{}", 1024 + n), to, SYN));
    let untracked = |director: &Director| {
        director.counters().services.values().map(|service| service.untracked).sum::<u64>()
    };
    let mut full_sets = 0;
    for n in 0..LIMIT + BEYOND {
        let seen = director.run(&syn(n).frame());
        assert_eq!(seen.verdict, TX, "{n}");
        if n + 1 == LIMIT {
            full_sets = untracked(&director);
        }
    }
    assert_eq!(untracked(&director) - full_sets, BEYOND as u64);
    // What goes beyond is not in the table, and what came before it is.
    let mut known = |n| {
        director
            .run(&kind(Packet::tcp_with(&format!("{address}:{}", 1024 + n), to, ACK)).frame())
            .connection
    };
    assert_eq!(known(0), Connection::Known);
    assert_eq!(known(LIMIT + 1), Connection::New);
    // The next tick admits again.
    director.after(Duration::from_millis(68));
    let before = untracked(&director);
    director.run(&syn(LIMIT + BEYOND).frame());
    assert_eq!(untracked(&director), before);
}
