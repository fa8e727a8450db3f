//! Programs that only the benchmark loads: the harness that feeds a program packet after packet,
//! and the baselines that Director is compared with.
#![no_std]
#![no_main]
#![expect(
    unreachable_pub,
    reason = "a program has no outside: `pub` marks what a part offers the others"
)]

#[path = "bench/conventional.rs"]
mod conventional;
#[expect(dead_code, reason = "the director's; a yardstick needs less of it")]
mod frame;
#[path = "bench/harness.rs"]
mod harness;

use aya_ebpf::{
    bindings::xdp_action, helpers::bpf_ktime_get_ns, macros::xdp, programs::XdpContext,
};

/// The minimum that a balancer does: sends the frame back out.
#[xdp]
fn floor(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Extra clock readings of [`slowed`].
const WASTED: u32 = 4;

/// The floor with a known extra cost, which the benchmark must detect.
#[xdp]
fn slowed(_ctx: XdpContext) -> u32 {
    let mut now = 0;
    for _ in 0..WASTED {
        // SAFETY: a helper without arguments.
        now = unsafe { bpf_ktime_get_ns() };
    }
    if now == 0 { xdp_action::XDP_DROP } else { xdp_action::XDP_TX }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
