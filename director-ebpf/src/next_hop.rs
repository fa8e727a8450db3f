//! Stage 6: which next hop and egress interface does the packet take? Previous: `flow_table` or
//! `schedule`; next: `transmit`. Reads BACKENDS and INTERFACES, and the kernel's FIB if userspace
//! has no fresh next hop.

use core::{
    mem::MaybeUninit,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
        bpf_fib_lookup as FibLookup,
    },
    helpers::bpf_fib_lookup,
};
use director_common::{
    address::Address, backend::NextHop, tunables::HEARTBEAT_STALE_NS, verdict::DropReason,
    wire::ipv6::MINIMUM_MTU,
};

use crate::{
    backend::SelectedBackend, constants, context::PacketContext, frame::Frame, maps, parse::Packet,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The next hop to a backend.
pub struct Hop {
    /// Destination MAC of the outgoing frame, as `mac_to_u64` returns it; the upper bits are
    /// ignored.
    pub destination: u64,
    /// Its source MAC, likewise.
    pub source: u64,
    /// Its VLAN id; 0: untagged.
    pub vlan_id: u16,
    /// Index of the egress interface; not set if it is the ingress interface.
    pub ifindex: u32,
    /// Whether the egress interface is the ingress interface.
    pub same_interface: bool,
    /// Bytes of IP packet that fit; 0: not known.
    pub mtu: u16,
}

/// The next hop to the packet's backend: userspace's while its heartbeat is fresh, else the kernel
/// FIB's, else the last one of userspace.
#[inline(always)]
pub fn find(
    frame: &Frame,
    packet: &Packet,
    selected: &SelectedBackend,
    context: &PacketContext,
) -> Result<Hop, DropReason> {
    let known = read(selected);
    // The frame's destination may be another MAC of the interface, VRRP's for example. A simulated
    // interface has none of its own.
    let own = if !constants::mode().has_interfaces() { Some(packet.destination_mac) } else { None };
    if known.is_resolved() && is_fresh(selected, context) {
        return from_cache(own, selected, known);
    }
    match from_fib(frame, selected) {
        Ok(hop) => Ok(hop),
        Err(_) if known.is_resolved() => from_cache(own, selected, known),
        Err(reason) => Err(reason),
    }
}

/// Userspace's next hop, if it is fresh. The packet was sent to the interface's own MAC.
#[inline(always)]
pub fn cached(packet: &Packet, selected: &SelectedBackend, context: &PacketContext) -> Option<Hop> {
    let known = read(selected);
    if !known.is_resolved() || !is_fresh(selected, context) {
        return None;
    }
    from_cache(Some(packet.destination_mac), selected, known).ok()
}

#[inline(always)]
fn read(selected: &SelectedBackend) -> NextHop {
    // SAFETY: a field of a map value that outlives the program's run; replaced while packets read
    // it.
    NextHop(unsafe { read_volatile(&raw const selected.backend.next_hop.0) })
}

#[inline(always)]
fn is_fresh(selected: &SelectedBackend, context: &PacketContext) -> bool {
    selected.word.has_fixed_next_hop()
        || context.now_ns < context.tunables.heartbeat_ns.wrapping_add(HEARTBEAT_STALE_NS)
}

/// `own` is the MAC of the ingress interface, if it is known already.
#[inline(always)]
fn from_cache(
    own: Option<u64>,
    selected: &SelectedBackend,
    known: NextHop,
) -> Result<Hop, DropReason> {
    let same_interface = known.interface() == constants::interface_slot();
    let (source, ifindex) = match own {
        Some(own) if same_interface || !constants::mode().has_interfaces() => (own, 0),
        _ => {
            let out = maps::INTERFACES.get(known.interface()).ok_or(DropReason::NoInterface)?;
            (out.mac(), out.ifindex)
        }
    };
    Ok(Hop {
        destination: known.0,
        source,
        vlan_id: known.vlan_id(),
        ifindex,
        same_interface,
        mtu: selected.word.mtu(),
    })
}

#[inline(always)]
fn from_fib(frame: &Frame, selected: &SelectedBackend) -> Result<Hop, DropReason> {
    let mut answer = Answer { ifindex: 0, source: 0, destination: 0 };
    // Userspace has never found a route, which determines the tunnel's source address.
    let source = selected.backend.sources[selected.word.source() & 1];
    if selected.forward().encapsulates() && source.first == 0 && source.second == 0 {
        return Err(DropReason::NoRoute);
    }
    match ask(frame, selected, &mut answer) {
        // For example a VLAN device: the program can only send out of the interfaces in TX_PORTS.
        ANSWERED if maps::TX_PORTS.get_ifindex(answer.ifindex).is_none() => {
            Err(DropReason::NoInterface)
        }
        ANSWERED => Ok(Hop {
            destination: answer.destination,
            source: answer.source,
            vlan_id: 0,
            ifindex: answer.ifindex,
            same_interface: answer.ifindex == ingress(frame),
            mtu: selected.word.mtu(),
        }),
        BPF_FIB_LKUP_RET_NO_NEIGH => Err(DropReason::NoNeighbour),
        _ => Err(DropReason::NoRoute),
    }
}

const ANSWERED: u32 = BPF_FIB_LKUP_RET_SUCCESS;

/// Index of the interface that the packet arrived on, or would arrive on.
#[inline(always)]
fn ingress(frame: &Frame) -> u32 {
    if !constants::mode().writes() {
        return maps::INTERFACES.get(constants::interface_slot()).map_or(0, |at| at.ifindex);
    }
    frame.ingress_ifindex()
}

/// The result of a FIB lookup.
struct Answer {
    ifindex: u32,
    source: u64,
    destination: u64,
}

/// Addresses are written eight bytes at a time, which the verifier requires to be aligned on the
/// stack.
#[repr(C, align(8))]
struct Aligned(FibLookup);

// Where `ask` reads the result.
const _: () = assert!(
    core::mem::offset_of!(FibLookup, ifindex) == 8
        && core::mem::offset_of!(FibLookup, smac) == 52
        && core::mem::offset_of!(FibLookup, dmac) == 58
);

/// Looks up the kernel's FIB, and returns the helper's code. Not inlined, so that the request is
/// not on the pipeline's stack; and it returns a number, since the verifier treats a returned
/// structure's address as a leaked pointer (6.18: "cannot return stack pointer to the caller").
#[inline(never)]
fn ask(frame: &Frame, selected: &SelectedBackend, answer: &mut Answer) -> u32 {
    let address = words(selected.backend.address);
    let source = words(selected.backend.sources[selected.word.source() & 1]);
    let mut aligned = MaybeUninit::<Aligned>::uninit();
    // SAFETY: zeros are a valid request, and every word of it is written, which its size (a multiple
    // of eight) and alignment allow; the union fields written are those that the address family
    // selects, the one read is the largest, and the kernel writes no more than the size it is given.
    let (code, [ifindex, macs, more_macs], reached) = unsafe {
        // Volatile, or LLVM calls memset, and a third stack frame exceeds the stack that 6.1
        // allows, where each takes a multiple of 32 bytes ("combined stack size of 3 calls is 544.
        // Too large").
        for word in 0..size_of::<Aligned>() / size_of::<u64>() {
            write_volatile(aligned.as_mut_ptr().cast::<u64>().add(word), 0);
        }
        let request = &mut aligned.assume_init_mut().0;
        request.ifindex = ingress(frame);
        request.family = if selected.word.is_v6() { AF_INET6 } else { AF_INET };
        request.__bindgen_anon_4.ipv6_dst = address;
        request.__bindgen_anon_3.ipv6_src = source;
        let size = size_of::<FibLookup>() as i32;
        let code = bpf_fib_lookup(frame.as_ptr(), request, size, 0);
        let reached = request.__bindgen_anon_4.ipv6_dst;
        // Read by aligned words: the verifier allows no word load at the MACs' offsets.
        let words = aligned.as_ptr().cast::<u64>();
        (
            code as u32,
            [read_volatile(words.add(1)), read_volatile(words.add(6)), read_volatile(words.add(7))],
            reached,
        )
    };
    // If there is a gateway, the result's destination is the gateway's; it would route a packet for
    // the VIP back.
    if code == ANSWERED && selected.forward().needs_link() && reached != address {
        return BPF_FIB_LKUP_RET_UNREACHABLE;
    }
    answer.ifindex = ifindex as u32;
    answer.source = macs >> 32 | more_macs << 32;
    answer.destination = more_macs >> 16;
    code
}

/// An address as in the kernel's structures: wire order.
#[inline(always)]
fn words(address: Address) -> [u32; 4] {
    [address.word(0), address.word(1), address.word(2), address.word(3)]
}

/// Whether the packet with its outer header exceeds the MTU towards the backend.
#[inline(always)]
pub fn too_big(packet: &Packet, hop: &Hop, overhead: u16) -> bool {
    hop.mtu != 0 && packet.l3_length + u32::from(overhead) > u32::from(hop.mtu)
}

/// Bytes of IP packet that fit, as the sender is told. IPv6 paths take 1,280 bytes, and hosts ignore
/// errors that name less: those packets are dropped that are no bigger and do not fit.
#[inline(always)]
pub fn fits(packet: &Packet, hop: &Hop, overhead: u16) -> u16 {
    let fits = hop.mtu.saturating_sub(overhead);
    if packet.is_v6() && fits < MINIMUM_MTU { MINIMUM_MTU } else { fits }
}
