//! Forwarded packets: the transmitted frame, byte by byte.

use director_common::{
    decision::Connection, interface::Interface, verdict::PassReason, wire::ethernet::mac_to_u64,
};
use director_tests::{
    case::{TX, check, check_given, pass},
    given::{Given, mac_of},
    packet::{
        ACK, AUTHENTICATION, DESTINATION, DIRECTOR_MAC, HOP_BY_HOP, Packet, ROUTING, SYN,
        authentication_header, options_header, routing_header,
    },
    read,
};
use director_userspace::kernel::datapath::Standalone;
use rstest::rstest;

const V4: &str = "198.51.100.7:40000";
const V6: &str = "[2001:db8:1::7]:40000";
/// Return values of programs: linux/bpf.h.
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

#[rstest]
#[case::tcp_4in4(Packet::tcp(V4, "192.0.2.1:80"), "t44")]
#[case::udp_4in4(Packet::udp(V4, "192.0.2.1:80"), "t44")]
#[case::tcp_4in6(Packet::tcp(V4, "192.0.2.2:80"), "t46")]
#[case::udp_4in6(Packet::udp(V4, "192.0.2.2:80"), "t46")]
#[case::tcp_6in4(Packet::tcp(V6, "[2001:db8::1]:80"), "t64")]
#[case::udp_6in4(Packet::udp(V6, "[2001:db8::1]:80"), "t64")]
#[case::tcp_6in6(Packet::tcp(V6, "[2001:db8::2]:80"), "t66")]
#[case::udp_6in6(Packet::udp(V6, "[2001:db8::2]:80"), "t66")]
#[case::tcp_direct_v4(Packet::tcp(V4, "192.0.2.4:80"), "d4")]
#[case::udp_direct_v4(Packet::udp(V4, "192.0.2.4:80"), "d4")]
#[case::tcp_direct_v6(Packet::tcp(V6, "[2001:db8::4]:80"), "d6")]
#[case::udp_direct_v6(Packet::udp(V6, "[2001:db8::4]:80"), "d6")]
#[case::exact_port(Packet::tcp(V4, "192.0.2.5:443"), "exact")]
#[case::any_other_port(Packet::tcp(V4, "192.0.2.5:444"), "any")]
#[case::the_highest_port(Packet::tcp(V4, "192.0.2.5:65535"), "any")]
#[case::port_zero_of_any(Packet::tcp(V4, "192.0.2.5:0"), "any")]
#[case::weight_zero_gets_no_flow(Packet::tcp(V4, "192.0.2.10:80"), "weights")]
#[case::fixed_mac(Packet::tcp(V4, "192.0.2.11:80"), "fixed")]
fn forwarded_as_configured(#[case] packet: Packet, #[case] service: &str) {
    let seen = check(&packet, TX, Some(service));
    assert_eq!(seen.connection, Connection::New);
}

/// A virtual router's MAC address is never a source: switches would learn its port from packets
/// that a standby director sends to backends.
#[test]
fn packets_to_another_mac_of_the_interface_leave_with_its_own() {
    const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
    let given = Given::everything();
    let config = given.config();
    let macs = [DIRECTOR_MAC, VIRTUAL, [0; 6], [0; 6], [0; 6], [0; 6], [0; 6]].map(mac_to_u64);
    let interface = Interface { macs, ifindex: 1, _pad: 0 };
    let mut director = Standalone::new(&config, &given.desired(&config), interface).expect("root");
    for to in ["192.0.2.1:80", "192.0.2.4:80"] {
        // The first is of a new flow, the others of a tracked and an established one.
        for (number, to_mac) in [VIRTUAL, VIRTUAL, VIRTUAL, DIRECTOR_MAC].into_iter().enumerate() {
            let mut frame = Packet::tcp_with(V4, to, ACK).frame();
            frame[..6].copy_from_slice(&to_mac);
            let (action, frame) = director.run(&frame).expect("runs");
            let link = read::link(&frame);
            assert_eq!((action, link.source), (XDP_TX, DIRECTOR_MAC), "{to}, packet {number}");
        }
    }
    let foreign = Packet::tcp(V4, "192.0.2.1:80").frame();
    let foreign = [&mac_of([10, 9, 9, 9].into()), &foreign[6..]].concat();
    assert_eq!(director.run(&foreign).expect("runs"), (XDP_PASS, foreign));
}

/// Received tags are removed, whatever they are: the next hop's VLAN decides.
#[rstest]
fn tags_are_those_of_the_next_hop(
    #[values("192.0.2.1:80", "192.0.2.2:80", "192.0.2.4:80")] to: &str,
    #[values(&[], &[(0x8100, 5)], &[(0x8100, 0xe000)], &[(0x88a8, 9), (0x8100, 0x6fff)])]
    tags: &[(u16, u16)],
    #[values(0, 1, 4094)] vlan: u16,
) {
    let mut packet = Packet::tcp(V4, to).payload(32);
    for (ethertype, control) in tags {
        packet = packet.tag(*ethertype, *control);
    }
    let service = ["t44", "t46", "d4"]
        [["1", "2", "4"].iter().position(|n| to[8..].starts_with(n)).unwrap_or(0)];
    check_given(&Given::everything().vlan(vlan), &packet, TX, Some(service));
}

#[test]
fn three_tags_are_too_many() {
    let packet = Packet::tcp(V4, "192.0.2.1:80").tag(0x88a8, 1).tag(0x8100, 2).tag(0x8100, 3);
    check(&packet, pass(PassReason::TooManyHeaders), None);
}

#[rstest]
fn options_of_every_length(
    #[values(4, 8, 12, 16, 20, 24, 28, 32, 36, 40)] bytes: usize,
    #[values("192.0.2.1:80", "192.0.2.4:80")] to: &str,
) {
    let service = if to.starts_with("192.0.2.1:") { "t44" } else { "d4" };
    check(&Packet::tcp(V4, to).options(bytes), TX, Some(service));
    check(&Packet::udp(V4, to).options(bytes), TX, Some(service));
}

#[rstest]
#[case::hop_by_hop(&[(HOP_BY_HOP, options_header(0))])]
#[case::long_hop_by_hop(&[(HOP_BY_HOP, options_header(7))])]
#[case::destination(&[(DESTINATION, options_header(1))])]
#[case::routing_done(&[(ROUTING, routing_header(0))])]
#[case::authentication(&[(AUTHENTICATION, authentication_header())])]
#[case::atomic_fragment(&[(44, vec![0, 0, 0, 0, 1, 2, 3, 4])])]
#[case::as_many_as_are_read(&vec![(DESTINATION, options_header(0)); 6])]
#[case::six_and_an_atomic_fragment(&[
    (HOP_BY_HOP, options_header(0)),
    (DESTINATION, options_header(0)),
    (DESTINATION, options_header(1)),
    (AUTHENTICATION, authentication_header()),
    (DESTINATION, options_header(0)),
    (44, vec![0, 0, 0, 0, 1, 2, 3, 4]),
])]
#[case::chain(&[
    (HOP_BY_HOP, options_header(0)),
    (DESTINATION, options_header(0)),
    (ROUTING, routing_header(0)),
    (44, vec![0, 0, 0, 0, 1, 2, 3, 4]),
    (AUTHENTICATION, authentication_header()),
])]
fn extension_headers_are_followed(#[case] headers: &[(u8, Vec<u8>)]) {
    for (packet, service) in [
        (Packet::tcp(V6, "[2001:db8::1]:80"), "t64"),
        (Packet::udp(V6, "[2001:db8::2]:80"), "t66"),
        (Packet::udp(V6, "[2001:db8::4]:80"), "d6"),
    ] {
        let packet = headers.iter().fold(packet, |p, (number, body)| p.extension(*number, body));
        check(&packet, TX, Some(service));
    }
}

#[rstest]
#[case::segments_left(&[(ROUTING, routing_header(1))], PassReason::OtherProtocol)]
#[case::no_next_header(&[(DESTINATION, options_header(0)), (59, vec![0; 8])], PassReason::OtherProtocol)]
#[case::too_many(&vec![(DESTINATION, options_header(0)); 7], PassReason::TooManyHeaders)]
#[case::too_long(&vec![(DESTINATION, options_header(60)); 3], PassReason::TooManyHeaders)]
fn unsupported_extension_headers(#[case] headers: &[(u8, Vec<u8>)], #[case] reason: PassReason) {
    let packet = Packet::tcp(V6, "[2001:db8::1]:80");
    let packet = headers.iter().fold(packet, |p, (number, body)| p.extension(*number, body));
    check(&packet, pass(reason), None);
}

/// Ethernet frames have at least 60 bytes; padding is not part of the packet.
#[rstest]
fn padding_is_not_encapsulated(
    #[values("192.0.2.1:80", "192.0.2.2:80", "192.0.2.4:80")] to: &str,
    #[values(60, 64, 100)] length: usize,
) {
    let service = match to {
        "192.0.2.1:80" => "t44",
        "192.0.2.2:80" => "t46",
        _ => "d4",
    };
    check(&Packet::tcp(V4, to).padded(length), TX, Some(service));
}

/// Bytes behind the IP packet are trimmed, as the kernel does, and do not count towards its size: the
/// 1,444 bytes and 28 behind them went into the tunnel whole.
#[rstest]
fn trailers_are_trimmed(
    #[values(
        ("192.0.2.1:80", "t44"), ("192.0.2.2:80", "t46"), ("192.0.2.4:80", "d4"),
        ("[2001:db8::1]:80", "t64"), ("[2001:db8::2]:80", "t66"), ("[2001:db8::4]:80", "d6")
    )]
    to: (&str, &str),
    #[values(46, 60, 1444, 1460)] ip_length: usize,
    #[values(1, 4, 28, 400)] behind: usize,
    #[values(0, 1, 2)] tags: usize,
    #[values(0, 12)] vlan: u16,
) {
    let (to, service) = to;
    let from = if to.starts_with('[') { V6 } else { V4 };
    let packet = Packet::tcp_with(from, to, ACK);
    let short = packet.ip_bytes().len();
    let mut packet = packet.payload(ip_length.saturating_sub(short));
    for _ in 0..tags {
        packet = packet.tag(0x8100, 7);
    }
    let length = packet.frame().len() + behind;
    // The largest packet of the path, whatever is behind it.
    let given = Given::everything().mtu(1500).vlan(vlan);
    let seen = check_given(&given, &packet.padded(length), TX, Some(service));
    assert!(seen.frame.len() >= 60);
    let link = read::link(&seen.frame);
    assert!(seen.frame.len() - link.l3_offset <= 1500, "{} bytes", seen.frame.len());
}

/// RFC 6040: DSCP and ECN bits are copied outwards, in every pair of families.
#[rstest]
fn dscp_and_ecn_are_copied_outwards(
    #[values(0x01, 0x03, 0xb8, 0xff)] tos: u8,
    #[values("192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80", "[2001:db8::2]:80")] to: &str,
) {
    let (from, service) = match to {
        "192.0.2.1:80" => (V4, "t44"),
        "192.0.2.2:80" => (V4, "t46"),
        "[2001:db8::1]:80" => (V6, "t64"),
        _ => (V6, "t66"),
    };
    check(&Packet::tcp(from, to).tos(tos), TX, Some(service));
}

#[rstest]
fn sizes_up_to_a_full_frame(
    #[values(0, 1, 536, 1440)] payload: usize,
    #[values("192.0.2.1:80", "192.0.2.2:80", "192.0.2.4:80")] to: &str,
) {
    let service = match to {
        "192.0.2.1:80" => "t44",
        "192.0.2.2:80" => "t46",
        _ => "d4",
    };
    check(&Packet::tcp_with(V4, to, SYN | ACK).payload(payload), TX, Some(service));
}

/// Routers spread tunnels by the flow label (RFC 6438): one label per flow, many in all.
#[test]
fn flow_labels_identify_flows() {
    let mut labels = std::collections::BTreeSet::new();
    for port in 0..64 {
        let from = format!("198.51.100.7:{}", 30_000 + port);
        let mut of_flow = std::collections::BTreeSet::new();
        for payload in [0, 100] {
            let packet = Packet::tcp(&from, "192.0.2.2:80").payload(payload);
            let seen = check(&packet, TX, Some("t46"));
            of_flow.insert(read::outer(&seen.frame[14..]).flow_label);
        }
        assert_eq!(of_flow.len(), 1, "a flow has one label");
        labels.extend(of_flow);
    }
    assert!(labels.len() > 60, "{} labels of 64 flows", labels.len());
}

#[test]
fn another_interface_is_a_redirect() {
    for to in ["192.0.2.1:80", "192.0.2.4:80"] {
        let service = if to.starts_with("192.0.2.1:") { "t44" } else { "d4" };
        let given = Given::everything().interface(2);
        let redirect = director_common::verdict::Verdict::Redirect;
        check_given(&given, &Packet::tcp(V4, to), redirect, Some(service));
    }
}
