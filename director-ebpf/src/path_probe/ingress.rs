//! Ingress: a reply from a VIP becomes one from the backend.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
    programs::TcContext,
};
use director_common::{address::Address, probe::ExchangeKey, service::vip_bit};

use crate::{
    EXCHANGES, PROBED_VIPS,
    packet::{
        Addresses, ETHERTYPE, ETHERTYPE_V4, ETHERTYPE_V6, Packet, TCP, V4_SOURCE, V6_SOURCE, is_v6,
        v4,
    },
    translate::{translate, words_v4},
};

/// Look up in the namespace of the packet's interface (`BPF_F_CURRENT_NETNS`).
const HERE: u64 = -1i64 as u64;
/// States of a socket without a peer: `TCP_CLOSE`, which an unconnected UDP socket has, and
/// `TCP_LISTEN`.
const CLOSED: u32 = 7;
const LISTENING: u32 = 10;

/// Rewrites the packet if it is a reply to a probe. `None`: it is not, or it cannot be rewritten.
#[inline(always)]
pub fn restore(ctx: &TcContext) -> Option<()> {
    let v6 = is_v6(ctx)?;
    let source = if v6 {
        let [first, second]: [u64; 2] = ctx.load(V6_SOURCE).ok()?;
        Address { first, second }
    } else {
        v4(ctx.load(V4_SOURCE).ok()?)
    };
    let (word, bit) = vip_bit(source, v6);
    if PROBED_VIPS.get(word)? >> bit & 1 == 0 {
        return None;
    }
    let packet = Packet::parse(ctx)?;
    let Addresses { source: vip, destination: local, is_v6 } = packet.addresses;
    let protocol = u32::from(packet.protocol) | u32::from(is_v6) << 8;
    let exchange = EXCHANGES.get_ptr(ExchangeKey { vip, local, ports: packet.ports, protocol })?;
    // SAFETY: the map's lookup returned it; at worst it has been reused for another exchange, and
    // then no socket accepts this packet.
    let exchange = unsafe { *exchange };
    if is_anothers(ctx, &packet) {
        return None;
    }
    let expected = Addresses {
        source: exchange.backend,
        destination: exchange.local,
        is_v6: exchange.is_v6 != 0,
    };
    translate(ctx, &packet, &expected)?;
    if expected.is_v6 != is_v6 {
        // The kernel uses the type in the skb; packet captures show this one.
        let ethertype = if expected.is_v6 { ETHERTYPE_V6 } else { ETHERTYPE_V4 };
        ctx.store(ETHERTYPE, &ethertype, 0).ok()?;
    }
    Some(())
}

/// Whether a socket of this host is connected to the VIP itself with the same ports: then the
/// packet is for that socket. (A prober's is connected to the backend's address.)
#[inline(always)]
fn is_anothers(ctx: &TcContext, packet: &Packet) -> bool {
    let Addresses { source, destination, is_v6 } = packet.addresses;
    // `struct bpf_sock_tuple`, in words, for aligned writes to the stack.
    let ports = u64::from(packet.ports);
    let sock = if is_v6 {
        let Address { first: a, second: b } = source;
        let Address { first: c, second: d } = destination;
        look_up(ctx, packet.protocol, &mut [a, b, c, d, ports], 36)
    } else {
        let addresses = words_v4(&packet.addresses);
        look_up(ctx, packet.protocol, &mut [addresses, ports], 12)
    };
    if sock.is_null() {
        return false;
    }
    // SAFETY: the helper returned a socket, which may be read until it is released, once.
    let state = unsafe {
        let state = (*sock).state;
        bpf_sk_release(sock.cast());
        state
    };
    state != CLOSED && state != LISTENING
}

/// The socket for a packet with the addresses and ports in the first `size` bytes of `tuple`.
#[inline(always)]
fn look_up<const N: usize>(
    ctx: &TcContext,
    protocol: u8,
    tuple: &mut [u64; N],
    size: u32,
) -> *mut bpf_sock {
    let tuple = tuple.as_mut_ptr().cast();
    // SAFETY: the context is this program's, and the tuple no shorter than `size`.
    unsafe {
        if protocol == TCP {
            bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, size, HERE, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), tuple, size, HERE, 0)
        }
    }
}
