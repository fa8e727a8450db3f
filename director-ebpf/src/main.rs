//! Entry and exit of the director's XDP programs. Nearly every packet is processed in
//! `fast_path.rs`, the others in `pipeline.rs`.
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
#[cfg(feature = "verbose")]
mod log;
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

/// Processes one packet: on the fast path, else on the slow path; or traced.
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it so")]
#[xdp]
fn director(ctx: XdpContext) -> u32 {
    // Read once, for tracing and the fast path: a map lookup costs as much as a stage.
    let Some(tunables) = maps::tunables() else { return xdp_action::XDP_PASS };
    if trace::wants(tunables) {
        // SAFETY: as below; without the program, the packet is processed untraced.
        unsafe { maps::TRACED.tail_call(&ctx, constants::interface_slot()) };
    }
    let mut frame = Frame::new(XdpContext::new(ctx.ctx));
    let mut decision = count::undecided();
    // Upgrade tests need a different program; the slow path decides as the fast path does.
    let is_fast = !cfg!(feature = "next") || frame.len() & 1 == 0;
    if is_fast && let Some(verdict) = fast_path::run(&mut frame, tunables, &mut decision) {
        return finish(verdict, &mut decision);
    }
    // A tail call instead of a function: the slow path needs all of the 512 bytes of stack that
    // Linux 6.1 allows for any chain of calls, and a return costs as much as a cache miss where CPU
    // vulnerabilities are mitigated.
    // SAFETY: the program takes an XDP context, as this one does. Returns only if the program is
    // missing, which userspace rules out before it attaches this one; the packet is then passed to
    // the host.
    unsafe { maps::SLOW_PATH.tail_call(&ctx, constants::interface_slot()) };
    xdp_action::XDP_PASS
}

/// The slow path: the whole pipeline.
#[xdp]
fn slow_path(ctx: XdpContext) -> u32 {
    let mut frame = Frame::new(ctx);
    let mut decision = count::undecided();
    #[cfg(not(feature = "verbose"))]
    let verdict = pipeline::run::<false>(&mut frame, &mut Packet::unread(), &mut decision);
    #[cfg(feature = "verbose")]
    let verdict = log::run(&mut frame, &mut decision);
    finish(verdict, &mut decision)
}

/// The same for a traced packet.
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

/// Counts the verdict, and returns its XDP action.
///
/// The only place that maps verdicts to `XDP_*`. `transmit` has already set up a redirect: the
/// driver carries it out on `XDP_REDIRECT`.
#[inline(always)]
fn finish(verdict: Verdict, decision: &mut Decision) -> u32 {
    count::verdict(verdict);
    if constants::mode().records() {
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

/// Passes every frame: attached to egress-only interfaces, since drivers set up their transmit
/// queues for redirected frames when a program is attached.
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
