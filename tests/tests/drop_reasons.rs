//! Every verdict, each caused by a packet: a reason that nothing can cause, or that has no test,
//! fails here.

use director_common::verdict::{DropReason, PassReason, ReplyReason, Verdict};
use director_tests::{
    case::{check_in, check_passed},
    given::{Director, Given},
    packet::{Packet, options_header},
};

const V4: &str = "198.51.100.7:40000";
const V6: &str = "[2001:db8:1::7]:40000";

/// What causes a verdict.
enum Cause {
    /// This packet, under this configuration; and the service that matches.
    Packet(Packet, Given, Option<&'static str>),
    /// These bytes.
    Bytes(Vec<u8>),
    /// This packet, with too little headroom in front of the frame.
    NoRoom(Packet),
    /// A condition that a simulation cannot create; the file and the function of the live test that
    /// does.
    Elsewhere(&'static str, &'static str),
}

/// Exhaustive on purpose: a new reason does not compile until it has a row.
fn cause(verdict: Verdict) -> Cause {
    let everything = Given::everything;
    let tcp = |to| Packet::tcp(V4, to);
    const LIVE: &str = include_str!("live_drops.rs");
    match verdict {
        Verdict::Tx => Cause::Packet(tcp("192.0.2.1:80"), everything(), Some("t44")),
        Verdict::Redirect => {
            Cause::Packet(tcp("192.0.2.4:80"), everything().interface(2), Some("d4"))
        }
        Verdict::Reply(ReplyReason::NoBackend) => {
            Cause::Packet(tcp("192.0.2.7:80"), everything(), Some("reject4"))
        }
        Verdict::Reply(ReplyReason::TooBig) => {
            Cause::Packet(tcp("192.0.2.1:80").payload(1000), everything().mtu(1000), Some("t44"))
        }
        Verdict::Pass(reason) => match reason {
            PassReason::Truncated => Cause::Bytes(tcp("192.0.2.1:80").frame()[..33].to_vec()),
            PassReason::NotIp => Cause::Bytes(vec![0; 60]),
            PassReason::NotOurMac => Cause::Elsewhere(LIVE, "pass_not_our_mac"),
            PassReason::Malformed => {
                Cause::Packet(tcp("192.0.2.1:80").set(12, &[0]), everything(), None)
            }
            PassReason::OtherProtocol => {
                let echo = Packet::icmp("198.51.100.7", "192.0.2.1", 8, 0, [0; 4], b"ping");
                Cause::Packet(echo, everything(), None)
            }
            PassReason::NoService => Cause::Packet(tcp("192.0.2.1:81"), everything(), None),
            PassReason::TooManyHeaders => {
                let packet = Packet::tcp(V6, "[2001:db8::1]:80");
                let packet = (0..7).fold(packet, |p, _| p.extension(60, &options_header(0)));
                Cause::Packet(packet, everything(), None)
            }
            PassReason::NoBackend => {
                Cause::Packet(tcp("192.0.2.9:80"), everything(), Some("pass4"))
            }
        },
        Verdict::Drop(reason) => match reason {
            DropReason::Fragment => {
                Cause::Packet(tcp("192.0.2.1:80").fragment(64, true), everything(), None)
            }
            DropReason::NoBackend => {
                Cause::Packet(tcp("192.0.2.8:80"), everything(), Some("drop4"))
            }
            DropReason::TooBig => {
                let answer = tcp("192.0.2.1:80").reversed().payload(600).ip_bytes();
                let error = Packet::icmp("203.0.113.9", "192.0.2.1", 3, 1, [0; 4], &answer);
                Cause::Packet(error, everything().mtu(600), Some("t44"))
            }
            DropReason::NoRoute => Cause::Elsewhere(LIVE, "drop_no_route"),
            DropReason::NoNeighbour => Cause::Elsewhere(LIVE, "drop_no_neighbour"),
            DropReason::NoHeadroom => Cause::NoRoom(tcp("192.0.2.1:80")),
            DropReason::NoInterface => Cause::Elsewhere(LIVE, "drop_no_interface"),
            DropReason::MartianSource => Cause::Packet(
                Packet::tcp("127.0.0.1:40000", "192.0.2.1:80"),
                everything(),
                Some("t44"),
            ),
            DropReason::HopLimit => {
                Cause::Packet(tcp("192.0.2.1:80").hops(0), everything(), Some("t44"))
            }
            DropReason::BelowMinimumMtu => Cause::Packet(
                Packet::tcp(V6, "[2001:db8::2]:80").payload(1261 - 60),
                everything().mtu(1300),
                Some("t66"),
            ),
        },
    }
}

#[test]
fn every_verdict_has_a_packet() {
    let mut caused = 0;
    for verdict in Verdict::all() {
        println!("{verdict:?}");
        match cause(verdict) {
            Cause::Packet(packet, given, service) => {
                let mut director = director_tests::given::lend(&given);
                check_in(&mut director, &packet, verdict, service);
            }
            Cause::Bytes(frame) => {
                let Verdict::Pass(reason) = verdict else { panic!("{verdict:?} needs a packet") };
                check_passed(&frame, reason);
            }
            Cause::NoRoom(packet) => {
                let mut director = Director::new(Given::everything());
                // The headroom is 216 bytes, and an IPv4 header needs 20.
                director.simulation.take_headroom(196);
                check_in(&mut director, &packet, Verdict::Tx, Some("t44"));
                director.simulation.take_headroom(200);
                check_in(&mut director, &packet, verdict, Some("t44"));
            }
            Cause::Elsewhere(file, test) => {
                let is_there = file.contains(&format!(
                    "#[tokio::test(flavor = \"multi_thread\")]\nasync fn {test}()"
                ));
                assert!(is_there, "{verdict:?}: no test {test}");
            }
        }
        caused += 1;
    }
    let reasons = PassReason::ALL.len() + DropReason::ALL.len() + ReplyReason::ALL.len();
    assert_eq!(caused, reasons + 2);
}

/// A frame without headroom is dropped unchanged, tagged or not.
#[test]
fn no_headroom_changes_nothing() {
    let mut director = Director::new(Given::everything());
    director.simulation.take_headroom(212);
    for to in ["192.0.2.1:80", "192.0.2.2:80"] {
        let service = if to == "192.0.2.1:80" { "t44" } else { "t46" };
        let packet = Packet::tcp(V4, to);
        let drop = Verdict::Drop(DropReason::NoHeadroom);
        let seen = check_in(&mut director, &packet, drop, Some(service));
        assert_eq!(seen.frame, packet.frame());
        // Two removed tags leave eight bytes for the outer header: still not enough.
        let packet = packet.tag(0x88a8, 1).tag(0x8100, 2);
        let seen = check_in(&mut director, &packet, drop, Some(service));
        assert_eq!(seen.frame, packet.frame());
    }
    // Direct routing needs no headroom.
    check_in(&mut director, &Packet::tcp(V4, "192.0.2.4:80"), Verdict::Tx, Some("d4"));
}
