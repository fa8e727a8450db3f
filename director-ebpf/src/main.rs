//! The director's XDP program: entry and exit. The packet's path is `pipeline.rs`.
#![no_std]
#![no_main]
#![expect(
    unreachable_pub,
    reason = "a program has no outside: `pub` marks what a stage offers the others"
)]

mod constants;
mod count;
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
mod transmit;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use director_common::{decision::Decision, verdict::Verdict};

use crate::frame::Frame;

/// Decides one packet, counts what became of it, and tells the driver.
///
/// The only place that knows `XDP_*`. A redirect has been set up by `transmit` already: the
/// driver carries it out when it sees `XDP_REDIRECT`.
#[xdp]
fn director(ctx: XdpContext) -> u32 {
    let mut frame = Frame::new(ctx);
    let mut decision = Decision::default();
    let verdict = pipeline::run(&mut frame, &mut decision);
    count::verdict(verdict);
    if constants::simulate() {
        count::decision(verdict, &mut decision);
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
