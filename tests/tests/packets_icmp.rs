//! ICMP errors follow the flow that they quote: path MTU discovery depends on it.

use std::net::IpAddr;

use director_common::{decision::Connection, verdict::PassReason};
use director_tests::{
    case::{TX, check, check_in, pass},
    given::{Given, lend},
    packet::{ACK, Packet, options_header},
};
use rstest::rstest;

const CLIENT: &str = "198.51.100.7";
const CLIENT6: &str = "2001:db8:1::7";
const ROUTER: &str = "203.0.113.9";
const ROUTER6: &str = "2001:db8:9::9";

/// An ICMP error about the VIP's answer to this packet.
fn error_about(packet: &Packet, kind: u8, code: u8, quoted: usize) -> Packet {
    let answer = packet.clone().reversed().payload(64).ip_bytes();
    let headers = answer.len() - packet.transport_length() - 64;
    let (router, vip) = match packet.destination() {
        IpAddr::V4(vip) => (ROUTER, vip.to_string()),
        IpAddr::V6(vip) => (ROUTER6, vip.to_string()),
    };
    Packet::icmp(router, &vip, kind, code, [0, 0, 5, 0], &answer[..headers + quoted])
}

#[rstest]
#[case::host_unreachable(3, 1)]
#[case::fragmentation_needed(3, 4)]
#[case::source_quench(4, 0)]
#[case::time_exceeded(11, 0)]
#[case::parameter_problem(12, 0)]
fn v4_errors_follow_a_tracked_flow(#[case] kind: u8, #[case] code: u8) {
    for (to, service) in [("192.0.2.1:80", "t44"), ("192.0.2.2:80", "t46"), ("192.0.2.4:80", "d4")]
    {
        for port in 40_000..40_008 {
            let mut director = lend(&Given::everything());
            let packet = Packet::tcp(&format!("{CLIENT}:{port}"), to);
            let first = check_in(&mut director, &packet, TX, Some(service));
            for quoted in [8, 20, 84] {
                let error = error_about(&packet, kind, code, quoted);
                let seen = check_in(&mut director, &error, TX, Some(service));
                assert_eq!((seen.backend, seen.connection), (first.backend, Connection::Known));
            }
        }
    }
}

#[rstest]
#[case::unreachable(1, 4)]
#[case::too_big(2, 0)]
#[case::time_exceeded(3, 0)]
#[case::parameter_problem(4, 1)]
fn v6_errors_follow_a_tracked_flow(#[case] kind: u8, #[case] code: u8) {
    for (to, service) in
        [("[2001:db8::1]:80", "t64"), ("[2001:db8::2]:80", "t66"), ("[2001:db8::4]:80", "d6")]
    {
        for port in 40_000..40_008 {
            let mut director = lend(&Given::everything());
            let packet = Packet::udp(&format!("[{CLIENT6}]:{port}"), to);
            let first = check_in(&mut director, &packet, TX, Some(service));
            for quoted in [8, 16, 80] {
                let error = error_about(&packet, kind, code, quoted);
                let seen = check_in(&mut director, &error, TX, Some(service));
                assert_eq!((seen.backend, seen.connection), (first.backend, Connection::Known));
            }
        }
    }
}

/// The quoted packet may have options and extension headers.
#[test]
fn quotes_with_more_headers() {
    let mut director = lend(&Given::everything());
    for options in [4, 40] {
        let packet = Packet::tcp(&format!("{CLIENT}:5{options}"), "192.0.2.1:80").options(options);
        let first = check_in(&mut director, &packet, TX, Some("t44"));
        let seen = check_in(&mut director, &error_about(&packet, 3, 1, 8), TX, Some("t44"));
        assert_eq!((seen.backend, seen.connection), (first.backend, Connection::Known));
    }
    let packet = Packet::tcp(&format!("[{CLIENT6}]:500"), "[2001:db8::2]:80")
        .extension(60, &options_header(1));
    let first = check_in(&mut director, &packet, TX, Some("t66"));
    let seen = check_in(&mut director, &error_about(&packet, 1, 3, 8), TX, Some("t66"));
    assert_eq!((seen.backend, seen.connection), (first.backend, Connection::Known));
}

/// The error itself may have options and a tag.
#[test]
fn errors_with_more_headers() {
    let mut director = lend(&Given::everything());
    let packet = Packet::tcp(&format!("{CLIENT}:600"), "192.0.2.1:80");
    let first = check_in(&mut director, &packet, TX, Some("t44"));
    let error = error_about(&packet, 3, 1, 8).options(12).tag(0x8100, 5);
    let seen = check_in(&mut director, &error, TX, Some("t44"));
    assert_eq!((seen.backend, seen.connection), (first.backend, Connection::Known));
}

/// Without an entry, the ring selects the backend, and no entry is created.
#[test]
fn an_untracked_flow_is_scheduled_by_the_ring() {
    for port in 41_000..41_032 {
        let mut director = lend(&Given::everything());
        let packet = Packet::tcp_with(&format!("{CLIENT}:{port}"), "192.0.2.1:80", ACK);
        let error = error_about(&packet, 3, 4, 8);
        let seen = check_in(&mut director, &error, TX, Some("t44"));
        assert_eq!(seen.connection, Connection::None);
        let again = check_in(&mut director, &error, TX, Some("t44"));
        assert_eq!(again.connection, Connection::None, "the error created no flow");
        let flow = check_in(&mut director, &packet, TX, Some("t44"));
        assert_eq!((flow.connection, flow.backend), (Connection::New, seen.backend));
    }
}

#[rstest]
#[case::from_another_address("198.51.100.7:40000", "192.0.2.100:80")]
#[case::about_what_a_client_sent("192.0.2.1:80", "198.51.100.7:40000")]
fn quoting_other_traffic(#[case] from: &str, #[case] to: &str) {
    // The error is sent to the VIP 192.0.2.1 nonetheless.
    let quote = Packet::tcp(from, to).reversed().ip_bytes();
    let error = Packet::icmp(ROUTER, "192.0.2.1", 3, 1, [0; 4], &quote);
    check(&error, pass(PassReason::OtherProtocol), None);
}

#[test]
fn about_a_port_that_is_no_service() {
    let packet = Packet::tcp(&format!("{CLIENT}:40000"), "192.0.2.1:81");
    check(&error_about(&packet, 3, 1, 8), pass(PassReason::NoService), None);
    let packet = Packet::tcp(&format!("[{CLIENT6}]:40000"), "[2001:db8::1]:81");
    check(&error_about(&packet, 1, 3, 8), pass(PassReason::NoService), None);
}

/// The VIP's own pings may fail too.
#[test]
fn about_another_protocol() {
    let echo = Packet::icmp("192.0.2.1", CLIENT, 8, 0, [0; 4], b"payload!").ip_bytes();
    check(
        &Packet::icmp(ROUTER, "192.0.2.1", 3, 1, [0; 4], &echo),
        pass(PassReason::OtherProtocol),
        None,
    );
    let echo = Packet::icmp("2001:db8::1", CLIENT6, 128, 0, [0; 4], b"payload!").ip_bytes();
    check(
        &Packet::icmp(ROUTER6, "2001:db8::1", 1, 3, [0; 4], &echo),
        pass(PassReason::OtherProtocol),
        None,
    );
}

/// Ports are in the first fragment only.
#[test]
fn quoting_fragments() {
    let packet = Packet::udp(&format!("{CLIENT}:40000"), "192.0.2.1:80").payload(64);
    let later = packet.clone().fragment(1480, true);
    check(&error_about(&later, 11, 1, 8), pass(PassReason::OtherProtocol), None);
    let first = packet.fragment(0, true);
    check(&error_about(&first, 11, 1, 8), TX, Some("t44"));
    let packet = || Packet::udp(&format!("[{CLIENT6}]:40000"), "[2001:db8::1]:80");
    let later = packet().fragment(1480, true);
    check(&error_about(&later, 3, 1, 8), pass(PassReason::OtherProtocol), None);
    check(
        &error_about(&later.extension(60, &options_header(0)), 3, 1, 8),
        pass(PassReason::OtherProtocol),
        None,
    );
}

/// A large answer over UDP is sent in fragments, and a router that the first does not fit reports it.
/// IPv6 reports about first fragments were passed to the host: the path MTU was never found.
#[rstest]
#[case::too_big(2, 0)]
#[case::reassembly_time_exceeded(3, 1)]
#[case::unreachable(1, 4)]
fn quoting_first_ipv6_fragments(#[case] kind: u8, #[case] code: u8) {
    for (to, service) in
        [("[2001:db8::1]:80", "t64"), ("[2001:db8::2]:80", "t66"), ("[2001:db8::4]:80", "d6")]
    {
        let mut director = lend(&Given::everything());
        let packet = Packet::udp(&format!("[{CLIENT6}]:45000"), to);
        let first = check_in(&mut director, &packet, TX, Some(service));
        for (before, behind) in [(0, 0), (1, 0), (0, 1), (1, 2)] {
            let options = |packet: Packet, count| {
                (0..count).fold(packet, |p: Packet, _| p.extension(60, &options_header(0)))
            };
            let answer = options(options(packet.clone(), before).fragment(0, true), behind);
            for quoted in [8, 40] {
                let error = error_about(&answer, kind, code, quoted);
                let seen = check_in(&mut director, &error, TX, Some(service));
                assert_eq!((seen.backend, seen.connection), (first.backend, Connection::Known));
            }
            check(&error_about(&answer, kind, code, 7), pass(PassReason::Malformed), None);
        }
    }
}

#[rstest]
#[case::nothing_quoted(&[], PassReason::Truncated)]
#[case::half_a_header(&[0x45; 12], PassReason::Truncated)]
#[case::another_version(&[0x65; 28], PassReason::Malformed)]
#[case::a_short_header(&[0x44; 28], PassReason::Malformed)]
#[case::options_beyond_the_end(&[0x4f; 28], PassReason::Malformed)]
fn invalid_quotes(#[case] quote: &[u8], #[case] reason: PassReason) {
    check(&Packet::icmp(ROUTER, "192.0.2.1", 3, 1, [0; 4], quote), pass(reason), None);
}

/// Seven bytes of the transport header are one too few.
#[test]
fn a_quote_that_is_too_short() {
    let packet = Packet::tcp(&format!("{CLIENT}:40000"), "192.0.2.1:80");
    check(&error_about(&packet, 3, 1, 7), pass(PassReason::Malformed), None);
    check(&error_about(&packet, 3, 1, 7).padded(90), pass(PassReason::Malformed), None);
    let packet = Packet::tcp(&format!("[{CLIENT6}]:40000"), "[2001:db8::1]:80");
    check(&error_about(&packet, 1, 3, 7), pass(PassReason::Malformed), None);
}

/// An ICMP error does not refresh its flow.
#[test]
fn an_error_does_not_refresh_a_flow() {
    use std::time::Duration;
    let mut director = lend(&Given::everything());
    let packet = Packet::udp(&format!("{CLIENT}:42000"), "192.0.2.1:80");
    check_in(&mut director, &packet, TX, Some("t44"));
    for _ in 0..4 {
        director.after(Duration::from_secs(74));
        let seen = check_in(&mut director, &error_about(&packet, 3, 3, 8), TX, Some("t44"));
        assert_eq!(seen.connection, Connection::Known);
    }
    director.after(Duration::from_secs(5));
    let seen = check_in(&mut director, &packet, TX, Some("t44"));
    assert_eq!(seen.connection, Connection::New, "301 seconds after its last packet");
}
