//! Rewrites a packet's addresses, to either family, and builds IP headers.
//!
//! Checksums are updated by the difference: that is right whether the packet's own is complete, or
//! partial and completed by the NIC (`CHECKSUM_PARTIAL`), or summed up already by the NIC that
//! received it (`CHECKSUM_COMPLETE`). For the last, the kernel must account for every byte that
//! changes (`RECOMPUTE`), except where an IPv4 header's own checksum compensates for it.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::bpf_csum_diff,
    programs::TcContext,
};
use director_common::address::Address;

use crate::packet::{
    Addresses, ETHERTYPE_V4, ETHERTYPE_V6, LINK, Packet, UDP, V4, V4_SOURCE, V6, V6_SOURCE,
};

/// Offset of an IPv4 header's checksum.
const V4_CHECKSUM: usize = LINK + 10;
/// Offsets of the checksum in a TCP and in a UDP header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
/// "Don't fragment", of an IPv4 header.
const DONT_FRAGMENT: u64 = 0x4000;
const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// Replaces the packet's addresses with `to`. The Ethernet header is unchanged.
#[inline(always)]
pub fn translate(ctx: &TcContext, packet: &Packet, to: &Addresses) -> Option<()> {
    let from = &packet.addresses;
    let change = if from.is_v6 {
        let old = words_v6(from);
        if to.is_v6 {
            let new = words_v6(to);
            ctx.store(V6_SOURCE, &new, RECOMPUTE).ok()?;
            difference(&old, &new)
        } else {
            let new = words_v4(to);
            to_v4(ctx, packet, new)?;
            difference(&old, &new)
        }
    } else {
        let old = words_v4(from);
        if to.is_v6 {
            let new = words_v6(to);
            to_v6(ctx, packet, to)?;
            difference(&old, &new)
        } else {
            let new = words_v4(to);
            let change = difference(&old, &new);
            ctx.store(V4_SOURCE, &new, 0).ok()?;
            ctx.l3_csum_replace(V4_CHECKSUM, 0, change, 0).ok()?;
            change
        }
    };
    let transport = LINK + if to.is_v6 { V6 } else { V4 };
    let (at, flags) = match packet.protocol {
        // Zero means no checksum, and stays.
        UDP => (UDP_CHECKSUM, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0),
        _ => (TCP_CHECKSUM, BPF_F_PSEUDO_HDR),
    };
    ctx.l4_csum_replace(transport + at, 0, change, u64::from(flags)).ok()
}

/// Translates an IPv6 packet to IPv4 (RFC 7915, section 5.1).
#[inline(always)]
fn to_v4(ctx: &TcContext, packet: &Packet, addresses: u64) -> Option<()> {
    ctx.change_proto(ETHERTYPE_V4, 0).ok()?;
    let length = ctx.len() - LINK as u32;
    let header = v4_header(packet.tos, length, packet.hops, packet.protocol, addresses);
    ctx.store(LINK, header.bytes(), RECOMPUTE).ok()
}

/// Translates an IPv4 packet to IPv6 (RFC 7915, section 4.1).
#[inline(always)]
fn to_v6(ctx: &TcContext, packet: &Packet, to: &Addresses) -> Option<()> {
    ctx.change_proto(ETHERTYPE_V6, 0).ok()?;
    let length = ctx.len() - (LINK + V6) as u32;
    let header = v6_header(packet.tos, 0, length, packet.protocol, packet.hops, to);
    ctx.store(LINK, &header, RECOMPUTE).ok()
}

/// An IPv4 header, in words, for aligned writes to the stack.
pub struct V4Header([u64; 3]);

impl V4Header {
    /// The header.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8; V4] {
        // SAFETY: the array has 24 bytes, and a byte may have any value.
        unsafe { &*self.0.as_ptr().cast() }
    }
}

/// An IPv4 header; `length` in bytes, with this header. Only the low 16 bits of more than 65,535:
/// the kernel segments such packets (GSO) and writes the length of each segment.
#[inline(always)]
pub fn v4_header(tos: u8, length: u32, hops: u8, protocol: u8, addresses: u64) -> V4Header {
    let first =
        0x45 << 56 | u64::from(tos) << 48 | u64::from(length & 0xffff) << 32 | DONT_FRAGMENT;
    let second = u64::from(hops) << 56 | u64::from(protocol) << 48;
    let (first, second) = (first.to_be(), second.to_be() | addresses << 32);
    let destination = addresses >> 32;
    let sum = sum(first) + sum(second) + sum(destination);
    // The checksum is the word's third and fourth byte; the sum is in native order.
    let second = second | u64::from(!fold(sum)) << 16;
    V4Header([first, second, destination])
}

/// An IPv6 header; `length` in bytes, without this header. See [`v4_header`].
#[inline(always)]
pub fn v6_header(
    class: u8,
    label: u32,
    length: u32,
    protocol: u8,
    hops: u8,
    addresses: &Addresses,
) -> [u64; V6 / 8] {
    let first = 6 << 60
        | u64::from(class) << 52
        | u64::from(label & 0xf_ffff) << 32
        | u64::from(length & 0xffff) << 16
        | u64::from(protocol) << 8
        | u64::from(hops);
    let Addresses { source, destination, .. } = addresses;
    [first.to_be(), source.first, source.second, destination.first, destination.second]
}

/// Both addresses, as they are in an IPv4 header: the destination in the upper half, since this is
/// compiled for little-endian machines only.
#[inline(always)]
pub fn words_v4(addresses: &Addresses) -> u64 {
    addresses.source.first & 0xffff_ffff | addresses.destination.first << 32
}

#[inline(always)]
fn words_v6(addresses: &Addresses) -> [u64; 4] {
    let (Address { first: a, second: b }, Address { first: c, second: d }) =
        (addresses.source, addresses.destination);
    [a, b, c, d]
}

/// The checksum difference from `from` to `to`. Both are a multiple of four bytes long.
#[inline(always)]
fn difference<A, B>(from: &A, to: &B) -> u64 {
    // SAFETY: the helper reads as many bytes of both as they have.
    let sum = unsafe {
        let (from_size, to_size) = (size_of::<A>() as u32, size_of::<B>() as u32);
        let (from, to) = (core::ptr::from_ref(from), core::ptr::from_ref(to));
        bpf_csum_diff(from.cast_mut().cast(), from_size, to.cast_mut().cast(), to_size, 0)
    };
    u64::from(sum as u32)
}

/// The sum of a word's halves.
#[inline(always)]
fn sum(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Adds the carries of a sum of a few 32-bit words back in.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
