//! Imported services, run through the shipped program: every packet goes to a server that the
//! source lists, by the source's forwarding mode; packets of services left out pass to the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
};

use director_common::verdict::Verdict;
use director_tests::{
    given::{Director, Given, mac_of},
    packet::Packet,
    read,
};

use super::fixture::Fixture;

/// Flows to every service: enough for each server of some weight to get one.
const FLOWS: u16 = 300;

/// A service as listed in an expected file.
struct Listed {
    is_tcp: bool,
    address: SocketAddr,
    is_tunnel: bool,
    servers: BTreeMap<IpAddr, u32>,
}

/// `tcp 192.0.2.10:80 direct 10.0.0.1*1 10.0.0.2*3`
fn listed(line: &str) -> Option<Listed> {
    let words: Vec<&str> = line.split(' ').collect();
    let [protocol @ ("tcp" | "udp"), address, forward, servers @ ..] = &words[..] else {
        return None;
    };
    let servers = servers.iter().map(|server| {
        let (address, weight) = server.split_once('*').expect("a weight");
        (address.parse().expect("an address"), weight.parse().expect("a weight"))
    });
    Some(Listed {
        is_tcp: *protocol == "tcp",
        address: address.replace(":any", ":4711").parse().expect("an address"),
        is_tunnel: *forward == "tunnel",
        servers: servers.collect(),
    })
}

/// `left-out nat dump:1 tcp 203.0.113.1:80`: what was left out, if it has an address.
fn left_out(line: &str) -> Option<(bool, SocketAddr)> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["left-out", what, _, protocol @ ("tcp" | "udp"), address] if what != "duplicate" => {
            let address = address.replace(":any", ":4711").parse().expect("an address");
            Some((protocol == "tcp", address))
        }
        _ => None,
    }
}

fn packet(is_tcp: bool, port: u16, to: SocketAddr) -> Packet {
    let from =
        if to.is_ipv4() { "203.0.113.200".to_owned() } else { "[2001:db8:c1::7]".to_owned() };
    let (from, to) = (format!("{from}:{port}"), to.to_string());
    if is_tcp { Packet::tcp(&from, &to) } else { Packet::udp(&from, &to) }
}

#[test]
fn carried_over_services_forward_like_the_source() {
    let (mut n_carried, mut n_left) = (0, 0);
    // One program for all of them, since loading is slow. It has room for the largest.
    let room = (0..100).map(|n| {
        format!(
            "  - {{name: room-{n}, address: 203.0.114.{n}, protocol: tcp, port: 9, forward: direct, \
             backends: [{{address: 10.99.0.1}}]}}\n"
        )
    });
    let room: String = room.collect();
    let mut director = Director::new(Given::new(&format!("services:\n{room}")));
    for fixture in Fixture::all() {
        let yaml = fixture.import().yaml;
        director.change(&yaml);
        let expected = fs::read_to_string(fixture.expected_path()).expect("there");
        let carried: Vec<Listed> = expected.lines().filter_map(listed).collect();
        for service in &carried {
            check_service(&mut director, service, &fixture.name());
            n_carried += 1;
        }
        let taken: BTreeSet<(bool, SocketAddr)> =
            carried.iter().map(|service| (service.is_tcp, service.address)).collect();
        for (is_tcp, address) in expected.lines().filter_map(left_out) {
            if taken.contains(&(is_tcp, address)) {
                continue;
            }
            let frame = packet(is_tcp, 1024, address).frame();
            let seen = director.run(&frame);
            assert!(
                matches!(seen.verdict, Verdict::Pass(_)),
                "{}: {address}: {seen:?}",
                fixture.name()
            );
            assert_eq!(seen.frame, frame, "unchanged");
            n_left += 1;
        }
    }
    assert!(n_carried > 50 && n_left > 15, "{n_carried} carried over, {n_left} left out");
}

fn check_service(director: &mut Director, service: &Listed, name: &str) {
    let mut used = BTreeSet::new();
    for port in 0..FLOWS {
        let frame = packet(service.is_tcp, 10_000 + port, service.address).frame();
        let seen = director.run(&frame);
        let at = format!("{name}: {}", service.address);
        if service.servers.values().all(|weight| *weight == 0) {
            assert!(!matches!(seen.verdict, Verdict::Tx), "{at}: {seen:?}");
            return;
        }
        assert_eq!(seen.verdict, Verdict::Tx, "{at}");
        let backend = seen.backend.expect("sent to one");
        let weight = service.servers.get(&backend);
        assert!(weight.is_some_and(|weight| *weight > 0), "{at}: {backend}");
        let link = read::link(&seen.frame);
        assert_eq!(link.destination, mac_of(backend), "{at}");
        if service.is_tunnel {
            let outer = read::outer(&seen.frame[link.l3_offset..]);
            let inner = if service.address.is_ipv4() { 4 } else { 41 };
            assert_eq!((outer.destination, outer.protocol), (backend, inner), "{at}");
            assert_eq!(seen.frame[link.l3_offset + outer.header_length..], frame[14..], "{at}");
        } else {
            assert_eq!(seen.frame[link.l3_offset..], frame[14..], "{at}: unchanged");
        }
        used.insert(backend);
    }
    // A share below a hundredth may get none of a few hundred flows.
    let total: u64 = service.servers.values().map(|weight| u64::from(*weight)).sum();
    let large = service.servers.iter().filter(|(_, weight)| u64::from(**weight) * 25 > total);
    for (address, _) in large {
        assert!(used.contains(address), "{name}: {}: {address} got none", service.address);
    }
}
