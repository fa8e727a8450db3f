//! The backend side: an XDP program that decapsulates tunnelled packets, in place of the kernel's
//! ipip, sit and ip6tnl devices, which accept tunnels from any source.
//!
//! It strips the outer header of IP-in-IP (all four pairs of IPv4 and IPv6) that comes from a
//! director (maps `FROM_V4`, `FROM_V6`) and holds a packet for a VIP (`VIPS_V4`, `VIPS_V6`), and
//! passes the inner packet up the stack. Other packets are passed unmodified, except those that RFC
//! 6040 requires to be dropped. The NIC and the kernel check whether a frame's MAC address is this
//! host's. Userspace fills the maps before it attaches the program; they never change afterwards.
#![no_std]
#![no_main]

use core::borrow::Borrow;

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_action,
    helpers::bpf_xdp_adjust_head,
    macros::{map, xdp},
    maps::{HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::XdpContext,
};
use director_common::{
    realserver::{DecapCounter, MAX_FROM, MAX_VIPS},
    wire::{
        Header as _,
        ethernet::{
            ETHERTYPE_IPV4 as ETHERTYPE_V4, ETHERTYPE_IPV6 as ETHERTYPE_V6, ETHERTYPE_QINQ,
            ETHERTYPE_VLAN, VlanTag,
        },
        ipv4::{Ipv4Header, PROTOCOL_IPIP as PROTOCOL_V4},
        ipv6::{Ipv6Header, PROTOCOL_IPV6 as PROTOCOL_V6},
    },
};

/// An IPv6 address as it is in the packet. Words, because LLVM copies byte arrays to the stack in
/// pieces of any alignment, which the verifier refuses (seen with LLVM 22: "misaligned stack
/// access", any kernel).
type AddressV6 = [u32; 4];

/// A trie's key, which is packed, aligned for the stack.
#[repr(C, align(8))]
struct Aligned<K>(Key<K>);

impl<K> Borrow<Key<K>> for Aligned<K> {
    fn borrow(&self) -> &Key<K> {
        &self.0
    }
}

#[map]
static FROM_V4: LpmTrie<u32, u8> = LpmTrie::with_max_entries(MAX_FROM, 0);
#[map]
static FROM_V6: LpmTrie<AddressV6, u8> = LpmTrie::with_max_entries(MAX_FROM, 0);
#[map]
static VIPS_V4: HashMap<u32, u8> = HashMap::with_max_entries(MAX_VIPS, 0);
#[map]
static VIPS_V6: HashMap<AddressV6, u8> = HashMap::with_max_entries(MAX_VIPS, 0);
#[map]
static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(DecapCounter::ALL.len() as u32, 0);

const MACS_LEN: usize = 12;
const VLAN_LEN: usize = VlanTag::LEN;
const ETHERTYPE_LEN: usize = 2;
const V4_LEN: usize = Ipv4Header::LEN;
const V6_LEN: usize = Ipv6Header::LEN;

/// The two low bits of an IPv4 TOS or IPv6 traffic class (RFC 3168).
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// Decapsulates tunnelled packets.
#[expect(clippy::needless_pass_by_value, reason = "what the xdp macro calls it with")]
#[xdp]
fn realserver(ctx: XdpContext) -> u32 {
    let Some(outcome) = decapsulate(&ctx) else { return xdp_action::XDP_PASS };
    if let Some(counter) = COUNTERS.get_ptr_mut(outcome as u32) {
        // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
        unsafe { *counter += 1 };
    }
    match outcome {
        DecapCounter::EcnDropped => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// Passes every packet. An otherwise unused veth end needs some program for its peer's XDP_TX.
#[xdp]
fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The Ethernet header without its type, saved to be restored.
struct Link {
    macs: [u32; MACS_LEN / 4],
    tags: [u32; 2],
    n_tags: usize,
}

/// Fields of the outer header.
struct Outer {
    /// Where the inner packet starts, from the start of the frame.
    inner_at: usize,
    /// Bytes of the outer packet's payload.
    room: usize,
    /// [`PROTOCOL_V4`] or [`PROTOCOL_V6`].
    protocol: u8,
    ecn: u8,
}

/// `None`: not a tunnelled packet, or a fragment of one.
#[inline(always)]
fn decapsulate(ctx: &XdpContext) -> Option<DecapCounter> {
    let (link, ethertype) = parse_link(ctx)?;
    let at = MACS_LEN + VLAN_LEN * link.n_tags + ETHERTYPE_LEN;
    let outer = match ethertype {
        ETHERTYPE_V4 => parse_outer_v4(ctx, at)?,
        ETHERTYPE_V6 => parse_outer_v6(ctx, at)?,
        _ => return None,
    };
    let checked = outer.and_then(|outer| {
        match outer.protocol {
            PROTOCOL_V4 => accept_inner_v4(ctx, &outer)?,
            _ => accept_inner_v6(ctx, &outer)?,
        }
        Ok(outer)
    });
    Some(match checked {
        Ok(outer) => strip(ctx, &link, outer.inner_at - at, outer.protocol),
        Err(refused) => refused,
    })
}

/// Reads the MAC addresses, up to two VLAN tags and the type of what follows.
#[inline(always)]
fn parse_link(ctx: &XdpContext) -> Option<(Link, u16)> {
    let mut link = Link { macs: load(ctx, 0)?, tags: [0; 2], n_tags: 0 };
    let mut ethertype = u16::from_be_bytes(load(ctx, MACS_LEN)?);
    if is_vlan(ethertype) {
        link.tags[0] = load(ctx, MACS_LEN)?;
        link.n_tags = 1;
        ethertype = u16::from_be_bytes(load(ctx, MACS_LEN + VLAN_LEN)?);
        if is_vlan(ethertype) {
            link.tags[1] = load(ctx, MACS_LEN + VLAN_LEN)?;
            link.n_tags = 2;
            ethertype = u16::from_be_bytes(load(ctx, MACS_LEN + 2 * VLAN_LEN)?);
        }
    }
    Some((link, ethertype))
}

#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}

/// `None` if it is not a tunnelled packet, or a fragment of one (the kernel reassembles those).
#[inline(always)]
fn parse_outer_v4(ctx: &XdpContext, at: usize) -> Option<Result<Outer, DecapCounter>> {
    let header: [u8; V4_LEN] = load(ctx, at)?;
    let protocol = header[9];
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    if !is_ip(protocol) || fragment {
        return None;
    }
    let source: u32 = load(ctx, at + 12)?;
    if FROM_V4.get(Aligned(Key::new(32, source))).is_none() {
        return Some(Err(DecapCounter::RefusedSource));
    }
    let header_len = usize::from(header[0] & 0xf) * 4;
    let total_len = u16::from_be_bytes([header[2], header[3]]);
    if header[0] >> 4 != 4
        || header_len < V4_LEN
        || usize::from(total_len) < header_len
        || !holds(ctx, at, total_len)
        || !checksum_holds(ctx, &header, at, header_len)
    {
        return Some(Err(DecapCounter::Malformed));
    }
    let (inner_at, room) = (at + header_len, usize::from(total_len) - header_len);
    Some(Ok(Outer { inner_at, room, protocol, ecn: header[1] & ECN }))
}

/// `None` if the next header is not IP; extension headers are left to the kernel.
#[inline(always)]
fn parse_outer_v6(ctx: &XdpContext, at: usize) -> Option<Result<Outer, DecapCounter>> {
    let header: [u8; V6_LEN] = load(ctx, at)?;
    let protocol = header[6];
    if !is_ip(protocol) {
        return None;
    }
    let source: AddressV6 = load(ctx, at + 8)?;
    if FROM_V6.get(Aligned(Key::new(128, source))).is_none() {
        return Some(Err(DecapCounter::RefusedSource));
    }
    let room = u16::from_be_bytes([header[4], header[5]]);
    if header[0] >> 4 != 6 || !holds(ctx, at + V6_LEN, room) {
        return Some(Err(DecapCounter::Malformed));
    }
    let ecn = header[1] >> 4 & ECN;
    Some(Ok(Outer { inner_at: at + V6_LEN, room: room.into(), protocol, ecn }))
}

#[inline(always)]
fn is_ip(protocol: u8) -> bool {
    protocol == PROTOCOL_V4 || protocol == PROTOCOL_V6
}

/// Whether the header with its options sums up to all ones (RFC 1071).
#[inline(always)]
fn checksum_holds(ctx: &XdpContext, header: &[u8; V4_LEN], at: usize, header_len: usize) -> bool {
    let mut sum = 0u32;
    // Unrolled, so that every index is a constant and no bounds check remains.
    sum += word(header[0], header[1]) + word(header[2], header[3]) + word(header[4], header[5]);
    sum += word(header[6], header[7]) + word(header[8], header[9]) + word(header[10], header[11]);
    sum += word(header[12], header[13]) + word(header[14], header[15]);
    sum += word(header[16], header[17]) + word(header[18], header[19]);
    let mut offset = V4_LEN;
    while offset < 60 {
        if offset >= header_len {
            break;
        }
        let Some([a, b, c, d]) = load::<[u8; 4]>(ctx, at + offset) else { return false };
        sum += word(a, b) + word(c, d);
        offset += 4;
    }
    fold(sum) == 0xffff
}

#[inline(always)]
fn word(high: u8, low: u8) -> u32 {
    u32::from(high) << 8 | u32::from(low)
}

/// Adds the carries of a sum of 16-bit words (at most 2^16 of them) back in.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[inline(always)]
fn accept_inner_v4(ctx: &XdpContext, outer: &Outer) -> Result<(), DecapCounter> {
    let header: [u8; V4_LEN] = load(ctx, outer.inner_at).ok_or(DecapCounter::Malformed)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4
        || header_len < V4_LEN
        || total_len < header_len
        || total_len > outer.room
    {
        return Err(DecapCounter::Malformed);
    }
    let destination: u32 = load(ctx, outer.inner_at + 16).ok_or(DecapCounter::Malformed)?;
    if VIPS_V4.get_ptr(destination).is_none() {
        return Err(DecapCounter::RefusedVip);
    }
    let tos = header[1];
    let ecn = combine_ecn(outer.ecn, tos & ECN)?;
    if ecn == tos & ECN {
        return Ok(());
    }
    let new_tos = tos & !ECN | ecn;
    // RFC 1624, equation 3. TOS is the low byte of the header's first word.
    let checksum = !u16::from_be_bytes([header[10], header[11]]);
    let sum =
        u32::from(checksum) + u32::from(!(word(header[0], tos) as u16)) + word(header[0], new_tos);
    store(ctx, outer.inner_at + 1, new_tos)
        .and_then(|()| store(ctx, outer.inner_at + 10, (!fold(sum)).to_be_bytes()))
        .ok_or(DecapCounter::Malformed)
}

#[inline(always)]
fn accept_inner_v6(ctx: &XdpContext, outer: &Outer) -> Result<(), DecapCounter> {
    let header: [u8; V6_LEN] = load(ctx, outer.inner_at).ok_or(DecapCounter::Malformed)?;
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || V6_LEN + payload_len > outer.room {
        return Err(DecapCounter::Malformed);
    }
    let destination: AddressV6 = load(ctx, outer.inner_at + 24).ok_or(DecapCounter::Malformed)?;
    if VIPS_V6.get_ptr(destination).is_none() {
        return Err(DecapCounter::RefusedVip);
    }
    // The traffic class straddles the first two bytes; ECN is in the high half of the second.
    let old = header[1] >> 4 & ECN;
    let ecn = combine_ecn(outer.ecn, old)?;
    if ecn == old {
        return Ok(());
    }
    let byte = header[1] & !(ECN << 4) | ecn << 4;
    store(ctx, outer.inner_at + 1, byte).ok_or(DecapCounter::Malformed)
}

/// The ECN field of the decapsulated packet: the table of RFC 6040, figure 4.
#[inline(always)]
fn combine_ecn(outer: u8, inner: u8) -> Result<u8, DecapCounter> {
    match (outer, inner) {
        (CE, NOT_ECT) => Err(DecapCounter::EcnDropped),
        (_, NOT_ECT) => Ok(NOT_ECT),
        (CE, _) => Ok(CE),
        (ECT_1, ECT_0) => Ok(ECT_1),
        _ => Ok(inner),
    }
}

/// Removes `len` bytes between the Ethernet header and the inner packet.
#[inline(always)]
fn strip(ctx: &XdpContext, link: &Link, len: usize, protocol: u8) -> DecapCounter {
    // SAFETY: the context is the one this program was called with.
    let failed = unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), len as i32) };
    if failed != 0 {
        return DecapCounter::Malformed;
    }
    let ethertype = match protocol {
        PROTOCOL_V4 => ETHERTYPE_V4.to_be_bytes(),
        _ => ETHERTYPE_V6.to_be_bytes(),
    };
    // None of these writes can fail: the frame held the Ethernet header and two IP headers before.
    let written = store(ctx, 0, link.macs).and_then(|()| match link.n_tags {
        0 => store(ctx, MACS_LEN, ethertype),
        1 => store(ctx, MACS_LEN, link.tags[0])
            .and_then(|()| store(ctx, MACS_LEN + VLAN_LEN, ethertype)),
        _ => store(ctx, MACS_LEN, link.tags)
            .and_then(|()| store(ctx, MACS_LEN + 2 * VLAN_LEN, ethertype)),
    });
    match written {
        Some(()) => DecapCounter::Decapsulated,
        None => DecapCounter::Malformed,
    }
}

/// The frame's first byte and the byte after its last.
///
/// Volatile, because LLVM otherwise keeps the context's 32-bit fields in 32-bit registers and
/// widens them again later, after which the verifier no longer treats them as packet pointers (seen
/// with LLVM 22: "R2 invalid mem access 'scalar'", any kernel).
#[inline(always)]
fn bounds(ctx: &XdpContext) -> (usize, usize) {
    // SAFETY: the context is valid while the program runs, and both fields are aligned.
    unsafe {
        let data = (&raw const (*ctx.ctx).data).read_volatile();
        let data_end = (&raw const (*ctx.ctx).data_end).read_volatile();
        (data as usize, data_end as usize)
    }
}

/// Whether the frame has `len` bytes from `offset` on.
#[inline(always)]
fn holds(ctx: &XdpContext, offset: usize, len: u16) -> bool {
    // Through memory, because the verifier of 6.1 does not track that a byte-swapped number has 16
    // bits ("math between pkt pointer and register with unbounded min value is not allowed").
    // SAFETY: a local variable.
    let len = unsafe { (&raw const len).read_volatile() };
    let (frame, end) = bounds(ctx);
    frame + offset + usize::from(len) <= end
}

/// Reads a value, in the packet's byte order, if the frame is long enough.
#[inline(always)]
fn load<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let (frame, end) = bounds(ctx);
    let start = frame + offset;
    if start + size_of::<T>() > end {
        return None;
    }
    // SAFETY: the bytes are inside the frame, and any bytes are integers or arrays of them.
    Some(unsafe { (start as *const T).read_unaligned() })
}

/// Writes a value if the frame is long enough.
#[inline(always)]
fn store<T: Copy>(ctx: &XdpContext, offset: usize, value: T) -> Option<()> {
    let (frame, end) = bounds(ctx);
    let start = frame + offset;
    if start + size_of::<T>() > end {
        return None;
    }
    // SAFETY: the bytes are inside the frame, which belongs to the program while it runs.
    unsafe { (start as *mut T).write_unaligned(value) };
    Some(())
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
