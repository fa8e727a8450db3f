//! ICMP errors that Director sends itself, from the VIP to the client: the service has no backend,
//! or the packet does not fit the path to it. The received frame is rewritten into the error.

use core::hint::black_box;

use director_common::{
    checksum::Sum,
    verdict::ReplyReason,
    wire::{
        Header as _,
        ethernet::{EthernetHeader, VlanTag},
        icmp::{
            IcmpHeader, PROTOCOL_ICMP, PROTOCOL_ICMPV6, V4_FRAGMENTATION_NEEDED,
            V4_PORT_UNREACHABLE, V4_UNREACHABLE, V6_PACKET_TOO_BIG, V6_PORT_UNREACHABLE,
            V6_UNREACHABLE,
        },
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
    },
};

use crate::{
    constants,
    context::PacketContext,
    frame::Frame,
    maps,
    parse::{Content, Packet, Word},
};

/// Maximum number of bytes of the packet that are quoted. RFC 792 requires its IP header and eight
/// bytes behind it, and receivers ignore errors with less: 68 for IPv4, and no more than this for
/// IPv6 with the extension headers that are seen in practice.
const MAX_QUOTE: usize = 128;
/// Maximum number of errors that one CPU sends in a tick (67 ms): about a thousand a second, as the
/// kernel's limit.
const MAX_REPLIES_PER_TICK: u32 = 64;
/// DSCP CS6, as the kernel marks its own errors (RFC 4594: network control).
const TOS: u8 = 0xc0;
/// TTL or hop limit of an error.
const HOPS: u8 = 64;

/// Whether this packet may be answered with an error, under the limit on errors sent. Its source is a
/// single host (RFC 1122 3.2.2, RFC 4443 2.4 (e)): packets from elsewhere have been refused.
#[inline(always)]
pub fn allowed(packet: &Packet, context: &PacketContext) -> bool {
    packet.content == Content::Whole && within_limit(context)
}

/// Rewrites the frame into the error. `mtu` is the size that fits, or 0. Returns whether it
/// succeeded; if not, the frame may be partly rewritten and must be dropped.
#[inline(always)]
pub fn send(frame: &mut Frame, packet: &Packet, reason: ReplyReason, mtu: u16) -> bool {
    let (kind, code) = match (reason, packet.is_v6()) {
        (ReplyReason::NoBackend, false) => (V4_UNREACHABLE, V4_PORT_UNREACHABLE),
        (ReplyReason::NoBackend, true) => (V6_UNREACHABLE, V6_PORT_UNREACHABLE),
        (ReplyReason::TooBig, false) => (V4_UNREACHABLE, V4_FRAGMENTATION_NEEDED),
        (ReplyReason::TooBig, true) => (V6_PACKET_TOO_BIG, 0),
    };
    // Summed up here and not in `rewrite`: a third stack frame exceeds the stack that 6.1 allows,
    // where each takes a multiple of 32 bytes ("combined stack size of 3 calls is 544. Too large").
    let quoted = sum_quote(frame, packet.l3_offset, quote_length(packet));
    // One number for three fields: each takes as much stack there.
    let fields = u32::from(kind) << 24 | u32::from(code) << 16 | u32::from(mtu);
    rewrite(frame, packet, fields, quoted)
}

/// Bytes of the packet that are quoted. Headers are made of words, so the sum's rounding down cuts
/// off payload only.
#[inline(always)]
fn quote_length(packet: &Packet) -> usize {
    (packet.l3_length as usize).min(MAX_QUOTE) & !3
}

/// Not inlined, so that its variables are not on the pipeline's stack.
#[inline(never)]
fn rewrite(frame: &mut Frame, packet: &Packet, fields: u32, quoted: u64) -> bool {
    let quote = quote_length(packet);
    let ip_length = if packet.is_v6() { Ipv6Header::LEN } else { Ipv4Header::LEN };

    let Some(ethernet) = frame.header::<EthernetHeader>(0).copied() else { return false };
    let tags = frame.header::<[VlanTag; 2]>(EthernetHeader::LEN).copied();
    // Kept at 64 bits: narrowed to 32 bits before the subtraction, it would be pointer arithmetic
    // that the verifier forbids.
    let length = black_box(frame.len());
    let surplus = length as i32 - (packet.l3_offset + quote) as i32;
    if surplus < 0
        || (surplus > 0 && !frame.shrink_tail(surplus))
        || !frame.grow_head((ip_length + IcmpHeader::LEN) as i32)
    {
        return false;
    }

    // Back to the previous hop: same tags, MACs swapped. `write_packet` overwrites the excess.
    let link = EthernetHeader::new(ethernet.source(), ethernet.destination(), ethernet.ethertype());
    let Some(tags) = tags else { return false };
    frame.write(0, link)
        && frame.write(EthernetHeader::LEN, tags)
        && write_packet(frame, packet, fields, quoted)
}

#[inline(always)]
fn write_packet(frame: &mut Frame, packet: &Packet, fields: u32, quoted: u64) -> bool {
    let (client, vip) = (packet.flow.source, packet.flow.destination);
    let length = (IcmpHeader::LEN + quote_length(packet)) as u16;
    let mut sum = Sum::ZERO;
    let (icmp_at, written) = if packet.is_v6() {
        // RFC 8200 8.1: the pseudo-header.
        sum.add_address(vip);
        sum.add_address(client);
        sum.add_u16(length);
        sum.add_u16(u16::from(PROTOCOL_ICMPV6));
        let ip =
            Ipv6Header::new(TOS, 0, length, PROTOCOL_ICMPV6, HOPS, vip.bytes(), client.bytes());
        (packet.l3_offset + Ipv6Header::LEN, frame.write(packet.l3_offset, ip))
    } else {
        let ip = Ipv4Header::new(
            TOS,
            length + Ipv4Header::LEN as u16,
            HOPS,
            PROTOCOL_ICMP,
            vip.v4_bytes(),
            client.v4_bytes(),
        );
        (packet.l3_offset + Ipv4Header::LEN, frame.write(packet.l3_offset, ip))
    };
    sum.add_folded(quoted);
    sum.add_u16((fields >> 16) as u16);
    sum.add_u16(fields as u16);
    let mtu = (fields as u16).to_be_bytes();
    let icmp = IcmpHeader {
        kind: (fields >> 24) as u8,
        code: (fields >> 16) as u8,
        checksum: sum.finish(),
        rest: [0, 0, mtu[0], mtu[1]],
    };
    written && frame.write(icmp_at, icmp)
}

/// The ones' complement sum of the quote, word by word: the kernel's checksum helper accepts no
/// length from a packet. Not inlined, so that its many exits become one for the verifier.
#[inline(never)]
fn sum_quote(frame: &Frame, start: usize, length: usize) -> u64 {
    let mut sum = 0;
    for word in 0..MAX_QUOTE / 4 {
        if word * 4 >= length {
            break;
        }
        let Some(quoted) = frame.header::<Word>(start + word * 4) else { break };
        sum += u64::from(quoted.native());
    }
    sum
}

#[inline(always)]
fn within_limit(context: &PacketContext) -> bool {
    if !constants::mode().writes() {
        return true;
    }
    let Some(limit) = maps::REPLY_LIMIT.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
    let sent = unsafe { &mut *limit }.at(context.now);
    *sent += 1;
    *sent <= MAX_REPLIES_PER_TICK
}
