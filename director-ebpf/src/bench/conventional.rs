//! A conventional balancer, built from the kernel's own maps: a hash map finds the service, an LRU
//! hash map the flow, an array holds the rings. The baseline for Director: it does for a plain
//! packet what Director does (checks MAC, headers, checksum and MTU, expires flows, counts
//! everything), tuned as far as these maps allow.

use core::hint::black_box;

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    helpers::bpf_ktime_get_coarse_ns,
    macros::{map, xdp},
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
    programs::XdpContext,
};
use director_common::{
    address::Address,
    wire::{
        Header as _,
        ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        tcp::{PROTOCOL_TCP, RST, SYN, TcpHeader},
        udp::{PROTOCOL_UDP, UdpHeader},
    },
};

use crate::frame::Frame;

/// Slots of a service's ring.
const RING_SLOTS: u32 = 65_537;
/// An entry older than this has expired.
const TIMEOUT_NS: u64 = 300_000_000_000;
/// An entry is written again when it is older than this, so that its cache line stays shared.
const TOUCH_AFTER_NS: u64 = 1_000_000_000;

/// 1: to the backend's MAC address; 0: in a tunnel.
#[unsafe(no_mangle)]
static IS_DIRECT: Global<u32> = Global::new(0);

/// The key of a service. Addresses of either family, as in all such balancers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VipKey {
    address: Address,
    port: u32,
    protocol: u32,
}

/// The key of a flow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FlowKey {
    source: Address,
    destination: Address,
    /// Source port, then destination port, as in the packet.
    ports: u32,
    protocol: u32,
}

/// A flow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    backend: u32,
    _pad: u32,
    seen_ns: u64,
}

/// A backend.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Backend {
    address: Address,
    source: Address,
    /// Next hop; its first byte in the lowest bits.
    mac: u64,
    is_v6: u64,
    /// Bytes of IP packet that fit.
    mtu: u64,
}

/// Packets and bytes.
#[repr(C)]
pub struct Counter {
    packets: u64,
    bytes: u64,
}

/// The interface's own MAC: its first byte in the lowest bits.
#[map]
static OWN_MAC: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static VIPS: HashMap<VipKey, u32> = HashMap::with_max_entries(512, 0);
#[map]
static CONNECTIONS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1 << 20, 0);
#[map]
static SLOTS: Array<u32> = Array::with_max_entries(RING_SLOTS, 0);
#[map]
static REALS: Array<Backend> = Array::with_max_entries(4096, 0);
/// Packets by XDP action.
#[map]
static ACTIONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(8, 0);
#[map]
static REAL_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(4096, 0);

/// One packet.
#[xdp]
fn conventional(ctx: XdpContext) -> u32 {
    let mut frame = Frame::new(ctx);
    let action = balance(&mut frame).unwrap_or(xdp_action::XDP_PASS);
    if let Some(counter) = ACTIONS.get_ptr_mut(action) {
        // SAFETY: this CPU's copy.
        unsafe { *counter += 1 };
    }
    action
}

#[inline(always)]
fn balance(frame: &mut Frame) -> Option<u32> {
    let ethernet = frame.header::<EthernetHeader>(0)?;
    let own_mac = ethernet.destination();
    if OWN_MAC.get(0) != Some(&own_mac) {
        return None;
    }
    let (source, destination, protocol, length, is_v6) = match ethernet.ethertype() {
        ETHERTYPE_IPV4 => {
            let ip = frame.header::<Ipv4Header>(EthernetHeader::LEN)?;
            let length = ip.total_length();
            if ip.version() != 4
                || ip.header_length() != Ipv4Header::LEN
                || ip.is_fragment()
                || !frame.reaches(EthernetHeader::LEN + length as usize)
                || !ip.sum().is_valid()
            {
                return None;
            }
            (Address::v4(ip.source), Address::v4(ip.destination), ip.protocol, length, false)
        }
        ETHERTYPE_IPV6 => {
            let ip = frame.header::<Ipv6Header>(EthernetHeader::LEN)?;
            let length = ip.payload_length().wrapping_add(Ipv6Header::LEN as u16);
            if ip.version() != 6 || !frame.reaches(EthernetHeader::LEN + length as usize) {
                return None;
            }
            (Address::v6(ip.source), Address::v6(ip.destination), ip.next_header, length, true)
        }
        _ => return None,
    };
    let l4 = EthernetHeader::LEN + if is_v6 { Ipv6Header::LEN } else { Ipv4Header::LEN };
    let (source_port, destination_port, flags) = match protocol {
        PROTOCOL_TCP => {
            let tcp = frame.header::<TcpHeader>(l4)?;
            if tcp.header_length() < TcpHeader::LEN || !frame.reaches(l4 + tcp.header_length()) {
                return None;
            }
            (tcp.source_port, tcp.destination_port, tcp.flags)
        }
        PROTOCOL_UDP => {
            let udp = frame.header::<UdpHeader>(l4)?;
            (udp.source_port, udp.destination_port, 0)
        }
        _ => return None,
    };
    let ports = u32::from(u16::from_ne_bytes(source_port))
        | u32::from(u16::from_ne_bytes(destination_port)) << 16;
    let key = FlowKey { source, destination, ports, protocol: u32::from(protocol) };
    let vip = vip(&key)?;
    let number = backend(&key, vip, flags)?;
    let backend = REALS.get(number)?;
    if u64::from(length) + (Ipv6Header::LEN as u64) > backend.mtu {
        return Some(xdp_action::XDP_DROP);
    }
    count(REAL_COUNTERS.get_ptr_mut(number)?, length);
    if IS_DIRECT.load() != 0 {
        let ethertype = if is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let written = frame.write(0, EthernetHeader::new(backend.mac, own_mac, ethertype));
        return written.then_some(xdp_action::XDP_TX);
    }
    encapsulate(frame, backend, own_mac, length, is_v6)
}

/// The service of exactly this port, else that of any port.
#[inline(always)]
fn vip(key: &FlowKey) -> Option<u32> {
    let wanted = VipKey { address: key.destination, port: key.ports >> 16, protocol: key.protocol };
    // SAFETY: a value of four bytes, copied at once.
    if let Some(vip) = unsafe { VIPS.get(wanted) } {
        return Some(*vip);
    }
    let any_port = VipKey { port: 0, ..wanted };
    // SAFETY: as above.
    unsafe { VIPS.get(any_port) }.copied()
}

/// The flow's backend, or the ring's.
#[inline(always)]
fn backend(key: &FlowKey, vip: u32, flags: u8) -> Option<u32> {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // A new connection never uses an old entry.
    if flags & SYN == 0
        && let Some(flow) = CONNECTIONS.get_ptr_mut(key)
    {
        // SAFETY: the map's lookup returned it; fields are read and written whole.
        let flow = unsafe { &mut *flow };
        let age = now.wrapping_sub(flow.seen_ns);
        if age <= TIMEOUT_NS {
            if age > TOUCH_AFTER_NS {
                flow.seen_ns = now;
            }
            return Some(flow.backend);
        }
    }
    let slot = (hash(key) % RING_SLOTS).wrapping_add(vip * RING_SLOTS);
    let number = *SLOTS.get(slot)?;
    if flags & RST == 0 {
        let _ = CONNECTIONS.insert(key, Flow { backend: number, _pad: 0, seen_ns: now }, 0);
    }
    Some(number)
}

/// Bob Jenkins' one-at-a-time mix over the words of the key (2006, public domain): what such
/// balancers use, in some variant.
#[inline(always)]
fn hash(key: &FlowKey) -> u32 {
    let mut hash = key.protocol;
    for word in [0, 1, 2, 3].map(|at| key.source.word(at)).into_iter().chain([key.ports]) {
        hash = hash.wrapping_add(word);
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

#[inline(always)]
fn count(counter: *mut Counter, length: u16) {
    // SAFETY: this CPU's copy.
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += u64::from(length);
    }
}

#[inline(always)]
fn encapsulate(
    frame: &mut Frame,
    backend: &Backend,
    own_mac: u64,
    length: u16,
    is_v6: bool,
) -> Option<u32> {
    let protocol = if is_v6 { 41 } else { 4 };
    if backend.is_v6 != 0 {
        if !frame.grow_head(Ipv6Header::LEN as i32) {
            return Some(xdp_action::XDP_DROP);
        }
        let (source, address) = (backend.source.bytes(), backend.address.bytes());
        let outer = Ipv6Header::new(0, 0, length, protocol, 64, source, address);
        let link = EthernetHeader::new(backend.mac, own_mac, ETHERTYPE_IPV6);
        let written = frame.write(0, link) && frame.write(EthernetHeader::LEN, outer);
        return written.then_some(xdp_action::XDP_TX);
    }
    if !frame.grow_head(Ipv4Header::LEN as i32) {
        return Some(xdp_action::XDP_DROP);
    }
    let (source, address) = (backend.source.v4_bytes(), backend.address.v4_bytes());
    let total = black_box(length).wrapping_add(Ipv4Header::LEN as u16);
    let outer = Ipv4Header::new(0, total, 64, protocol, source, address);
    let link = EthernetHeader::new(backend.mac, own_mac, ETHERTYPE_IPV4);
    let written = frame.write(0, link) && frame.write(EthernetHeader::LEN, outer);
    written.then_some(xdp_action::XDP_TX)
}
