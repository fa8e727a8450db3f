//! Programs that only the measuring rig loads: the harness that feeds a program packet after packet,
//! and what Director is compared with.
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

/// The least that a balancer does: sends the frame back out.
#[xdp]
fn floor(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Clock readings that [`slowed`] wastes.
const WASTED: u32 = 4;

/// The floor with a known waste: the rig must see it.
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
