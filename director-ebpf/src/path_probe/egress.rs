//! Egress: a marked packet is rewritten as the data plane rewrites a client's.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    programs::TcContext,
};
use director_common::{
    probe::{Exchange, ExchangeKey, Probe, flag},
    wire::{
        ipv4::{PROTOCOL_IPIP, TUNNEL_TTL},
        ipv6::PROTOCOL_IPV6,
    },
};

use crate::{
    EXCHANGES, PROBES, SENT,
    packet::{Addresses, LINK, Packet, V4, V6},
    translate::{translate, v4_header, v6_header, words_v4},
};

/// Rewrites a packet for the path of probe `number`. `None`: there is no such probe, or the packet
/// is not one of that probe.
#[inline(always)]
pub fn send(ctx: &TcContext, number: u32) -> Option<()> {
    let probe = PROBES.get_ptr(number)?;
    // SAFETY: the map's lookup returned it; an entry never changes, and its memory stays until the
    // program has ended.
    let probe = unsafe { &*probe };
    let packet = Packet::parse(ctx)?;
    let asked = packet.addresses;
    let backend_v6 = probe.flags & flag::BACKEND_V6 != 0;
    if asked.is_v6 != backend_v6 || asked.destination != probe.backend {
        return None;
    }
    let source = if probe.flags & flag::FROM != 0 { probe.from } else { asked.source };
    let is_v6 = probe.flags & flag::VIP_V6 != 0;
    let inner = Addresses { source, destination: probe.vip, is_v6 };
    expect_answer(&packet, &inner)?;
    translate(ctx, &packet, &inner)?;
    if probe.flags & flag::TUNNEL != 0 {
        encapsulate(ctx, &packet, probe, is_v6)?;
    }
    if probe.flags & flag::MAC != 0 {
        let mac: &[u8; 6] = probe.mac.first_chunk()?;
        ctx.store(0, mac, 0).ok()?;
    }
    if let Some(sent) = SENT.get_ptr_mut(number) {
        // SAFETY: the map's lookup returned it. A count that is lost to another CPU is harmless.
        unsafe { *sent += 1 };
    }
    Some(())
}

/// Records the addresses of the reply, and those that the socket expects in it.
#[inline(always)]
fn expect_answer(packet: &Packet, inner: &Addresses) -> Option<()> {
    let asked = &packet.addresses;
    let key = ExchangeKey {
        vip: inner.destination,
        local: inner.source,
        ports: packet.ports.rotate_left(16),
        protocol: u32::from(packet.protocol) | u32::from(inner.is_v6) << 8,
    };
    let exchange = Exchange {
        backend: asked.destination,
        local: asked.source,
        is_v6: asked.is_v6.into(),
        _pad: 0,
    };
    if let Some(known) = EXCHANGES.get_ptr(key) {
        // SAFETY: the map's lookup returned it; at worst it has been reused for another exchange.
        let known = unsafe { *known };
        if known.backend == exchange.backend && known.local == exchange.local {
            return Some(());
        }
    }
    EXCHANGES.insert(key, exchange, 0).ok()
}

/// Encapsulates the packet, from the tunnel's source to the backend. The Ethernet header stays: the
/// socket's packet was of the backend's family, as the outer one is.
#[inline(always)]
fn encapsulate(ctx: &TcContext, packet: &Packet, probe: &Probe, inner_v6: bool) -> Option<()> {
    let protocol = if inner_v6 { PROTOCOL_IPV6 } else { PROTOCOL_IPIP };
    let inner_length = ctx.len() - LINK as u32;
    let is_v6 = probe.flags & flag::BACKEND_V6 != 0;
    let outer = Addresses { source: probe.source, destination: probe.backend, is_v6 };
    let fixed = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    if is_v6 {
        let flags = fixed | u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
        ctx.adjust_room(V6 as i32, BPF_ADJ_ROOM_MAC, flags).ok()?;
        // Each connection may take another of the equal-cost paths in between, as clients' do.
        let label = packet.ports ^ packet.ports >> 16;
        let header = v6_header(packet.tos, label, inner_length, protocol, TUNNEL_TTL, &outer);
        ctx.store(LINK, &header, 0).ok()
    } else {
        let flags = fixed | u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
        ctx.adjust_room(V4 as i32, BPF_ADJ_ROOM_MAC, flags).ok()?;
        let length = inner_length + V4 as u32;
        let header = v4_header(packet.tos, length, TUNNEL_TTL, protocol, words_v4(&outer));
        ctx.store(LINK, header.bytes(), 0).ok()
    }
}
