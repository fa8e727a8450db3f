//! Feeds a program under test one packet after another.
//!
//! `BPF_PROG_TEST_RUN` with a repeat count passes each run the frame that the last one left, so a
//! program that encapsulates would be measured on its own output. The harness undoes that: it
//! returns the headroom that was used, restores the headers from a template, changes them to
//! another flow's, and calls the program. The cost of the harness around a program that does
//! nothing is subtracted.

use core::hint::black_box;

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    helpers::bpf_xdp_adjust_head,
    macros::{map, xdp},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::XdpContext,
};

use crate::frame::Frame;

/// Length of the frame, bytes.
#[unsafe(no_mangle)]
static FRAME_LENGTH: Global<u32> = Global::new(64);
/// 1 for IPv6.
#[unsafe(no_mangle)]
static FRAME_IS_V6: Global<u32> = Global::new(0);
/// Flows that a CPU cycles through, less one: a power of two less one.
#[unsafe(no_mangle)]
static FLOWS_MASK: Global<u64> = Global::new(0);
/// VIPs that they are spread over, less one: a power of two less one. VIPs are consecutive.
#[unsafe(no_mangle)]
static VIPS_MASK: Global<u64> = Global::new(0);

/// 32-bit words of a frame that are restored for each packet: IP and TCP header.
const V4_WORDS: usize = 10;
const V6_WORDS: usize = 15;
/// The range of IPv6 addresses among them. They are written in pairs of words, as they are read.
const V6_ADDRESSES: core::ops::Range<usize> = 2..10;

/// The frame's first bytes, from the IP header on, after the Ethernet header in words of its own: a
/// header field must not span two words that were just written, since store forwarding would stall,
/// which does not happen with a driver's frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Template {
    /// Destination MAC and the first bytes of the source.
    link: u64,
    /// The rest of the source.
    link_source: u32,
    /// EtherType, and zeros.
    link_type: u32,
    /// The 32-bit words from byte 14 on.
    words: [u32; V6_WORDS],
    /// Sum of the IPv4 header's 16-bit words, without its checksum, the source address and the last
    /// 16 bits of the destination.
    sum: u64,
}

/// The frame that every packet starts as.
#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);

/// The program under test.
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Packets that this CPU has sent: it determines the next one's flow. Userspace sets a different
/// start for each CPU.
#[map]
static SENT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One packet.
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it so")]
#[xdp]
fn harness(ctx: XdpContext) -> u32 {
    match next(&ctx) {
        Some(()) => {
            // SAFETY: the program takes an XDP context, as this one does. Returns only if there is
            // no program.
            unsafe { UNDER_TEST.tail_call(&ctx, 0) };
            xdp_action::XDP_ABORTED
        }
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn next(ctx: &XdpContext) -> Option<()> {
    // Opaque to LLVM, which would subtract pointers as 32-bit numbers.
    let length = black_box(Frame::new(XdpContext::new(ctx.ctx)).len()) as i32;
    // Called also when there is nothing to undo, so that the floor includes the call's cost.
    // SAFETY: the context is the one the program was called with.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, length - FRAME_LENGTH.load() as i32) } != 0 {
        return None;
    }
    let sent = SENT.get_ptr_mut(0)?;
    // SAFETY: this CPU's copy.
    let number = unsafe {
        let number = *sent;
        *sent += 1;
        number
    };
    let flow = number & FLOWS_MASK.load() | number & !(u64::MAX >> CPU_BITS);
    let template = TEMPLATE.get(0)?;
    if FRAME_IS_V6.load() != 0 { v6(ctx, template, flow) } else { v4(ctx, template, flow) }
}

/// The uppermost bits of a CPU's count are the CPU's number, so that no two CPUs send the same
/// flow.
const CPU_BITS: u32 = 8;

/// The low bits of a flow's number form its source address, all of them its port: no two flows
/// below 2^40 are the same, and neighbours differ in both.
#[inline(always)]
fn source(flow: u64) -> (u32, u16) {
    let cpu = (flow >> (64 - CPU_BITS)) as u16;
    ((flow & 0xff_ffff) as u32, (flow ^ flow >> 24) as u16 ^ cpu << 13)
}

/// The frame's Ethernet header and `WORDS` words.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Words<const WORDS: usize>(u64, u32, u16, [u32; WORDS]);

// SAFETY: packed words: any bytes are valid, alignment 1.
unsafe impl<const WORDS: usize> director_common::wire::Header for Words<WORDS> {}

#[inline(always)]
fn restore<const WORDS: usize>(
    ctx: &XdpContext,
    template: &Template,
    change: impl FnOnce(&mut [u32; WORDS]),
) -> Option<()> {
    let frame = Frame::new(XdpContext::new(ctx.ctx));
    let place = core::ptr::from_ref(frame.header::<Words<WORDS>>(0)?).cast_mut();
    let mut words = [0; WORDS];
    for (word, restored) in words.iter_mut().zip(&template.words) {
        *word = *restored;
    }
    change(&mut words);
    // SAFETY: the frame holds `WORDS` words, as `header` checked. Written separately, or LLVM
    // merges neighbours into words that a field crosses.
    unsafe {
        (&raw mut (*place).0).write_unaligned(template.link);
        (&raw mut (*place).1).write_unaligned(template.link_source);
        (&raw mut (*place).2).write_unaligned(template.link_type as u16);
        let first = (&raw mut (*place).3).cast::<u32>();
        let mut at = 0;
        while at < WORDS {
            if WORDS == V6_WORDS && V6_ADDRESSES.contains(&at) {
                let pair = u64::from(words[at]) | u64::from(words[at + 1]) << 32;
                first.add(at).cast::<u64>().write_unaligned(black_box(pair));
                at += 2;
            } else {
                first.add(at).write_unaligned(black_box(words[at]));
                at += 1;
            }
        }
    }
    Some(())
}

#[inline(always)]
fn v4(ctx: &XdpContext, template: &Template, flow: u64) -> Option<()> {
    let (host, port) = source(flow);
    // 11.0.0.0/8, and the template's VIP or one of those that follow it. Most of the checksum is
    // precomputed; the differences are added.
    let address = 11 << 24 | host;
    let vip = u32::from_be(template.words[4]).wrapping_add((flow & VIPS_MASK.load()) as u32);
    let mut sum = template.sum
        + u64::from(address >> 16)
        + u64::from(address & 0xffff)
        + u64::from(vip & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    restore::<V4_WORDS>(ctx, template, |words| {
        words[2] = words[2] & 0xffff | u32::from((!(sum as u16)).to_be()) << 16;
        words[3] = address.to_be();
        words[4] = vip.to_be();
        words[5] = words[5] & 0xffff_0000 | u32::from(port.to_be());
    })
}

#[inline(always)]
fn v6(ctx: &XdpContext, template: &Template, flow: u64) -> Option<()> {
    let (host, port) = source(flow);
    let vip = u32::from_be(template.words[9]).wrapping_add((flow & VIPS_MASK.load()) as u32);
    restore::<V6_WORDS>(ctx, template, |words| {
        words[5] = host.to_be();
        words[9] = vip.to_be();
        words[10] = words[10] & 0xffff_0000 | u32::from(port.to_be());
    })
}
