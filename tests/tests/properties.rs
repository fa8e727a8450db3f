//! A million frames, random and mutated, against an independent implementation of the rules
//! (`model`).

use std::time::Duration;

use director_common::{decision::Connection, verdict::Verdict};
use director_tests::{
    given::{Director, Given},
    oracle::Oracle,
    packet::{Packet, correct, options_header, routing_header},
};
use fastrand::Rng;

/// Frames per test: both tests take under a minute on two CPUs.
const FRAMES: u32 = 500_000;
/// MTU towards the backends, bytes: some packets exceed it.
const MTU: u16 = 700;

#[test]
fn half_a_million_frames_of_a_fixed_seed() {
    check_frames(0x00d1_7ec7);
}

#[test]
fn half_a_million_frames_of_a_random_seed() {
    let seed = fastrand::u64(..);
    // To reproduce a failure.
    println!("seed {seed:#x}");
    check_frames(seed);
}

fn check_frames(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut director = Director::new(Given::everything().mtu(MTU));
    let mut oracle = Oracle::new(director.config.clone(), MTU);
    let mut counts = [0u32; 3];
    let mut new = 0;
    for number in 0..FRAMES {
        let frame = frame(&mut rng);
        director.after(Duration::from_millis(1));
        let seen = director.run(&frame);
        // What is too big was scheduled, and makes no flow.
        new += u64::from(seen.verdict == Verdict::Tx && seen.connection == Connection::New);
        match oracle.check(&frame, &seen) {
            Ok(kind) => counts[kind as usize] += 1,
            Err(what) => panic!("{what}\nseed {seed:#x}, frame {number}"),
        }
    }
    println!("{counts:?} passed, fragments, for services");
    let everywhere = FRAMES / 20;
    assert!(
        counts[0] > everywhere && counts[1] > everywhere / 20 && counts[2] > everywhere,
        "{counts:?}"
    );
    let counters = director.counters();
    let recorded: u64 = counters.services.values().map(|service| service.total.flows).sum();
    assert_eq!(recorded, new, "flows counted, and flows that became known");
    let counted: u64 = counters.verdicts.iter().map(|(_, count)| count).sum();
    let short = counted.abs_diff(u64::from(FRAMES));
    assert!(
        short < u64::from(FRAMES) / 20,
        "only frames below 14 bytes are not processed: {short}"
    );
}

/// A frame: a valid packet, a damaged one, or noise.
fn frame(rng: &mut Rng) -> Vec<u8> {
    if rng.u8(..) < 16 {
        return noise(rng);
    }
    let packet = packet(rng);
    let mut frame = packet.frame();
    match rng.u8(..) {
        0..100 => {}
        100..200 => {
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..frame.len().min(120));
                frame[at] = if rng.bool() { rng.u8(..) } else { frame[at] ^ 1 << rng.u8(..8) };
            }
            if rng.bool() {
                correct(&mut frame, packet.l3_offset());
            }
        }
        200..225 => frame.truncate(rng.usize(..=frame.len())),
        225..240 => frame.extend((0..rng.usize(..64)).map(|_| 0xa5)),
        // A wrong length: IPv4's total length, IPv6's payload length.
        _ => {
            let at = packet.l3_offset() + if packet.source().is_ipv4() { 2 } else { 4 };
            let length = i32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
            let length = (length + rng.i32(-30..30)) as u16;
            frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
            correct(&mut frame, packet.l3_offset());
        }
    }
    frame
}

fn noise(rng: &mut Rng) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
    if frame.len() > 14 && rng.bool() {
        let ethertype = [0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x0806][rng.usize(..5)];
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame[14] = [0x45, 0x46, 0x4f, 0x60, 0x00][rng.usize(..5)];
    }
    frame
}

fn packet(rng: &mut Rng) -> Packet {
    const VIPS: [&str; 12] = [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.4",
        "192.0.2.5",
        "192.0.2.6",
        "192.0.2.7",
        "192.0.2.8",
        "192.0.2.9",
        "192.0.2.10",
        "192.0.2.11",
        "192.0.2.100",
        "203.0.113.1",
    ];
    const VIPS6: [&str; 6] =
        ["2001:db8::1", "2001:db8::2", "2001:db8::4", "2001:db8::7", "2001:db8::100", "ff02::1"];
    let is_v4 = rng.bool();
    let port = [80, 80, 80, 80, 80, 80, 53, 443, 0, 81][rng.usize(..10)];
    // A small set of clients, so that flows recur.
    let client = rng.u16(..200);
    let (from, to) = if is_v4 {
        let vip = VIPS[rng.usize(..VIPS.len())];
        let special = ["0.0.0.0", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255", vip];
        let host = if rng.u8(..) < 12 {
            special[rng.usize(..special.len())].to_owned()
        } else {
            format!("198.51.100.{}", client % 100)
        };
        (format!("{host}:{}", 1024 + client), format!("{vip}:{port}"))
    } else {
        let vip = VIPS6[rng.usize(..VIPS6.len())];
        let special = ["::", "::1", "ff02::1", "::ffff:198.51.100.7", "::fffe:0:1", vip];
        let host = if rng.u8(..) < 12 {
            special[rng.usize(..special.len())].to_owned()
        } else {
            format!("2001:db8:1::{client:x}")
        };
        (format!("[{host}]:{}", 1024 + client), format!("[{vip}]:{port}"))
    };
    let payload = [0, 0, 1, 8, 33, 100, 620, 640, 660, 700, 1400][rng.usize(..11)];
    let flags = [2, 16, 16, 17, 4, 18, 0, 255][rng.usize(..8)];
    let mut packet =
        if rng.bool() { Packet::tcp_with(&from, &to, flags) } else { Packet::udp(&from, &to) };
    packet = packet.payload(payload).tos(rng.u8(..));
    packet = headers(rng, packet, is_v4);
    if rng.u8(..) < 20 {
        packet = packet.fragment([0, 8, 1480][rng.usize(..3)], rng.bool());
        if !is_v4 && rng.bool() {
            packet = headers(rng, packet, is_v4);
        }
    }
    if rng.u8(..) < 30 {
        let quote = packet.reversed().ip_bytes();
        let quote = &quote[..rng.usize(..=quote.len())];
        let kind = if is_v4 { [3, 4, 11, 12, 8][rng.usize(..5)] } else { rng.u8(0..6) };
        let vip = to.rsplit_once(':').expect("with a port").0.trim_matches(['[', ']']);
        let forged = if is_v4 { ["127.0.0.2", "255.255.255.255"] } else { ["::1", "ff02::2"] };
        let router = match rng.u8(..16) {
            0 => forged[rng.usize(..2)],
            _ if is_v4 => "203.0.113.9",
            _ => "2001:db8:9::9",
        };
        packet = Packet::icmp(router, vip, kind, rng.u8(..5), [0, 0, 5, 0], quote);
        packet = headers(rng, packet, is_v4);
    }
    if rng.u8(..) < 8 {
        packet = packet.hops(rng.u8(..2));
    }
    for _ in 0..[0, 0, 0, 0, 0, 1, 2, 3][rng.usize(..8)] {
        packet = packet.tag(if rng.bool() { 0x8100 } else { 0x88a8 }, rng.u16(..));
    }
    if rng.u8(..) < 50 { packet.padded(rng.usize(60..120)) } else { packet }
}

/// Options, or extension headers.
fn headers(rng: &mut Rng, mut packet: Packet, is_v4: bool) -> Packet {
    if rng.u8(..) >= 60 {
        return packet;
    }
    if is_v4 {
        return packet.options(4 * rng.usize(..=10));
    }
    for _ in 0..rng.usize(1..8) {
        packet = match rng.u8(..6) {
            0 => packet.extension(0, &options_header(rng.u8(..3))),
            1 => packet.extension(60, &options_header(rng.u8(..20))),
            2 => packet.extension(43, &routing_header(rng.u8(..) / 200)),
            3 => packet.extension(
                51,
                &[0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            4 => packet.extension(44, &[0, 0, 0, rng.u8(..8) & 6, 0, 0, 0, 1]),
            _ => packet.extension(60, &options_header(0)),
        };
    }
    packet
}
