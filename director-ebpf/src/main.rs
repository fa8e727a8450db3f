//! The director's XDP programs: entry and exit. The packet's path is `pipeline.rs`, and for nearly
//! every packet `fast_path.rs`.
#![no_std]
#![no_main]
#![expect(
    unreachable_pub,
    reason = "a program has no outside: `pub` marks what a stage offers the others"
)]

mod admission;
mod backend;
mod constants;
mod context;
mod count;
mod fast_path;
mod filter;
mod flow_table;
mod forward;
mod frame;
mod maps;
mod next_hop;
mod parse;
mod pipeline;
mod reply;
mod schedule;
mod service;
mod stages;
mod tick_count;
mod trace;
mod transmit;
mod verdict_policy;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use director_common::{decision::Decision, verdict::Verdict};

use crate::{frame::Frame, parse::Packet};

/// Decides one packet: by the fast path, else by the slow path; or traced.
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it so")]
#[xdp]
fn director(ctx: XdpContext) -> u32 {
    // Read once, for tracing and the fast path: a map lookup costs as much as a stage.
    let Some(tunables) = maps::tunables() else { return xdp_action::XDP_PASS };
    if trace::wants(tunables) {
        // SAFETY: as below; without the program, the packet is decided untraced.
        unsafe { maps::TRACED.tail_call(&ctx, constants::interface_slot()) };
    }
    let mut frame = Frame::new(XdpContext::new(ctx.ctx));
    let mut decision = count::undecided();
    // Upgrade tests need another program, and the slow path decides as the fast path does.
    let is_fast = !cfg!(feature = "next") || frame.len() & 1 == 0;
    if is_fast && let Some(verdict) = fast_path::run(&mut frame, tunables, &mut decision) {
        return finish(verdict, &mut decision);
    }
    // A program of its own and no function: it needs all of the 512 bytes of stack that Linux 6.1
    // allows for any chain of calls, and a return costs as much as a cache miss where the CPU's bugs
    // are worked around.
    // SAFETY: the program takes an XDP context, as this one does. Returns only if the program is
    // missing, which userspace rules out before it attaches this one; then the host gets the packet.
    unsafe { maps::SLOW_PATH.tail_call(&ctx, constants::interface_slot()) };
    xdp_action::XDP_PASS
}

/// The whole pipeline.
#[xdp]
fn slow_path(ctx: XdpContext) -> u32 {
    let mut frame = Frame::new(ctx);
    let mut decision = count::undecided();
    let verdict = pipeline::run::<false>(&mut frame, &mut Packet::unread(), &mut decision);
    finish(verdict, &mut decision)
}

/// The same for a packet that is traced.
#[xdp]
fn traced(ctx: XdpContext) -> u32 {
    let mut frame = Frame::new(ctx);
    trace::before(&frame);
    let mut decision = count::undecided();
    let mut packet = Packet::unread();
    let verdict = pipeline::run::<true>(&mut frame, &mut packet, &mut decision);
    decision.verdict = verdict.code();
    trace::after(&frame, &packet, &decision);
    finish(verdict, &mut decision)
}

/// Counts what became of a packet, and tells the driver.
///
/// The only place that knows `XDP_*`. A redirect has been set up by `transmit` already: the
/// driver carries it out when it sees `XDP_REDIRECT`.
#[inline(always)]
fn finish(verdict: Verdict, decision: &mut Decision) -> u32 {
    count::verdict(verdict);
    if constants::records() {
        decision.verdict = verdict.code();
        count::decision(decision);
    }
    match verdict {
        Verdict::Tx | Verdict::Reply(_) => xdp_action::XDP_TX,
        Verdict::Redirect => xdp_action::XDP_REDIRECT,
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
    }
}

/// Passes every frame: attached to interfaces that packets only leave by, since drivers set up
/// their transmit queues for redirected frames when they get a program.
#[xdp]
fn egress(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
