//! Health checks through the data path of a service to one backend.
//!
//! The prober's socket is connected to the backend's own address and carries a mark. On egress,
//! `path_egress` rewrites a marked packet as the data plane rewrites a client's: inner destination
//! the VIP, encapsulated if the service uses tunnels. The kernel has routed it to the backend's
//! address, so interface and MAC address are right already. On ingress, `path_ingress` restores the
//! addresses that the socket expects. VIP and backend may be of different families: then the inner
//! header is translated too (RFC 7915, both directions).
//!
//! Marks carry their instance's number in the upper half. A marked packet of this instance without
//! a probe entry is dropped: a check must not succeed by a path other than its own.
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
/// Written on egress, read on ingress. Userspace sets the size.
#[map]
static EXCHANGES: LruHashMap<ExchangeKey, Exchange> = LruHashMap::with_max_entries(1024, 0);
/// Written by userspace: which sources may be a probed VIP.
#[map]
static PROBED_VIPS: Array<u64> = Array::with_max_entries(VIP_FILTER_WORDS, 0);
/// Packets sent, by probe. Concurrent increments of two CPUs may count one packet less.
#[map]
static SENT: Array<u64> = Array::with_max_entries(MAX_PROBES + 1, 0);

/// The upper half of this instance's marks.
#[unsafe(no_mangle)]
static MARK_RANGE: Global<u32> = Global::new(0);

/// Rewrites marked packets for their probe's path.
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
            // rewrite it again.
            ctx.set_mark(0);
            TC_ACT_UNSPEC
        }
        None => TC_ACT_SHOT,
    }
}

/// Restores in replies the addresses that the prober's socket expects. Other packets pass
/// unmodified.
#[expect(clippy::needless_pass_by_value, reason = "what the classifier macro calls it with")]
#[classifier]
fn path_ingress(ctx: TcContext) -> i32 {
    // A reply that could not be rewritten is passed to the kernel, which has no socket for it.
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
