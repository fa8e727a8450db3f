//! A million frames, random and mutated, against an independent implementation of the rules
//! (`model`).

use std::{collections::HashMap, net::IpAddr, time::Duration};

use director_common::{
    decision::Connection,
    verdict::{DropReason, PassReason, ReplyReason, Verdict},
};
use director_tests::{
    case::direct,
    given::{Director, Given, Seen},
    model::{Class, Expected, Flaw, Flow, classify, expected},
    packet::{Packet, fold, options_header, routing_header, sum_of},
    read,
};
use director_userspace::policy::config::model::{ForwardMode, Service, WhenEmpty};
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
    let config = director.config.clone();
    let mut flows: HashMap<Flow, IpAddr> = HashMap::new();
    let mut counts = [0u32; 3];
    let mut new = 0;
    for number in 0..FRAMES {
        let frame = frame(&mut rng);
        director.after(Duration::from_millis(1));
        let seen = director.run(&frame);
        // What is too big was scheduled, and makes no flow.
        new += u64::from(seen.verdict == Verdict::Tx && seen.connection == Connection::New);
        let class = classify(&frame);
        let expected = expected(&class, &config);
        let fail = |what: &str| -> ! {
            panic!(
                "{what}\nseed {seed:#x}, frame {number}: {frame:02x?}\n{class:?}, {expected:?}\n\
                 {seen:02x?}"
            )
        };
        match (expected, seen.verdict) {
            (Expected::Pass, Verdict::Pass(reason)) => {
                counts[0] += 1;
                if seen.frame != frame || reason == PassReason::NoBackend {
                    fail("passed, but changed");
                }
            }
            (Expected::Fragment, Verdict::Drop(DropReason::Fragment)) => counts[1] += 1,
            (Expected::Service(service), _) => {
                counts[2] += 1;
                if let Err(what) = forwarded(&frame, &class, service, &seen, &mut flows) {
                    fail(&what);
                }
            }
            _ => fail("another verdict"),
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

/// Checks the result for a packet of a service.
fn forwarded(
    frame: &[u8],
    class: &Class,
    service: &Service,
    seen: &Seen,
    flows: &mut HashMap<Flow, IpAddr>,
) -> Result<(), String> {
    let Class::Flow { flow, is_error, l3_offset, l3_length, flaw } = *class else {
        return Err("only flows belong to services".into());
    };
    if seen.service.as_deref() != Some(service.name.to_string().as_str()) {
        return Err("another service".into());
    }
    if let Some(flaw) = flaw {
        let reason = match flaw {
            Flaw::HopLimit => DropReason::HopLimit,
            Flaw::Source => DropReason::MartianSource,
        };
        return if seen.verdict == Verdict::Drop(reason) {
            Ok(())
        } else {
            Err(format!("{flaw:?}, and not dropped for it"))
        };
    }
    let has_active = service.backends.iter().any(|backend| backend.weight > 0);
    if !has_active {
        return match (service.when_empty, seen.verdict) {
            (WhenEmpty::Pass, Verdict::Pass(PassReason::NoBackend)) if seen.frame == frame => {
                Ok(())
            }
            (WhenEmpty::Drop, Verdict::Drop(DropReason::NoBackend)) => Ok(()),
            // No reply is sent to errors, nor beyond the rate limit.
            (WhenEmpty::Reject, Verdict::Drop(DropReason::NoBackend)) => Ok(()),
            (WhenEmpty::Reject, Verdict::Reply(ReplyReason::NoBackend)) if !is_error => {
                replied(frame, l3_offset, l3_length, seen, 0)
            }
            _ => Err("not as configured by when_empty".into()),
        };
    }
    let backend = seen.backend.ok_or("no backend")?;
    if !service.backends.iter().any(|b| b.address == backend && b.weight > 0) {
        return Err("a backend with weight 0".into());
    }
    // The configuration never changes, so a flow has one backend, tracked or not.
    if *flows.entry(flow).or_insert(backend) != backend {
        return Err("a flow changed its backend".into());
    }
    if is_error && seen.connection == Connection::New {
        return Err("an error created a flow".into());
    }
    let overhead = match (service.forward, backend) {
        (ForwardMode::Direct, _) => 0,
        (ForwardMode::Tunnel, IpAddr::V4(_)) => 20,
        (ForwardMode::Tunnel, IpAddr::V6(_)) => 40,
    };
    if l3_length + overhead > usize::from(MTU) {
        // No path of IPv6 takes less than 1,280 bytes, and hosts believe no other report.
        let is_v6 = flow.destination.0.is_ipv6();
        let fits = if is_v6 { 1280 } else { MTU - overhead as u16 };
        if is_v6 && l3_length <= 1280 {
            return if seen.verdict == Verdict::Drop(DropReason::BelowMinimumMtu) {
                Ok(())
            } else {
                Err("no IPv6 path is this narrow".into())
            };
        }
        return match seen.verdict {
            Verdict::Drop(DropReason::TooBig) => Ok(()),
            Verdict::Reply(ReplyReason::TooBig) if !is_error => {
                replied(frame, l3_offset, l3_length, seen, fits)
            }
            _ => Err("too big, and forwarded".into()),
        };
    }
    if seen.verdict != Verdict::Tx {
        return Err("not forwarded".into());
    }
    let link = read::link(&seen.frame);
    if link.source != frame[..6] || !link.vlans.is_empty() {
        return Err("not from the director, or tagged".into());
    }
    let (received, sent) = (&frame[l3_offset..], &seen.frame[link.l3_offset..]);
    let inner = &received[..l3_length];
    if service.forward == ForwardMode::Direct {
        let kept = direct(received, l3_length, link.l3_offset);
        return if sent == kept { Ok(()) } else { Err("changed in transit".into()) };
    }
    // Checks checksum and lengths.
    let outer = read::outer(sent);
    if outer.destination != backend || outer.total_length != outer.header_length + l3_length {
        return Err("the outer header's address or length".into());
    }
    let v4 = flow.destination.0.is_ipv4();
    let tos = if v4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
    if outer.tos != tos || outer.ttl != 64 || outer.protocol != if v4 { 4 } else { 41 } {
        return Err("the outer header".into());
    }
    if &sent[outer.header_length..] == inner { Ok(()) } else { Err("changed in transit".into()) }
}

fn replied(
    frame: &[u8],
    l3_offset: usize,
    l3_length: usize,
    seen: &Seen,
    mtu: u16,
) -> Result<(), String> {
    let link = read::link(&seen.frame);
    if link.destination != frame[6..12]
        || link.source != frame[..6]
        || seen.frame[12..l3_offset] != frame[12..l3_offset]
    {
        return Err("not sent back to the source".into());
    }
    // Checks checksums and lengths.
    let error = read::error(&seen.frame[l3_offset..]);
    let packet = &frame[l3_offset..l3_offset + l3_length];
    if error.mtu != mtu || !packet.starts_with(&error.quote) || error.quote.len() < 28 {
        return Err("the error's MTU or quote".into());
    }
    Ok(())
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

/// Corrects the checksum of the IPv4 header, if there is one.
fn correct(frame: &mut [u8], at: usize) {
    let Some(first) = frame.get(at).copied() else { return };
    let length = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || length < 20 || frame.len() < at + length {
        return;
    }
    frame[at + 10..at + 12].fill(0);
    let sum = fold(sum_of(&frame[at..at + length]));
    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
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
