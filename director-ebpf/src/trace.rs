//! Traces packets, for `director trace` and `capture`. Reads TUNABLES and TRACE_FILTER; writes
//! TRACE_TURNS, TRACE_SCRATCH and TRACE_RING, and in TUNABLES ends a trace that has expired.
//!
//! Other packets pay one load and one branch: the program `traced` is tail-called for sampled
//! packets, and does what `slow_path` does.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_load_bytes};
use director_common::{
    decision::Decision,
    trace::{MAX_SNAP, TraceFilter, TraceRecord, TraceScratch, TraceTurn, TracedContent},
    tunables::Tunables,
};

use crate::{
    backend, constants, context,
    frame::Frame,
    maps,
    parse::{Content, Packet},
};

/// `BPF_RB_NO_WAKEUP`: the reader polls.
const NO_WAKEUP: u64 = 1;

/// Whether this packet is sampled: a trace runs, and the packet is the next one to sample.
#[inline(always)]
pub fn wants(tunables: &'static Tunables) -> bool {
    let until = tunables.trace_until_ns;
    until != 0 && is_turn(tunables, until)
}

#[inline(always)]
fn is_turn(tunables: &'static Tunables, until: u64) -> bool {
    if constants::mode().records() {
        return false;
    }
    let Some(turn) = turn() else { return false };
    if turn.left > 1 {
        turn.left -= 1;
        return false;
    }
    // Read only now: packets that are not sampled need no clock.
    if context::clock() >= until {
        end(until);
        return false;
    }
    let every = tunables.trace_every;
    // Random, from 1 to twice the interval, so that sampling does not follow a period of the
    // traffic.
    turn.left = if every > 1 {
        // SAFETY: a helper without arguments.
        1 + u64::from(unsafe { bpf_get_prandom_u32() }) % (2 * every - 1)
    } else {
        1
    };
    turn.looked_at += 1;
    true
}

/// Ends an expired trace, unless it has been renewed since. (A renewal between the two instructions is
/// undone, and repeated by the tracing process.)
#[inline(always)]
fn end(until: u64) {
    if let Some(tunables) = maps::TUNABLES.get_ptr_mut(0) {
        // SAFETY: the map's lookup returned it. Volatile: userspace writes it while packets read
        // it.
        unsafe {
            let place = &raw mut (*tunables).trace_until_ns;
            if read_volatile(place) == until {
                write_volatile(place, 0);
            }
        }
    }
}

#[inline(always)]
fn turn() -> Option<&'static mut TraceTurn> {
    // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
    maps::TRACE_TURNS.get_ptr_mut(0).map(|turn| unsafe { &mut *turn })
}

#[inline(always)]
fn scratch() -> Option<*mut TraceScratch> {
    maps::TRACE_SCRATCH.get_ptr_mut(0)
}

#[inline(always)]
fn filter() -> Option<&'static TraceFilter> {
    maps::TRACE_FILTER.get(0)
}

/// Records the frame as received. Not inlined, so that its variables are not on the pipeline's
/// stack.
#[inline(never)]
pub fn before(frame: &Frame) -> u32 {
    let (Some(scratch), Some(filter)) = (scratch(), filter()) else { return 0 };
    let length = frame.len() as u32;
    let copied = copied(filter, length);
    // SAFETY: this CPU's copy; no more than MAX_SNAP bytes are written to the first half.
    unsafe {
        let record = &raw mut (*scratch).record;
        write_volatile(&raw mut (*record).time_ns, bpf_ktime_get_ns());
        write_volatile(&raw mut (*record).before_length, length);
        let copied = copy(frame, (&raw mut (*scratch).frames).cast(), copied);
        write_volatile(&raw mut (*record).before_copied, copied);
    }
    1
}

/// Number of bytes to copy of a frame of this length.
#[inline(always)]
fn copied(filter: &TraceFilter, length: u32) -> u32 {
    let wanted = filter.snap;
    if length < wanted { length } else { wanted }
}

/// Copies the frame's first bytes, at most [`MAX_SNAP`]. Returns their number.
///
/// # Safety
///
/// There are [`MAX_SNAP`] bytes behind `to`.
#[inline(always)]
unsafe fn copy(frame: &Frame, to: *mut u8, bytes: u32) -> u32 {
    if bytes == 0 || bytes > MAX_SNAP {
        return 0;
    }
    // SAFETY: the context is the one the program was called with; the caller guarantees the rest.
    match unsafe { bpf_xdp_load_bytes(frame.as_ptr().cast(), 0, to.cast(), bytes) } {
        0 => bytes,
        _ => 0,
    }
}

/// Writes the packet's record to the ring buffer, if the filter matches. Not inlined, as
/// [`before`].
#[inline(never)]
pub fn after(frame: &Frame, packet: &Packet, decision: &Decision) -> u32 {
    let (Some(scratch), Some(filter)) = (scratch(), filter()) else { return 0 };
    if !takes(filter, packet, decision) {
        return 0;
    }
    // SAFETY: this CPU's copy, in which there are MAX_SNAP bytes behind the first MAX_SNAP.
    let sent = unsafe {
        let record = &raw mut (*scratch).record;
        let frames: *mut u8 = (&raw mut (*scratch).frames).cast();
        let length = frame.len() as u32;
        let before = read_volatile(&raw const (*record).before_copied);
        if before > MAX_SNAP {
            return 0;
        }
        let after = copy(frame, frames.add(before as usize), copied(filter, length));
        (*record).flow = packet.flow;
        (*record).decision = *decision;
        (*record).interface = constants::interface_slot();
        (*record).content = match packet.content {
            _ if packet.flow.family == 0 => TracedContent::Nothing as u32,
            Content::Whole => TracedContent::Whole as u32,
            Content::IcmpError => TracedContent::IcmpError as u32,
            Content::Fragment => TracedContent::Fragment as u32,
        };
        (*record).after_length = length;
        (*record).after_copied = after;
        (*record).tcp_flags = packet.tcp_flags;
        (*record)._pad = 0;
        let bytes = size_of::<TraceRecord>() + before as usize + after as usize;
        if bytes > size_of::<TraceScratch>() {
            return 0;
        }
        let told = core::slice::from_raw_parts(scratch.cast::<u8>(), bytes);
        maps::TRACE_RING.output::<[u8]>(told, NO_WAKEUP).is_ok()
    };
    if !sent && let Some(turn) = turn() {
        turn.lost += 1;
    }
    1
}

#[inline(always)]
fn takes(filter: &TraceFilter, packet: &Packet, decision: &Decision) -> bool {
    if !filter.takes_flow(&packet.flow) || !filter.takes_decision(decision) {
        return false;
    }
    if !filter.wants_backend() {
        return true;
    }
    let Some(selected) = backend::resolve(decision.backend) else { return false };
    let is_v6 = filter.backend_family == 6;
    selected.word.is_v6() == is_v6 && selected.backend.address == filter.backend
}
