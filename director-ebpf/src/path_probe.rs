//! Health checks that go the way of a service's packets to one backend.
//!
//! The prober's socket is connected to the backend's own address and carries a mark. Where packets
//! leave, `path_egress` makes of a marked one what the data plane makes of a client's: inner
//! destination the VIP, inside a tunnel if packets travel so. The kernel has routed it to the
//! backend's address, so interface and MAC address are right already. Where packets come in,
//! `path_ingress` puts the addresses back that the socket expects. VIP and backend may be of
//! different families: then the inner header is translated too (as RFC 7915 has it, both ways).
//!
//! Marks carry their instance's number in the upper half. A marked packet of this instance without
//! a way is dropped: a check must not succeed by another way than the one that it is for.
#![no_std]
#![no_main]
#![expect(
    unreachable_pub,
    reason = "a program has no outside: `pub` marks what a part offers the others"
)]

#[path = "path_probe/egress.rs"]
mod egress;
#[path = "path_probe/ingress.rs"]
mod ingress;
#[path = "path_probe/packet.rs"]
mod packet;
#[path = "path_probe/translate.rs"]
mod translate;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, map},
    maps::{Array, HashMap, LruHashMap},
    programs::TcContext,
};
use director_common::{
    probe::{Exchange, ExchangeKey, MAX_PROBES, Probe},
    service::VIP_FILTER_WORDS,
};

/// Written by userspace; an entry is never changed.
#[map]
static PROBES: HashMap<u32, Probe> = HashMap::with_max_entries(MAX_PROBES, BPF_F_NO_PREALLOC);
/// Written by packets that leave, read by those that come in. Userspace sets the size.
#[map]
static EXCHANGES: LruHashMap<ExchangeKey, Exchange> = LruHashMap::with_max_entries(1024, 0);
/// Written by userspace: which sources may be a probed VIP.
#[map]
static PROBED_VIPS: Array<u64> = Array::with_max_entries(VIP_FILTER_WORDS, 0);
/// Packets sent by probe. Two CPUs at once may count one packet less.
#[map]
static SENT: Array<u64> = Array::with_max_entries(MAX_PROBES + 1, 0);

/// The upper half of this instance's marks.
#[unsafe(no_mangle)]
static MARK_RANGE: Global<u32> = Global::new(0);

/// Sends marked packets on their probe's way.
#[expect(clippy::needless_pass_by_value, reason = "what the classifier macro calls it with")]
#[classifier]
fn path_egress(ctx: TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if mark >> 16 != MARK_RANGE.load() {
        return TC_ACT_UNSPEC;
    }
    match egress::send(&ctx, mark & 0xffff) {
        Some(()) => {
            // It may leave by another interface below this one (a VLAN's parent), which must not
            // send it on its way again.
            ctx.set_mark(0);
            TC_ACT_UNSPEC
        }
        None => TC_ACT_SHOT,
    }
}

/// Gives answers the addresses that the prober's socket expects. Everything else passes as it is.
#[expect(clippy::needless_pass_by_value, reason = "what the classifier macro calls it with")]
#[classifier]
fn path_ingress(ctx: TcContext) -> i32 {
    // An answer that could not be changed is left to the kernel, which has no socket for it.
    let _ = ingress::restore(&ctx);
    TC_ACT_UNSPEC
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
