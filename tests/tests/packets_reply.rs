//! ICMP errors that Director sends itself: no backend, or a packet that does not fit.

use director_common::verdict::{DropReason, PassReason, ReplyReason};
use director_tests::{
    case::{TX, check, check_given, check_in, dropped, pass, pin_to_a_cpu, reply},
    given::{Given, lend},
    packet::{ACK, AUTHENTICATION, Packet, authentication_header, options_header},
    read,
};
use rstest::rstest;

const V4: &str = "198.51.100.7:40000";
const V6: &str = "[2001:db8:1::7]:40000";
const UNREACHABLE: director_common::verdict::Verdict = reply(ReplyReason::NoBackend);

#[rstest]
#[case::tcp_v4(Packet::tcp(V4, "192.0.2.7:80"), "reject4")]
#[case::udp_v4(Packet::udp(V4, "192.0.2.7:80"), "reject4")]
#[case::tcp_v6(Packet::tcp(V6, "[2001:db8::7]:80"), "reject6")]
#[case::udp_v6(Packet::udp(V6, "[2001:db8::7]:80"), "reject6")]
fn rejected(#[case] packet: Packet, #[case] service: &str) {
    check(&packet, UNREACHABLE, Some(service));
    check(&packet.clone().tag(0x8100, 0x6005), UNREACHABLE, Some(service));
    check(&packet.clone().tag(0x88a8, 7).tag(0x8100, 5), UNREACHABLE, Some(service));
    check(&packet.padded(60), UNREACHABLE, Some(service));
}

/// The IP header and eight more bytes are quoted, whatever the packet's length.
#[rstest]
fn quotes_of_every_length(#[values(0, 4, 8, 20, 36, 40)] options: usize) {
    for payload in [0, 1, 3, 7, 8, 9, 15, 20, 23, 40, 64, 100, 600, 1400] {
        let udp = Packet::udp(V4, "192.0.2.7:80").cut(8).set(4, &[0, 8]);
        check(&udp.payload(payload).options(options), UNREACHABLE, Some("reject4"));
        let tcp = Packet::tcp(V4, "192.0.2.7:80").options(options);
        check(&tcp.payload(payload), UNREACHABLE, Some("reject4"));
    }
}

#[rstest]
#[case::plain(&[])]
#[case::options(&[(60, options_header(0))])]
#[case::longer_options(&[(60, options_header(3))])]
#[case::authentication(&[(AUTHENTICATION, authentication_header())])]
#[case::chain(&[(0, options_header(0)), (60, options_header(1)), (AUTHENTICATION, authentication_header())])]
fn v6_quotes_of_every_length(#[case] headers: &[(u8, Vec<u8>)]) {
    for payload in [0, 1, 5, 8, 12, 20, 64, 100, 1200] {
        let udp = Packet::udp(V6, "[2001:db8::7]:80").cut(8).set(4, &[0, 8]);
        let packet = headers.iter().fold(udp, |p, (number, body)| p.extension(*number, body));
        check(&packet.payload(payload), UNREACHABLE, Some("reject6"));
    }
}

/// Byte for byte.
#[test]
fn port_unreachable_in_ipv4() {
    let packet = Packet::udp("198.51.100.7:40000", "192.0.2.7:80").cut(8).set(4, &[0, 8]);
    let seen = check(&packet, UNREACHABLE, Some("reject4"));
    #[rustfmt::skip]
    let expected = [
        // To the router, from the director.
        0x02, 0xee, 0, 0, 0, 1, 0x02, 0xdd, 0, 0, 0, 1, 0x08, 0x00,
        // 56 bytes of ICMP from the VIP to the client, DSCP CS6, don't fragment.
        0x45, 0xc0, 0, 56, 0, 0, 0x40, 0, 64, 1, 0x4d, 0xc3, 192, 0, 2, 7, 198, 51, 100, 7,
        // Port unreachable.
        3, 3, 0x60, 0x64, 0, 0, 0, 0,
        // The quoted packet.
        0x45, 0, 0, 28, 0xab, 0xcd, 0x40, 0, 61, 17, 0xa5, 0xc1, 198, 51, 100, 7, 192, 0, 2, 7,
        0x9c, 0x40, 0, 80, 0, 8, 0, 0,
    ];
    assert_eq!(seen.frame, expected, "{:02x?}", seen.frame);
}

#[test]
fn port_unreachable_in_ipv6() {
    let packet = Packet::udp("[2001:db8:1::7]:40000", "[2001:db8::7]:80").cut(8).set(4, &[0, 8]);
    let seen = check(&packet, UNREACHABLE, Some("reject6"));
    #[rustfmt::skip]
    let expected = [
        0x02, 0xee, 0, 0, 0, 1, 0x02, 0xdd, 0, 0, 0, 1, 0x86, 0xdd,
        0x6c, 0, 0, 0, 0, 56, 58, 64,
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
        0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
        1, 4, 0x39, 0xa2, 0, 0, 0, 0,
        0x60, 0, 0, 7, 0, 8, 17, 61,
        0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
        0x9c, 0x40, 0, 80, 0, 8, 0, 0,
    ];
    assert_eq!(seen.frame, expected, "{:02x?}", seen.frame);
}

#[test]
fn when_empty_drop() {
    check(&Packet::tcp(V4, "192.0.2.8:80"), dropped(DropReason::NoBackend), Some("drop4"));
}

#[test]
fn when_empty_pass() {
    check(&Packet::tcp(V4, "192.0.2.9:80"), pass(PassReason::NoBackend), Some("pass4"));
}

/// An error about an error could loop (RFC 1122 3.2.2).
#[test]
fn an_error_gets_no_reply() {
    let answer = Packet::tcp(V4, "192.0.2.7:80").reversed().ip_bytes();
    let error = Packet::icmp("203.0.113.9", "192.0.2.7", 3, 1, [0; 4], &answer);
    check(&error, dropped(DropReason::NoBackend), Some("reject4"));
}

/// The error reports the MTU of the path less the overhead of the tunnel.
#[rstest]
#[case::ipv4_in_ipv4("198.51.100.7:1", "192.0.2.1:80", "t44", 20)]
#[case::ipv4_in_ipv6("198.51.100.7:1", "192.0.2.2:80", "t46", 40)]
#[case::ipv6_in_ipv4("[2001:db8:1::7]:1", "[2001:db8::1]:80", "t64", 20)]
#[case::ipv6_in_ipv6("[2001:db8:1::7]:1", "[2001:db8::2]:80", "t66", 40)]
#[case::direct("198.51.100.7:1", "192.0.2.4:80", "d4", 0)]
#[case::direct_v6("[2001:db8:1::7]:1", "[2001:db8::4]:80", "d6", 0)]
fn too_big(
    #[case] from: &str,
    #[case] to: &str,
    #[case] service: &str,
    #[case] overhead: u16,
    #[values(1400, 1500)] mtu: u16,
) {
    let given = Given::everything().mtu(mtu);
    let empty = Packet::tcp_with(from, to, ACK);
    let fits = usize::from(mtu - overhead) - empty.ip_bytes().len();
    check_given(&given, &empty.clone().payload(fits), TX, Some(service));

    let big = empty.payload(fits + 1);
    let seen = check_given(&given, &big, reply(ReplyReason::TooBig), Some(service));
    assert_eq!(read::error(&seen.frame[14..]).mtu, mtu - overhead);
    let tagged = big.tag(0x8100, 77);
    check_given(&given, &tagged, reply(ReplyReason::TooBig), Some(service));
}

/// Hosts ignore reports that an IPv6 path takes less than 1,280 bytes (RFC 8201 4): none is sent. A
/// sender of more is told 1,280; what it then sends, and does not fit the tunnel's path, is dropped
/// under a reason of its own, since only the path can be changed.
#[rstest]
#[case::in_ipv4("[2001:db8:1::7]:1", "[2001:db8::1]:80", "t64", 20)]
#[case::in_ipv6("[2001:db8:1::7]:1", "[2001:db8::2]:80", "t66", 40)]
#[case::direct("[2001:db8:1::7]:1", "[2001:db8::4]:80", "d6", 0)]
fn no_ipv6_path_is_narrower_than_1280(
    #[case] from: &str,
    #[case] to: &str,
    #[case] service: &str,
    #[case] overhead: u16,
    #[values(1000, 1279, 1280, 1299, 1300, 1319, 1320, 1321)] mtu: u16,
) {
    let given = Given::everything().mtu(mtu);
    let sized = |bytes: u16| {
        let packet = Packet::tcp_with(from, to, ACK);
        let headers = packet.ip_bytes().len();
        packet.payload(usize::from(bytes) - headers)
    };
    let fits = mtu - overhead;
    check_given(&given, &sized(fits), TX, Some(service));
    for size in fits + 1..=1280 {
        if ![fits + 1, 1279, 1280].contains(&size) {
            continue;
        }
        for packet in [sized(size), sized(size).tag(0x8100, 7)] {
            check_given(&given, &packet, dropped(DropReason::BelowMinimumMtu), Some(service));
        }
    }
    for size in [1281.max(fits + 1), 1400, 1500] {
        let seen = check_given(&given, &sized(size), reply(ReplyReason::TooBig), Some(service));
        assert_eq!(read::error(&seen.frame[14..]).mtu, fits.max(1280), "{size}");
    }
}

/// An ICMP error that does not fit is dropped: it gets no reply, and XDP cannot fragment it.
#[test]
fn an_error_too_big() {
    let given = Given::everything().mtu(600);
    let answer = Packet::tcp(V4, "192.0.2.1:80").reversed().payload(600).ip_bytes();
    let error = Packet::icmp("203.0.113.9", "192.0.2.1", 3, 1, [0; 4], &answer[..560]);
    check_given(&given, &error, dropped(DropReason::TooBig), Some("t44"));
}

/// One CPU sends at most 64 errors in 67 ms; further packets are dropped, for the same reason.
#[rstest]
#[case::no_backend(Packet::udp(V4, "192.0.2.7:80"), UNREACHABLE, DropReason::NoBackend, "reject4")]
#[case::too_big(
    Packet::udp(V4, "192.0.2.1:80").payload(1400),
    reply(ReplyReason::TooBig),
    DropReason::TooBig,
    "t44"
)]
fn replies_are_limited(
    #[case] packet: Packet,
    #[case] replied: director_common::verdict::Verdict,
    #[case] reason: DropReason,
    #[case] service: &str,
) {
    pin_to_a_cpu();
    let mut director = lend(&Given::everything().mtu(1400));
    for _ in 0..2 {
        for _ in 0..64 {
            check_in(&mut director, &packet, replied, Some(service));
        }
        for _ in 0..10 {
            check_in(&mut director, &packet, dropped(reason), Some(service));
        }
        director.after(std::time::Duration::from_millis(68));
    }
}
