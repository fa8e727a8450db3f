//! Fixed bugs, by name.

use director_common::{
    decision::Connection,
    verdict::{PassReason, ReplyReason},
};
use director_tests::{
    case::{TX, check, check_in, check_passed, reply},
    given::{Director, Given, lend},
    packet::{ACK, Packet, options_header},
};
use director_userspace::{
    kernel::datapath::{DatapathError, apply, observe},
    policy::plan::{Desired, Op, diff},
};

/// Errors quoted 28, 48, 64 or 128 bytes: for a packet with options, less than its IP header and
/// eight more bytes, which receivers ignore.
#[test]
fn errors_quoted_too_little_after_options() {
    let packet = Packet::udp("198.51.100.7:40000", "192.0.2.7:80").cut(8).set(4, &[0, 8]);
    let seen = check(&packet.options(4), reply(ReplyReason::NoBackend), Some("reject4"));
    assert_eq!(seen.frame.len(), 14 + 20 + 8 + 32);
    let packet = Packet::udp("[2001:db8:1::7]:40000", "[2001:db8::7]:80").cut(8).set(4, &[0, 8]);
    let packet = packet.extension(60, &options_header(0));
    let seen = check(&packet, reply(ReplyReason::NoBackend), Some("reject6"));
    assert_eq!(seen.frame.len(), 14 + 40 + 8 + 56);
}

/// An entry that another CPU wrote a tick later seemed 2.3 years old: the flow was rescheduled.
#[test]
fn an_entry_from_the_next_tick_had_expired() {
    let mut director = lend(&Given::everything());
    let packet = Packet::tcp_with("198.51.100.7:40000", "192.0.2.1:80", ACK);
    check_in(&mut director, &packet, TX, Some("t44"));
    check_in(&mut director, &packet, TX, Some("t44"));
    director.now_ns -= 100_000_000;
    let seen = check_in(&mut director, &packet, TX, Some("t44"));
    assert_eq!(seen.connection, Connection::Known);
}

/// A fragment header in the padding after the packet made it a fragment, which was dropped.
#[test]
fn a_fragment_header_after_the_end_of_the_packet() {
    for to in ["[2001:db8::1]:80", "[2001:db8::100]:80"] {
        let packet = Packet::udp("[2001:db8:1::7]:40000", to).fragment(0, true);
        let mut frame = packet.frame();
        for length in 0..8 {
            frame[14 + 5] = length;
            check_passed(&frame, PassReason::Malformed);
        }
    }
}

/// The kernel's test run gives a program the first page of a frame: a longer frame seemed
/// malformed.
#[test]
fn frames_longer_than_a_page_were_parsed_partially() {
    let mut director = lend(&Given::everything());
    let now = director.now_ns;
    let packet = |payload| Packet::tcp("198.51.100.7:40000", "192.0.2.1:80").payload(payload);
    check_in(&mut director, &packet(3072 - 54), TX, Some("t44"));
    for payload in [3072 - 53, 3600, 8946, 65_000] {
        match director.simulation.run(&packet(payload).frame(), now) {
            Err(DatapathError::FrameTooLong { length, limit: 3072 }) => {
                assert_eq!(length, payload + 54);
            }
            other => panic!("{payload}: {other:?}"),
        }
    }
}

fn two_services() -> Director {
    let service = |port: u16| {
        format!(
            "{{name: s{port}, address: 192.0.2.1, protocol: tcp, port: {port}, forward: direct, \
             backends: [{{address: 10.0.0.1}}]}}"
        )
    };
    let yaml = format!("flows: {{size: 1Ki}}\nservices: [{}, {}]", service(80), service(81));
    Director::new(Given::new(&yaml))
}

/// A process that died after hiding a service left a key that no later process could remove.
#[test]
fn a_key_that_is_gone_already_could_not_be_removed() {
    let mut director = two_services();
    let tables = &mut director.simulation.tables;
    for _ in 0..2 {
        let mut plan = diff(&observe(tables), &Desired::default(), 0).expect("an empty state fits");
        plan.ops.truncate(1);
        assert!(matches!(plan.ops[0], Op::HideService { .. }), "{plan}");
        apply(tables, &plan.ops).expect("again");
    }
    director.simulation.reconcile(&Desired::default(), 0).expect("to the end");
    assert!(observe(&director.simulation.tables).services.is_empty());
}

/// A backend that was removed just as its next hop changed got the new next hop only one plan
/// later.
#[test]
fn a_backend_removed_while_it_moved() {
    let mut director = two_services();
    director.given = director.given.clone().vlan(7);
    let tables = &mut director.simulation.tables;
    let mut desired = director.given.desired(&director.config);
    desired.services[0].backends.clear();
    let plan = diff(&observe(tables), &desired, 0).expect("there is room");
    apply(tables, &plan.ops).expect("maps can be written");
    let rest = diff(&observe(tables), &desired, 0).expect("there is room");
    assert!(rest.is_empty(), "{rest}");
}
