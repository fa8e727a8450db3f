//! Rows of frames: the program's result for each, and its counters.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use aya::{
    Ebpf,
    programs::{TestRun, TestRunOptions, Xdp},
};
use director_common::realserver::{DecapCounter, PROGRAM};
use director_userspace::setup::realserver;
use proptest::prelude::*;

use super::frames::{PROTOCOL_TCP, PROTOCOL_V4, PROTOCOL_V6, checksum, frame, v4, v6};

const DIRECTOR_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const DIRECTOR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xd, 0, 0, 0, 0, 1);
const UNKNOWN_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const UNKNOWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 1);
const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xd, 0, 0, 0, 0, 0x11);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7);
const VIP_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const TO: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TAG: [u8; 4] = [0x81, 0x00, 0x60, 0x07];
const SERVICE_TAG: [u8; 4] = [0x88, 0xa8, 0x00, 0x64];
const PAYLOAD: &[u8] = b"twenty bytes of TCP and a bit more";
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// The expected result.
enum Out {
    Unchanged,
    Frame(Vec<u8>),
    Dropped,
}

struct Case {
    name: &'static str,
    given: Vec<u8>,
    out: Out,
    counted: Option<DecapCounter>,
}

fn load() -> Ebpf {
    let from = ["10.0.0.0/24", "2001:db8:d::/48"].map(|prefix| prefix.parse().expect(prefix));
    realserver::load(&from.into(), &[VIP_V4.into(), VIP_V6.into()].into()).expect("loads")
}

fn run(ebpf: &mut Ebpf, frame: &[u8]) -> (u32, Vec<u8>) {
    let program = ebpf.program_mut(PROGRAM).expect("in the object");
    let program: &mut Xdp = program.try_into().expect("XDP");
    let mut out = vec![0; frame.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let result = program.test_run(options).expect("runs");
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

#[track_caller]
fn check(cases: Vec<Case>) {
    let mut ebpf = load();
    for Case { name, given, out, counted } in cases {
        let before = realserver::counts(&ebpf).expect("readable");
        let (action, frame) = run(&mut ebpf, &given);
        let after = realserver::counts(&ebpf).expect("readable");
        match out {
            Out::Unchanged => {
                assert_eq!(action, XDP_PASS, "{name}");
                assert_eq!(frame, given, "{name}");
            }
            Out::Frame(want) => {
                assert_eq!(action, XDP_PASS, "{name}");
                assert_eq!(frame, want, "{name}");
            }
            Out::Dropped => assert_eq!(action, XDP_DROP, "{name}"),
        }
        let grown: BTreeMap<_, _> = after
            .iter()
            .map(|(label, count)| (*label, count - before[label]))
            .filter(|(_, growth)| *growth > 0)
            .collect();
        let want = counted.map(|counter| (counter.label(), 1)).into_iter().collect();
        assert_eq!(grown, want, "{name}");
    }
}

fn inner_v4() -> Vec<u8> {
    inner_v4_tos(0)
}

fn inner_v4_tos(tos: u8) -> Vec<u8> {
    v4((CLIENT_V4, VIP_V4), PROTOCOL_TCP, PAYLOAD, &[], |header| header[1] = tos)
}

fn inner_v6() -> Vec<u8> {
    v6((CLIENT_V6, VIP_V6), PROTOCOL_TCP, PAYLOAD, 0)
}

fn outer_v4(protocol: u8, inner: &[u8]) -> Vec<u8> {
    v4((DIRECTOR_V4, OWN_V4), protocol, inner, &[], |_| {})
}

fn outer_v6(protocol: u8, inner: &[u8]) -> Vec<u8> {
    v6((DIRECTOR_V6, OWN_V6), protocol, inner, 0)
}

fn plain(packet: &[u8]) -> Vec<u8> {
    frame(TO, FROM, &[], packet)
}

fn case(
    name: &'static str,
    packet: &[u8],
    out: Out,
    counted: impl Into<Option<DecapCounter>>,
) -> Case {
    Case { name, given: plain(packet), out, counted: counted.into() }
}

#[test]
fn all_four_pairs_are_decapsulated() {
    let (four, six) = (inner_v4(), inner_v6());
    let done = DecapCounter::Decapsulated;
    check(vec![
        case("4 in 4", &outer_v4(PROTOCOL_V4, &four), Out::Frame(plain(&four)), done),
        case("6 in 4", &outer_v4(PROTOCOL_V6, &six), Out::Frame(plain(&six)), done),
        case("4 in 6", &outer_v6(PROTOCOL_V4, &four), Out::Frame(plain(&four)), done),
        case("6 in 6", &outer_v6(PROTOCOL_V6, &six), Out::Frame(plain(&six)), done),
    ]);
}

#[test]
fn options_of_the_outer_header_are_removed_and_tags_kept() {
    let inner = inner_v4();
    let done = DecapCounter::Decapsulated;
    let mut cases = Vec::new();
    for (name, options) in [("4 bytes of options", 4), ("20 bytes", 20), ("all 40 bytes", 40)] {
        let outer = v4((DIRECTOR_V4, OWN_V4), PROTOCOL_V4, &inner, &vec![1; options], |_| {});
        cases.push(case(name, &outer, Out::Frame(plain(&inner)), done));
    }
    for (name, tags) in [
        ("a VLAN tag", vec![TAG]),
        ("a service tag", vec![SERVICE_TAG]),
        ("both", vec![SERVICE_TAG, TAG]),
    ] {
        for outer in [outer_v4(PROTOCOL_V4, &inner), outer_v6(PROTOCOL_V4, &inner)] {
            cases.push(Case {
                name,
                given: frame(TO, FROM, &tags, &outer),
                out: Out::Frame(frame(TO, FROM, &tags, &inner)),
                counted: Some(done),
            });
        }
    }
    let padded = [plain(&outer_v4(PROTOCOL_V4, &inner)), vec![0; 9]].concat();
    cases.push(Case {
        name: "padding after the packet is kept",
        given: padded,
        out: Out::Frame([plain(&inner), vec![0; 9]].concat()),
        counted: Some(done),
    });
    check(cases);
}

#[test]
fn only_tunnels_of_directors_are_accepted() {
    let refused = DecapCounter::RefusedSource;
    let outer = |source| v4((source, OWN_V4), PROTOCOL_V4, &inner_v4(), &[], |_| {});
    check(vec![
        case("an unknown source, IPv4", &outer(UNKNOWN_V4), Out::Unchanged, refused),
        case(
            "an unknown source, IPv6",
            &v6((UNKNOWN_V6, OWN_V6), PROTOCOL_V6, &inner_v6(), 0),
            Out::Unchanged,
            refused,
        ),
        case(
            "the IPv4 director's address mapped into IPv6",
            &v6((DIRECTOR_V4.to_ipv6_mapped(), OWN_V6), PROTOCOL_V4, &inner_v4(), 0),
            Out::Unchanged,
            refused,
        ),
        case(
            "the last address of the prefix",
            &outer(Ipv4Addr::new(10, 0, 0, 255)),
            Out::Frame(plain(&inner_v4())),
            DecapCounter::Decapsulated,
        ),
    ]);
}

#[test]
fn only_vips_are_reached_through_a_tunnel() {
    let refused = DecapCounter::RefusedVip;
    let four = v4((CLIENT_V4, OWN_V4), PROTOCOL_TCP, PAYLOAD, &[], |_| {});
    let six = v6((CLIENT_V6, OWN_V6), PROTOCOL_TCP, PAYLOAD, 0);
    check(vec![
        case("own address in 4", &outer_v4(PROTOCOL_V4, &four), Out::Unchanged, refused),
        case("own address in 6", &outer_v6(PROTOCOL_V6, &six), Out::Unchanged, refused),
        case(
            "a tunnel in a tunnel",
            &outer_v4(PROTOCOL_V4, &outer_v4(PROTOCOL_V4, &inner_v4())),
            Out::Unchanged,
            refused,
        ),
    ]);
}

#[test]
fn fragments_and_other_packets_pass() {
    let fragment = |bits: u16| {
        v4((DIRECTOR_V4, OWN_V4), PROTOCOL_V4, &inner_v4(), &[], |header| {
            header[6..8].copy_from_slice(&bits.to_be_bytes());
        })
    };
    let mut v6_fragment = vec![PROTOCOL_V4, 0, 0, 1, 0, 0, 0, 9];
    v6_fragment.extend(inner_v4());
    let arp = [&TO[..], &FROM, &[8, 6], &[0; 28]].concat();
    let mut cases = vec![
        case("the first fragment", &fragment(0x2000), Out::Unchanged, None),
        case("the last fragment", &fragment(0x0010), Out::Unchanged, None),
        case("an IPv6 fragment", &outer_v6(44, &v6_fragment), Out::Unchanged, None),
        case("plain TCP to the VIP", &inner_v4(), Out::Unchanged, None),
        case("plain TCP to the VIP, IPv6", &inner_v6(), Out::Unchanged, None),
        case("GRE", &outer_v4(47, &inner_v4()), Out::Unchanged, None),
        Case { name: "ARP", given: arp, out: Out::Unchanged, counted: None },
    ];
    let whole = plain(&outer_v4(PROTOCOL_V4, &inner_v4()));
    cases.extend([14, 20, 33].map(|len| Case {
        name: "cut within the outer header",
        given: whole[..len].to_vec(),
        out: Out::Unchanged,
        counted: None,
    }));
    check(cases);
}

#[test]
fn malformed_headers_pass_unchanged() {
    let bad = DecapCounter::Malformed;
    let (four, six) = (inner_v4(), inner_v6());
    let whole = plain(&outer_v4(PROTOCOL_V4, &four));
    let outer =
        |tweak: fn(&mut [u8])| v4((DIRECTOR_V4, OWN_V4), PROTOCOL_V4, &inner_v4(), &[], tweak);
    let inner = |tweak: fn(&mut [u8])| {
        outer_v4(PROTOCOL_V4, &v4((CLIENT_V4, VIP_V4), PROTOCOL_TCP, PAYLOAD, &[], tweak))
    };
    let mut long_v6 = outer_v6(PROTOCOL_V4, &four);
    long_v6[5] += 1;
    let mut long_inner_v6 = six.clone();
    long_inner_v6[5] += 1;
    let mut bad_sum = outer_v4(PROTOCOL_V4, &four);
    bad_sum[11] ^= 1;
    let mut bad_option = v4((DIRECTOR_V4, OWN_V4), PROTOCOL_V4, &four, &[1; 40], |_| {});
    bad_option[59] ^= 1;
    check(vec![
        Case {
            name: "the frame ends before the outer packet",
            given: whole[..whole.len() - 1].to_vec(),
            out: Out::Unchanged,
            counted: Some(bad),
        },
        case("outer header of 16 bytes", &outer(|h| h[0] = 0x44), Out::Unchanged, bad),
        case("outer version 5", &outer(|h| h[0] = 0x55), Out::Unchanged, bad),
        case("outer length below its header", &outer(|h| h[3] = 19), Out::Unchanged, bad),
        case("outer length without an inner header", &outer(|h| h[3] = 30), Out::Unchanged, bad),
        case("outer IPv6 payload beyond the frame", &long_v6, Out::Unchanged, bad),
        case("outer checksum", &bad_sum, Out::Unchanged, bad),
        case("outer checksum over options", &bad_option, Out::Unchanged, bad),
        case("inner header of 16 bytes", &inner(|h| h[0] = 0x44), Out::Unchanged, bad),
        case("inner version 6 under protocol 4", &inner(|h| h[0] = 0x65), Out::Unchanged, bad),
        case("inner length below its header", &inner(|h| h[3] = 19), Out::Unchanged, bad),
        case("inner length beyond the outer's", &inner(|h| h[3] += 1), Out::Unchanged, bad),
        case("IPv4 under protocol 41", &outer_v4(PROTOCOL_V6, &four), Out::Unchanged, bad),
        case("IPv6 under protocol 4", &outer_v6(PROTOCOL_V4, &six), Out::Unchanged, bad),
        case(
            "inner IPv6 payload beyond the outer's",
            &outer_v4(PROTOCOL_V6, &long_inner_v6),
            Out::Unchanged,
            bad,
        ),
        case("nothing inside", &outer_v4(PROTOCOL_V4, &[]), Out::Unchanged, bad),
    ]);
}

/// RFC 6040, figure 4, all sixteen cells, for all four pairs.
#[test]
fn congestion_marks_are_copied_at_decapsulation() {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    let after = |inner: u8, outer: u8| match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (ECT_0, ECT_1) => Some(ECT_1),
        (ECT_0, CE) | (ECT_1, CE) | (CE, _) => Some(CE),
        (inner, _) => Some(inner),
    };
    // A code point above the ECN bits must stay as it is.
    let dscp = 0xb8;
    let mut cases = Vec::new();
    for inner in 0..4 {
        for outer in 0..4 {
            let six = |ecn: u8| v6((CLIENT_V6, VIP_V6), PROTOCOL_TCP, PAYLOAD, dscp | ecn);
            let four = |ecn: u8| inner_v4_tos(dscp | ecn);
            let around_v4 = |protocol, packet: &[u8]| {
                v4((DIRECTOR_V4, OWN_V4), protocol, packet, &[], |header| header[1] = outer)
            };
            let around_v6 =
                |protocol, packet: &[u8]| v6((DIRECTOR_V6, OWN_V6), protocol, packet, outer);
            let rows = [
                (around_v4(PROTOCOL_V4, &four(inner)), after(inner, outer).map(four)),
                (around_v6(PROTOCOL_V4, &four(inner)), after(inner, outer).map(four)),
                (around_v4(PROTOCOL_V6, &six(inner)), after(inner, outer).map(six)),
                (around_v6(PROTOCOL_V6, &six(inner)), after(inner, outer).map(six)),
            ];
            cases.extend(rows.map(|(packet, want)| match want {
                Some(want) => case(
                    "a mark kept or combined",
                    &packet,
                    Out::Frame(plain(&want)),
                    DecapCounter::Decapsulated,
                ),
                None => case(
                    "congestion of a flow without ECN",
                    &packet,
                    Out::Dropped,
                    DecapCounter::EcnDropped,
                ),
            }));
        }
    }
    assert_eq!(cases.len(), 64);
    check(cases);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// The incremental checksum equals the full one, for any header.
    #[test]
    fn the_inner_checksum_stays_valid(
        headers in proptest::collection::vec((any::<[u8; 9]>(), any::<[u8; 4]>()), 256)
    ) {
        let mut ebpf = load();
        for (fields, source) in headers {
            let inner = v4((source.into(), VIP_V4), PROTOCOL_TCP, PAYLOAD, &[], |header| {
                header[1] = fields[0] & !3 | 2;
                header[4..9].copy_from_slice(&fields[1..6]);
            });
            let outer =
                v4((DIRECTOR_V4, OWN_V4), PROTOCOL_V4, &inner, &[], |header| header[1] = 3);
            let (action, out) = run(&mut ebpf, &plain(&outer));
            prop_assert_eq!(action, XDP_PASS);
            prop_assert_eq!(out[15] & 3, 3);
            prop_assert_eq!(checksum(&out[14..34]), 0);
        }
    }

    /// A frame is either decapsulated completely or unchanged, never partially.
    #[test]
    fn mutated_frames_are_decapsulated_or_unchanged(
        mutations in proptest::collection::vec(
            (0..4usize, proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6), any::<u16>()),
            512
        )
    ) {
        let mut ebpf = load();
        let packets = [
            outer_v4(PROTOCOL_V4, &inner_v4()),
            outer_v4(PROTOCOL_V6, &inner_v6()),
            outer_v6(PROTOCOL_V4, &inner_v4()),
            outer_v6(PROTOCOL_V6, &inner_v6()),
        ];
        for (pair, bytes, cut) in mutations {
            let mut given = plain(&packets[pair]);
            for (at, value) in bytes {
                let at = usize::from(at) % given.len();
                given[at] = value;
            }
            if cut % 4 == 0 {
                given.truncate((usize::from(cut) % given.len()).max(14));
            }
            let (action, out) = run(&mut ebpf, &given);
            if action == XDP_DROP {
                continue;
            }
            prop_assert_eq!(action, XDP_PASS);
            if out.len() == given.len() {
                prop_assert_eq!(&out, &given);
            } else {
                prop_assert_eq!(&out[..12], &given[..12]);
                // Everything but the inner header's ECN and checksum equals the inner packet.
                let inner = &given[given.len() - (out.len() - 14)..];
                prop_assert_eq!(&out[14 + 12..], &inner[12..]);
            }
        }
    }
}
