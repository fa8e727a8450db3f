//! Packets that no host can have sent: dropped if they are for a service, passed unchanged if not.

use director_common::verdict::{DropReason, PassReason};
use director_tests::{
    case::{TX, check, check_in, dropped, pass},
    given::{Given, lend},
    packet::{ACK, Packet, SYN, options_header},
};
use rstest::rstest;

const V4: &str = "198.51.100.7:40000";
const V6: &str = "[2001:db8:1::7]:40000";

/// Sources, and whether a host can have them.
const SOURCES: [(&str, bool); 35] = [
    ("0.0.0.0", false),
    ("0.1.2.3", false),
    ("127.0.0.1", false),
    ("127.255.255.255", false),
    ("224.0.0.5", false),
    ("239.255.255.250", false),
    ("240.0.0.1", false),
    ("255.255.255.255", false),
    ("1.0.0.1", true),
    ("126.0.0.1", true),
    ("128.0.0.1", true),
    ("169.254.1.1", true),
    ("223.255.255.254", true),
    ("10.0.0.1", true),
    // A VIP may be an address that a backend sends from, to another VIP.
    ("192.0.2.99", true),
    ("192.0.2.11", true),
    ("::", false),
    ("::1", false),
    ("::ffff:198.51.100.7", false),
    ("::ffff:127.0.0.1", false),
    ("::ffff:0.0.0.0", false),
    ("ff02::1", false),
    ("ff00::", false),
    ("ff0e::1:2", false),
    ("ffff::1", false),
    ("::2", true),
    ("::fffe:198.51.100.7", true),
    ("0:0:0:1::", true),
    ("64:ff9b::198.51.100.7", true),
    ("fe80::1", true),
    ("fd00::1", true),
    ("fe00::1", true),
    ("2001:db8::99", true),
    ("2001:db8::4", true),
    ("2002:7f00:1::1", true),
];

/// Services of each mode, and one without backends of each kind.
const SERVICES: [(&str, &str); 9] = [
    ("192.0.2.1:80", "t44"),
    ("192.0.2.2:80", "t46"),
    ("192.0.2.4:80", "d4"),
    ("192.0.2.7:80", "reject4"),
    ("192.0.2.8:80", "drop4"),
    ("192.0.2.9:80", "pass4"),
    ("[2001:db8::1]:80", "t64"),
    ("[2001:db8::2]:80", "t66"),
    ("[2001:db8::7]:80", "reject6"),
];

fn from_port(source: &str) -> String {
    if source.contains(':') { format!("[{source}]:4000") } else { format!("{source}:4000") }
}

fn is_v6(address: &str) -> bool {
    address.starts_with('[')
}

/// The packet as the fast path sees it, and as only the slow path does.
fn on_both_paths(packet: &Packet, v6: bool) -> [Packet; 2] {
    let slow = packet.clone().tag(0x8100, 7);
    [packet.clone(), if v6 { slow.extension(60, &options_header(0)) } else { slow.options(4) }]
}

#[test]
fn martian_sources() {
    let reason = dropped(DropReason::MartianSource);
    for (source, is_possible) in SOURCES {
        let from = from_port(source);
        for (to, service) in SERVICES.into_iter().filter(|(to, _)| is_v6(to) == is_v6(&from)) {
            for flags in [SYN, ACK] {
                for packet in on_both_paths(&Packet::tcp_with(&from, to, flags), is_v6(to)) {
                    if !is_possible {
                        check(&packet, reason, Some(service));
                    } else if service.starts_with('t') {
                        check(&packet, TX, Some(service));
                    }
                }
            }
        }
        // For no service: another address, a port of the VIP that has none, another protocol.
        let others = if is_v6(&from) {
            ["[2001:db8::100]:80", "[2001:db8::1]:81"]
        } else {
            ["192.0.2.100:80", "192.0.2.1:81"]
        };
        for to in others {
            for packet in on_both_paths(&Packet::udp(&from, to), is_v6(to)) {
                check(&packet, pass(PassReason::NoService), None);
                check(&packet.hops(0), pass(PassReason::NoService), None);
            }
        }
    }
}

/// Such a packet records nothing, and is refused each time.
#[rstest]
#[case::v4("127.0.0.1:4000", "192.0.2.1:80", "t44")]
#[case::v6("[::1]:4000", "[2001:db8::2]:80", "t66")]
fn martians_leave_no_flow(#[case] from: &str, #[case] to: &str, #[case] service: &str) {
    let mut director = lend(&Given::everything());
    for _ in 0..3 {
        let packet = Packet::udp(from, to);
        check_in(&mut director, &packet, dropped(DropReason::MartianSource), Some(service));
    }
}

/// Nothing but the VIP's own host sends from the VIP, and it does not send to itself by the wire.
#[rstest]
#[case::v4("192.0.2.1:80", "192.0.2.1:80", "t44")]
#[case::v4_another_port("192.0.2.5:9", "192.0.2.5:443", "exact")]
#[case::v6("[2001:db8::2]:80", "[2001:db8::2]:80", "t66")]
fn from_the_vip_to_itself(#[case] from: &str, #[case] to: &str, #[case] service: &str) {
    for packet in on_both_paths(&Packet::tcp(from, to), is_v6(to)) {
        check(&packet, dropped(DropReason::MartianSource), Some(service));
    }
}

/// TTL and hop limit 0, of new and of known flows. 1 is a matter of the next router.
#[test]
fn no_hops_left() {
    let reason = dropped(DropReason::HopLimit);
    for (to, service) in SERVICES {
        let from = if is_v6(to) { V6 } else { V4 };
        for packet in on_both_paths(&Packet::tcp_with(from, to, ACK), is_v6(to)) {
            let mut director = lend(&Given::everything());
            check_in(&mut director, &packet.clone().hops(0), reason, Some(service));
            if service.starts_with(['t', 'd']) && service != "drop4" {
                for hops in [61, 1, 255] {
                    check_in(&mut director, &packet.clone().hops(hops), TX, Some(service));
                }
            }
            check_in(&mut director, &packet.clone().hops(0), reason, Some(service));
        }
    }
}

/// An ICMP error is from a router or host, about a client that could have sent something.
#[rstest]
#[case::possible("203.0.113.9", "198.51.100.7", 61, None)]
#[case::from_loopback("127.0.0.1", "198.51.100.7", 61, Some(DropReason::MartianSource))]
#[case::from_a_group("224.0.0.5", "198.51.100.7", 61, Some(DropReason::MartianSource))]
#[case::about_loopback("203.0.113.9", "127.0.0.1", 61, Some(DropReason::MartianSource))]
#[case::about_the_vip("203.0.113.9", "192.0.2.1", 61, Some(DropReason::MartianSource))]
#[case::no_hops("203.0.113.9", "198.51.100.7", 0, Some(DropReason::HopLimit))]
#[case::v6_possible("2001:db8:9::9", "2001:db8:1::7", 61, None)]
#[case::v6_from_loopback("::1", "2001:db8:1::7", 61, Some(DropReason::MartianSource))]
#[case::v6_about_a_group("2001:db8:9::9", "ff02::1", 61, Some(DropReason::MartianSource))]
#[case::v6_no_hops("2001:db8:9::9", "2001:db8:1::7", 0, Some(DropReason::HopLimit))]
fn errors(
    #[case] router: &str,
    #[case] client: &str,
    #[case] hops: u8,
    #[case] reason: Option<DropReason>,
    #[values(false, true)] is_known: bool,
) {
    let v6 = router.contains(':');
    let (vip, to, service) = if v6 {
        ("2001:db8::1", "[2001:db8::1]:80", "t64")
    } else {
        ("192.0.2.1", "192.0.2.1:80", "t44")
    };
    let mut director = lend(&Given::everything());
    let packet = Packet::tcp(&from_port(client), to);
    if is_known {
        director.run(&packet.frame());
    }
    let quote = packet.reversed().ip_bytes();
    let kind = if v6 { 1 } else { 3 };
    let error = Packet::icmp(router, vip, kind, 1, [0; 4], &quote).hops(hops);
    check_in(&mut director, &error, reason.map_or(TX, dropped), Some(service));
}

/// Fragments are dropped as fragments, whatever else is wrong with them.
#[test]
fn fragments_are_fragments() {
    let packet = Packet::udp("127.0.0.1:4000", "192.0.2.1:80").hops(0).fragment(0, true);
    check(&packet, dropped(DropReason::Fragment), None);
    let other = Packet::udp("127.0.0.1:4000", "192.0.2.100:80").hops(0).fragment(0, true);
    check(&other, pass(PassReason::NoService), None);
}
