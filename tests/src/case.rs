//! Rows of the packet tables: a packet and its expected verdict.

use director_common::{
    decision::Connection,
    verdict::{DropReason, PassReason, ReplyReason, Verdict},
};
use director_userspace::{
    kernel::datapath::Counters,
    policy::config::model::{ForwardMode, Service},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    given::{Director, Given, Seen, TUNNEL_V4, TUNNEL_V6, lend, mac_of},
    packet::{DIRECTOR_MAC, Packet, ROUTER_MAC},
    read,
};

/// Forwarded by the interface it came from.
pub const TX: Verdict = Verdict::Tx;
/// Passed to the host.
pub const fn pass(reason: PassReason) -> Verdict {
    Verdict::Pass(reason)
}
/// Dropped.
pub const fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}
/// Replied to.
pub const fn reply(reason: ReplyReason) -> Verdict {
    Verdict::Reply(reason)
}

/// One row: the first packet of a flow, under [`Given::everything`].
#[track_caller]
pub fn check(packet: &Packet, verdict: Verdict, service: Option<&str>) -> Seen {
    check_given(&Given::everything(), packet, verdict, service)
}

/// One row under another configuration.
#[track_caller]
pub fn check_given(
    given: &Given,
    packet: &Packet,
    verdict: Verdict,
    service: Option<&str>,
) -> Seen {
    check_in(&mut lend(given), packet, verdict, service)
}

/// One row in a director that has processed other packets. Everything that the verdict implies is
/// checked, including frame and counters.
#[track_caller]
pub fn check_in(
    director: &mut Director,
    packet: &Packet,
    verdict: Verdict,
    service: Option<&str>,
) -> Seen {
    let before = director.counters();
    let input = packet.frame();
    let seen = director.run(&input);
    assert_eq!(seen.verdict, verdict, "the verdict on {packet:#?}, {seen:#?}");
    assert_eq!(seen.service.as_deref(), service, "the service");
    let counters = director.counters();
    one_verdict_counted(&before, &counters, verdict);
    let is_new = u64::from(seen.connection == Connection::New);
    match verdict {
        Verdict::Pass(_) => {
            assert_eq!(seen.frame, input, "a passed packet is unchanged");
            assert_eq!(total(&before), total(&counters), "unmatched packets are not counted");
        }
        Verdict::Drop(_) | Verdict::Reply(_) => {
            if let Verdict::Reply(reason) = verdict {
                replied(packet, &seen, reason);
            }
            // A flow begins with the first packet that is forwarded.
            assert_eq!(total(&counters).0, total(&before).0, "not forwarded");
            assert_eq!(total(&before).1 + 1, total(&counters).1, "dropped");
        }
        Verdict::Tx | Verdict::Redirect => {
            forwarded(director, packet, &seen);
            let ip_length = (packet.ip_bytes().len()) as u64;
            let (packets, bytes, flows) = total(&before).0;
            let after = (packets + 1, bytes + ip_length, flows + is_new);
            assert_eq!(total(&counters).0, after, "packets, bytes, flows");
        }
    }
    seen
}

/// Bytes that cannot be a packet for a service: passed for this reason, unchanged.
#[track_caller]
pub fn check_passed(frame: &[u8], reason: PassReason) {
    let mut director = lend(&Given::everything());
    let seen = director.run(frame);
    assert_eq!(seen.verdict, Verdict::Pass(reason), "the verdict on {frame:02x?}");
    assert_eq!(seen.frame, frame, "a passed packet is unchanged");
    assert_eq!((seen.service, seen.backend, seen.connection), (None, None, Connection::None));
}

/// Pins this thread to one CPU: limits are counted per CPU.
///
/// # Panics
///
/// If the kernel refuses.
pub fn pin_to_a_cpu() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("an affinity");
    let cpu = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(cpu.expect("a CPU to run on")).expect("in range");
    sched_setaffinity(this, &one).expect("pinned");
}

/// Packets, bytes and flows forwarded; packets dropped.
fn total(counters: &Counters) -> ((u64, u64, u64), u64) {
    let mut all = ((0, 0, 0), 0);
    for service in counters.services.values() {
        all.0.0 += service.total.packets;
        all.0.1 += service.total.bytes;
        all.0.2 += service.total.flows;
        all.1 += service.dropped;
    }
    all
}

#[track_caller]
fn one_verdict_counted(before: &Counters, after: &Counters, verdict: Verdict) {
    for ((which, was), (_, is)) in before.verdicts.iter().zip(&after.verdicts) {
        assert_eq!(is - was, u64::from(*which == verdict), "the counter of {which:?}");
    }
}

/// The configured service that matched the packet.
#[track_caller]
fn service<'a>(director: &'a Director, seen: &Seen) -> &'a Service {
    let name = seen.service.as_deref().expect("a forwarded packet has a service");
    let found = director.config.services.iter().find(|service| service.name.to_string() == name);
    found.expect("a configured service")
}

#[track_caller]
fn forwarded(director: &Director, packet: &Packet, seen: &Seen) {
    let service = service(director, seen);
    let backend = seen.backend.expect("a forwarded packet has a backend");
    let configured = service.backends.iter().find(|b| b.address == backend);
    let link = read::link(&seen.frame);
    let mac = configured.and_then(|b| b.mac).map_or_else(|| mac_of(backend), |mac| mac.0);
    assert_eq!(link.destination, mac, "the next hop");
    assert_eq!(link.source, DIRECTOR_MAC, "the source is the director");
    let vlan = director.given.vlan;
    let vlans = if vlan == 0 { vec![] } else { vec![vlan] };
    assert_eq!(link.vlans, vlans, "the next hop decides the tag");

    let input = packet.frame();
    let received = &input[packet.l3_offset()..];
    let inner = &received[..packet.ip_bytes().len()];
    let sent = &seen.frame[link.l3_offset..];
    match service.forward {
        ForwardMode::Direct => {
            let ethertype = if packet.source().is_ipv4() { 0x0800 } else { 0x86dd };
            assert_eq!(link.ethertype, ethertype);
            assert_eq!(sent, direct(received, inner.len(), link.l3_offset), "unchanged");
        }
        ForwardMode::Tunnel => {
            assert_eq!(link.ethertype, if backend.is_ipv4() { 0x0800 } else { 0x86dd });
            let outer = read::outer(sent);
            let source = if backend.is_ipv4() { TUNNEL_V4 } else { TUNNEL_V6 };
            assert_eq!(outer.source.to_string(), source);
            assert_eq!(outer.destination, backend);
            assert_eq!(outer.protocol, if packet.source().is_ipv4() { 4 } else { 41 });
            assert_eq!((outer.tos, outer.ttl), (packet.tos_byte(), 64));
            let length = outer.header_length + packet.ip_bytes().len();
            assert_eq!(
                outer.total_length, length,
                "the outer header counts the packet, not padding"
            );
            assert_eq!(
                &sent[outer.header_length..],
                inner,
                "the inner packet, byte for byte, and nothing behind it"
            );
        }
    }
}

/// What direct routing keeps of the bytes behind the link header: the IP packet, and padding only in a
/// frame that would otherwise be shorter than Ethernet allows, 60 bytes.
pub fn direct(received: &[u8], ip_length: usize, link_length: usize) -> &[u8] {
    &received[..received.len().min(ip_length.max(60 - link_length))]
}

#[track_caller]
fn replied(packet: &Packet, seen: &Seen, reason: ReplyReason) {
    let input = packet.frame();
    let link = read::link(&seen.frame);
    assert_eq!((link.destination, link.source), (ROUTER_MAC, DIRECTOR_MAC), "back to the sender");
    assert_eq!(link.l3_offset, packet.l3_offset());
    assert_eq!(seen.frame[12..link.l3_offset], input[12..link.l3_offset], "with the same tags");
    let error = read::error(&seen.frame[link.l3_offset..]);
    assert_eq!((error.ip.source, error.ip.destination), (packet.destination(), packet.source()));
    assert_eq!((error.ip.ttl, error.ip.tos), (64, 0xc0));
    let is_v4 = packet.source().is_ipv4();
    let kind = match (reason, is_v4) {
        (ReplyReason::NoBackend, true) => (3, 3),
        (ReplyReason::NoBackend, false) => (1, 4),
        (ReplyReason::TooBig, true) => (3, 4),
        (ReplyReason::TooBig, false) => (2, 0),
    };
    assert_eq!((error.kind, error.code), kind);
    assert_eq!(error.mtu != 0, reason == ReplyReason::TooBig, "an MTU only in packet too big");
    let ip = packet.ip_bytes();
    assert_eq!(error.quote, ip[..error.quote.len()], "what it quotes");
    let headers = ip.len() - packet.transport_length();
    assert!(
        error.quote.len() >= headers + 8,
        "{} bytes quoted of {headers} of headers: eight more are required",
        error.quote.len()
    );
    assert!(error.quote.len() <= if is_v4 { 548 } else { 1232 }, "RFC 792, RFC 4443");
}
