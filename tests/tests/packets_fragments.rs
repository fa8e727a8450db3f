//! Fragments: not forwarded yet, and never passed to the host if they are for a service.

use director_common::{
    decision::Connection,
    verdict::{DropReason, PassReason},
};
use director_tests::{
    case::{check, check_in, dropped, pass},
    given::{Director, Given},
    packet::{Packet, authentication_header, options_header},
};
use rstest::rstest;

const V4: &str = "198.51.100.7:40000";
const V6: &str = "[2001:db8:1::7]:40000";

/// Only the first fragment carries ports, so those to any port of a service's address and protocol
/// are dropped.
#[rstest]
fn of_a_service(
    #[values((0, true), (1480, true), (2960, false), (8, false))] fragment: (u16, bool),
    #[values(80, 81)] port: u16,
) {
    let (offset, more) = fragment;
    for packet in [
        Packet::udp(V4, &format!("192.0.2.1:{port}")).payload(64),
        Packet::tcp(V4, &format!("192.0.2.5:{port}")).payload(64).options(12),
        Packet::tcp(V4, &format!("192.0.2.7:{port}")).tag(0x8100, 9),
        Packet::udp(V6, &format!("[2001:db8::1]:{port}")).payload(64),
        Packet::tcp(V6, &format!("[2001:db8::4]:{port}")).extension(0, &options_header(0)),
    ] {
        let seen = check(&packet.fragment(offset, more), dropped(DropReason::Fragment), None);
        assert_eq!(seen.connection, Connection::None);
    }
}

/// Extension headers may follow the fragment header. The first fragment has them and the transport
/// header; what a later one says of its protocol is the number of the first of them.
#[rstest]
#[case::destination(&[(60, options_header(0))])]
#[case::long_destination(&[(60, options_header(3))])]
#[case::authentication(&[(51, authentication_header())])]
#[case::several(&[(60, options_header(0)), (51, authentication_header()), (60, options_header(1))])]
#[case::another_fragment_header(&[(44, vec![0, 0, 0, 0, 1, 2, 3, 4])])]
#[case::no_more(&[])]
fn headers_behind_the_fragment_header(
    #[case] behind: &[(u8, Vec<u8>)],
    #[values((0, true), (1480, true), (2960, false))] fragment: (u16, bool),
    #[values(&[], &[(0, options_header(0))])] before: &[(u8, Vec<u8>)],
) {
    let add = |packet: Packet, headers: &[(u8, Vec<u8>)]| {
        headers.iter().fold(packet, |packet, (number, body)| packet.extension(*number, body))
    };
    let (offset, more) = fragment;
    let fragment = |packet| add(add(packet, before).fragment(offset, more), behind);
    for to in ["[2001:db8::1]:80", "[2001:db8::1]:81", "[2001:db8::4]:80"] {
        for packet in [Packet::udp(V6, to).payload(64), Packet::tcp(V6, to).payload(64)] {
            check(&fragment(packet), dropped(DropReason::Fragment), None);
        }
    }
    for packet in [Packet::udp(V6, "[2001:db8::100]:80"), Packet::tcp(V6, "[2001:db8::100]:80")] {
        check(&fragment(packet), pass(PassReason::NoService), None);
    }
    // The first fragment tells what it is.
    if offset == 0 {
        let echo = Packet::icmp("2001:db8:1::7", "2001:db8::1", 128, 0, [0; 4], &[0; 64]);
        check(&fragment(echo), pass(PassReason::OtherProtocol), None);
    }
}

/// Headers that end behind the packet, and too many.
#[test]
fn broken_headers_behind_the_fragment_header() {
    let packet = || Packet::udp(V6, "[2001:db8::1]:80").fragment(0, true);
    let long = packet().extension(60, &[0, 9, 0, 0, 0, 0, 0, 0]);
    check(&long, pass(PassReason::Malformed), None);
    let with = |headers| (0..headers).fold(packet(), |p, _| p.extension(60, &options_header(0)));
    check(&with(5), dropped(DropReason::Fragment), None);
    check(&with(6), pass(PassReason::TooManyHeaders), None);
}

/// The last fragment may be shorter than any transport header.
#[rstest]
fn short_fragments(#[values(0, 1, 7)] length: usize) {
    let packet = Packet::udp(V4, "192.0.2.1:80").cut(length).fragment(1480, false);
    check(&packet, dropped(DropReason::Fragment), None);
    let packet = Packet::udp(V6, "[2001:db8::1]:80").cut(length).fragment(1480, false);
    check(&packet, dropped(DropReason::Fragment), None);
}

#[rstest]
#[case::another_address(Packet::udp(V4, "192.0.2.100:80"), PassReason::NoService)]
#[case::another_address_v6(Packet::udp(V6, "[2001:db8::100]:80"), PassReason::NoService)]
#[case::another_protocol(Packet::tcp(V4, "192.0.2.6:53"), PassReason::NoService)]
#[case::echo(Packet::icmp("198.51.100.7", "192.0.2.1", 8, 0, [0; 4], &[0; 64]), PassReason::OtherProtocol)]
#[case::echo_v6(Packet::icmp("2001:db8:1::7", "2001:db8::1", 128, 0, [0; 4], &[0; 64]), PassReason::OtherProtocol)]
#[case::esp(Packet::ip([198, 51, 100, 7].into(), [192, 0, 2, 1].into(), 50, vec![0; 64]), PassReason::OtherProtocol)]
fn of_other_traffic(#[case] packet: Packet, #[case] reason: PassReason) {
    for (offset, more) in [(0, true), (64, true), (128, false)] {
        check(&packet.clone().fragment(offset, more), pass(reason), None);
    }
}

/// The reserved bit and don't-fragment do not make a packet a fragment.
#[test]
fn flags_of_unfragmented_packets() {
    for flags in [0x00, 0x40, 0x80, 0xc0] {
        let mut frame = Packet::tcp(V4, "192.0.2.4:80").frame();
        frame[20] = flags;
        frame[24..26].fill(0);
        let sum = director_tests::packet::fold(director_tests::packet::sum_of(&frame[14..34]));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let mut director = director_tests::given::lend(&Given::everything());
        assert_eq!(director.run(&frame).verdict, director_tests::case::TX, "{flags:#x}");
    }
}

/// The entry that all services of an address and protocol share is removed with the last of them.
#[test]
fn follow_added_and_removed_services() {
    let yaml = |services: &str| format!("flows: {{size: 1Ki}}\nservices: [{services}]");
    let one = |port: u16| {
        format!(
            "{{name: s{port}, address: 192.0.2.1, protocol: tcp, port: {port}, forward: direct, \
             backends: [{{address: 10.0.0.1}}]}}"
        )
    };
    let mut director = Director::new(Given::new(&yaml(&[one(80), one(81)].join(","))));
    let fragment = Packet::tcp(V4, "192.0.2.1:80").fragment(64, false);
    let drop = dropped(DropReason::Fragment);
    check_in(&mut director, &fragment, drop, None);
    for port in [80, 81, 80] {
        director.change(&yaml(&one(port)));
        check_in(&mut director, &fragment, drop, None);
    }
    director.change(&yaml(""));
    check_in(&mut director, &fragment, pass(PassReason::NoService), None);
    director.change(&yaml(&one(82)));
    check_in(&mut director, &fragment, drop, None);
}
