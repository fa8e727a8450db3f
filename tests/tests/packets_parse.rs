//! Packets that are not for a service are passed unchanged.

use director_common::verdict::PassReason::{
    Malformed, NoService, NotIp, OtherProtocol, TooManyHeaders, Truncated,
};
use director_tests::{
    case::{check, check_passed, pass},
    packet::{DIRECTOR_MAC, HOP_BY_HOP, ICMP, ICMPV6, Packet, ROUTER_MAC, options_header},
};
use rstest::rstest;

const V4: &str = "198.51.100.7:40000";
const V6: &str = "[2001:db8:1::7]:40000";

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&DIRECTOR_MAC[..], &ROUTER_MAC, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 TCP packet for a service, with some bytes of its IP header overwritten and the checksum
/// corrected.
fn v4_with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Packet::tcp(V4, "192.0.2.1:80").payload(20).frame();
    frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
    let header = 14 + usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let sum = director_tests::packet::fold(director_tests::packet::sum_of(&frame[14..header]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn v6_with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Packet::tcp(V6, "[2001:db8::1]:80").payload(20).frame();
    frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[rstest]
#[case::another_port(Packet::tcp(V4, "192.0.2.1:81"))]
#[case::port_zero(Packet::tcp(V4, "192.0.2.1:0"))]
#[case::another_protocol(Packet::tcp(V4, "192.0.2.6:53"))]
#[case::another_address(Packet::tcp(V4, "192.0.2.100:80"))]
#[case::the_any_port_of_another_protocol(Packet::udp(V4, "192.0.2.5:443"))]
#[case::v6_another_port(Packet::udp(V6, "[2001:db8::1]:81"))]
#[case::v6_another_address(Packet::udp(V6, "[2001:db8::100]:80"))]
#[case::from_a_vip(Packet::tcp("192.0.2.1:80", V4))]
#[case::multicast(Packet::udp(V4, "224.0.0.1:80"))]
#[case::broadcast(Packet::udp("0.0.0.0:68", "255.255.255.255:67"))]
#[case::tagged(Packet::udp(V4, "192.0.2.1:81").tag(0x8100, 7))]
fn unmatched_packets(#[case] packet: Packet) {
    check(&packet, pass(NoService), None);
}

/// A v6 address whose first bytes are a v4 service's is no v4 service.
#[test]
fn families_do_not_mix() {
    check(&Packet::tcp("[2001:db8:1::7]:1", "[c000:201::]:80"), pass(NoService), None);
}

#[rstest]
#[case::echo_v4(Packet::icmp("198.51.100.7", "192.0.2.1", 8, 0, [0; 4], b"ping"))]
#[case::echo_reply_v4(Packet::icmp("198.51.100.7", "192.0.2.1", 0, 0, [0; 4], b"ping"))]
#[case::redirect_v4(Packet::icmp("198.51.100.7", "192.0.2.1", 5, 1, [10, 0, 0, 9], &[0x45; 28]))]
#[case::echo_v6(Packet::icmp("2001:db8:1::7", "2001:db8::1", 128, 0, [0; 4], b"ping"))]
#[case::neighbour_solicitation(Packet::icmp("2001:db8:1::7", "2001:db8::1", 135, 0, [0; 4], &[0; 16]))]
#[case::sctp(Packet::ip([198, 51, 100, 7].into(), [192, 0, 2, 1].into(), 132, vec![0; 20]))]
#[case::esp(Packet::ip([198, 51, 100, 7].into(), [192, 0, 2, 1].into(), 50, vec![0; 20]))]
#[case::ospf(Packet::ip([198, 51, 100, 7].into(), [224, 0, 0, 5].into(), 89, vec![0; 20]))]
#[case::tunnel(Packet::ip([198, 51, 100, 7].into(), [192, 0, 2, 1].into(), 4, vec![0x45; 40]))]
#[case::icmp_in_v6(Packet::ip("2001:db8::9".parse().unwrap(), "2001:db8::1".parse().unwrap(), ICMP, vec![8; 40]))]
#[case::icmpv6_in_v4(Packet::ip([198, 51, 100, 7].into(), [192, 0, 2, 1].into(), ICMPV6, vec![1; 40]))]
#[case::hop_by_hop_number_in_v4(Packet::ip([198, 51, 100, 7].into(), [192, 0, 2, 1].into(), HOP_BY_HOP, vec![6; 40]))]
fn other_protocols_of_a_vip(#[case] packet: Packet) {
    check(&packet, pass(OtherProtocol), None);
}

#[rstest]
#[case::arp(ethernet(0x0806, &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]))]
#[case::lldp(ethernet(0x88cc, &[2, 7, 4, 2, 0, 0, 0, 0, 1]))]
#[case::spanning_tree(ethernet(38, &[0x42, 0x42, 3, 0, 0, 0]))]
#[case::mpls(ethernet(0x8847, &[0, 1, 0x41, 64, 0x45, 0, 0, 20]))]
#[case::pppoe(ethernet(0x8864, &[0x11, 0, 0, 1, 0, 2, 0, 0x21]))]
#[case::nothing_behind(ethernet(0x0806, &[]))]
#[case::tagged_arp(ethernet(0x8100, &[0, 5, 8, 6, 0, 1]))]
#[case::zeros(vec![0; 60])]
fn not_ip(#[case] frame: Vec<u8>) {
    check_passed(&frame, NotIp);
}

#[rstest]
fn runts(#[values(0, 1, 6, 13)] length: usize) {
    check_passed(&vec![0x45; length], Truncated);
}

/// A packet for a service that is truncated anywhere is passed: never forwarded, never dropped.
#[rstest]
#[case::v4(Packet::tcp(V4, "192.0.2.1:80").options(8))]
#[case::v6(Packet::udp(V6, "[2001:db8::1]:80").extension(60, &options_header(1)))]
#[case::tagged(Packet::tcp(V4, "192.0.2.4:80").tag(0x88a8, 1).tag(0x8100, 2))]
#[case::error(Packet::icmp("198.51.100.9", "192.0.2.1", 3, 3, [0; 4], &Packet::tcp(V4, "192.0.2.1:80").reversed().ip_bytes()))]
fn truncated_anywhere(#[case] packet: Packet) {
    let whole = packet.frame();
    let mut director = director_tests::given::lend(&director_tests::given::Given::everything());
    for length in 0..whole.len() {
        let seen = director.run(&whole[..length]);
        let verdict = seen.verdict;
        assert!(
            verdict == pass(Truncated) || verdict == pass(Malformed),
            "{length} bytes of {}: {verdict:?}",
            whole.len()
        );
        assert_eq!(seen.frame, whole[..length]);
    }
}

#[rstest]
#[case::truncated_tag(ethernet(0x8100, &[0, 1]))]
#[case::truncated_inner_tag(ethernet(0x88a8, &[0, 1, 0x81, 0, 0, 2]))]
#[case::no_ipv4_header(ethernet(0x0800, &[0x45; 19]))]
#[case::no_ipv6_header(ethernet(0x86dd, &[0x60; 39]))]
fn truncated(#[case] frame: Vec<u8>) {
    check_passed(&frame, Truncated);
}

#[rstest]
#[case::version_0(v4_with(0, &[0x05]))]
#[case::version_6_in_ipv4(v4_with(0, &[0x65]))]
#[case::ihl_0(v4_with(0, &[0x40]))]
#[case::ihl_4(v4_with(0, &[0x44]))]
#[case::total_length_0(v4_with(2, &[0, 0]))]
#[case::total_length_below_the_header(v4_with(2, &[0, 19]))]
#[case::total_length_beyond_the_frame(v4_with(2, &[0, 61]))]
#[case::total_length_of_everything(v4_with(2, &[0xff, 0xff]))]
#[case::header_longer_than_the_packet(v4_with(0, &[0x4f, 0, 0, 40]))]
#[case::tcp_cut_by_the_total_length(v4_with(2, &[0, 39]))]
#[case::v6_version_4(v6_with(0, &[0x40]))]
#[case::v6_beyond_the_frame(v6_with(4, &[0, 41]))]
#[case::v6_of_everything(v6_with(4, &[0xff, 0xff]))]
#[case::v6_jumbo(v6_with(4, &[0, 0]))]
#[case::v6_tcp_cut_by_the_payload_length(v6_with(4, &[0, 19]))]
fn inconsistent_ip_headers(#[case] frame: Vec<u8>) {
    check_passed(&frame, Malformed);
}

/// RFC 1812 5.2.2: a forwarder verifies the header checksum.
#[rstest]
fn a_wrong_header_checksum(#[values(0, 4, 40)] options: usize, #[values(1, 0x80)] flip: u8) {
    for at in [10, 11, 1, 8, 12, 19] {
        let mut frame = Packet::tcp(V4, "192.0.2.1:80").options(options).frame();
        frame[14 + at] ^= flip;
        // A packet to another address is unmatched, but its checksum is verified first.
        check_passed(&frame, Malformed);
    }
    if options > 0 {
        let mut frame = Packet::tcp(V4, "192.0.2.1:80").options(options).frame();
        frame[14 + 20 + options - 1] ^= flip;
        check_passed(&frame, Malformed);
    }
}

#[rstest]
#[case::data_offset_0(Packet::tcp(V4, "192.0.2.1:80").set(12, &[0x00]))]
#[case::data_offset_4(Packet::tcp(V4, "192.0.2.1:80").set(12, &[0x40]))]
#[case::data_offset_beyond_the_end(Packet::tcp(V4, "192.0.2.1:80").set(12, &[0x60]))]
#[case::data_offset_in_the_padding(Packet::tcp(V4, "192.0.2.1:80").set(12, &[0x60]).padded(60))]
#[case::udp_length_0(Packet::udp(V4, "192.0.2.1:80").set(4, &[0, 0]))]
#[case::udp_length_7(Packet::udp(V4, "192.0.2.1:80").set(4, &[0, 7]))]
#[case::udp_length_beyond_the_end(Packet::udp(V4, "192.0.2.1:80").set(4, &[0, 17]))]
#[case::udp_length_in_the_padding(Packet::udp(V4, "192.0.2.1:80").set(4, &[0, 17]).padded(64))]
#[case::udp_length_of_everything(Packet::udp(V6, "[2001:db8::1]:80").set(4, &[0xff, 0xff]))]
#[case::v6_data_offset_4(Packet::tcp(V6, "[2001:db8::1]:80").set(12, &[0x40]))]
#[case::v6_data_offset_beyond_the_end(Packet::tcp(V6, "[2001:db8::1]:80").set(12, &[0xf0]))]
#[case::v6_extension_beyond_the_end(Packet::tcp(V6, "[2001:db8::1]:80").extension(60, &[0, 9, 0, 0, 0, 0, 0, 0]))]
fn inconsistent_transport_headers(#[case] packet: Packet) {
    check(&packet, pass(Malformed), None);
}

/// TCP and UDP packets of the minimum length are valid.
#[rstest]
#[case::udp_without_payload(Packet::udp(V4, "192.0.2.1:80").cut(8).set(4, &[0, 8]))]
#[case::udp_shorter_than_its_packet(Packet::udp(V4, "192.0.2.1:80").set(4, &[0, 8]))]
#[case::tcp_of_options_only(Packet::tcp(V4, "192.0.2.1:80").payload(40).set(12, &[0xf0]))]
fn short_but_complete(#[case] packet: Packet) {
    check(&packet, director_tests::case::TX, Some("t44"));
}

/// The eighth extension header and further are not parsed.
#[test]
fn endless_extension_headers() {
    let packet = Packet::tcp(V6, "[2001:db8::1]:80");
    let packet = (0..20).fold(packet, |p, _| p.extension(60, &options_header(0)));
    check(&packet, pass(TooManyHeaders), None);
}
