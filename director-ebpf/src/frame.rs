//! The frame in memory: the only place that turns offsets into pointers.
//!
//! Headers are borrowed from the frame, and functions that move its ends borrow it mutably: a
//! pointer from before the move cannot be used after it.

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use director_common::wire::Header;

/// Maximum offset of a header in a frame, bytes. Bounds offsets for the verifier.
pub const MAX_OFFSET: usize = 1023;

/// A received frame.
pub struct Frame {
    ctx: XdpContext,
}

impl Frame {
    /// The frame behind an XDP context.
    #[inline(always)]
    pub fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }

    /// Length on the wire, without checksum, bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end() - self.start()
    }

    /// Whether it is at least `length` bytes long.
    #[inline(always)]
    pub fn reaches(&self, length: usize) -> bool {
        // Compares lengths instead of pointers: Linux 6.12 does not add a byte-swapped 16-bit
        // number to a packet pointer ("unbounded min value").
        length <= self.len()
    }

    /// Index of the interface it arrived on.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    /// The context, for helpers that take it.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.ctx.as_ptr()
    }

    /// Where the frame starts. Volatile, here and in `end`: a load that LLVM moves away from its
    /// use loses its zero extension, and the verifier then treats the packet pointer as a scalar
    /// (6.18: "invalid mem access 'scalar'").
    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: a field of the context the program was called with.
        unsafe { read_volatile(&raw const (*self.ctx.ctx).data) as usize }
    }

    /// Where it ends.
    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: a field of the context the program was called with.
        unsafe { read_volatile(&raw const (*self.ctx.ctx).data_end) as usize }
    }

    #[inline(always)]
    fn at<T: Header>(&self, offset: usize) -> Option<*mut T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.start() + offset;
        if start + size_of::<T>() > self.end() { None } else { Some(start as *mut T) }
    }

    /// The header at `offset` bytes from the start, if the frame reaches that far.
    #[inline(always)]
    pub fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `at` checked that the frame holds all of it; a Header is valid for any bytes and
        // has alignment 1.
        self.at(offset).map(|header| unsafe { &*header })
    }

    /// Overwrites the header at `offset`. Returns whether the frame reaches that far.
    #[inline(always)]
    #[must_use]
    pub fn write<T: Header>(&mut self, offset: usize, value: T) -> bool {
        let Some(header) = self.at(offset) else { return false };
        // SAFETY: as in `header`; nothing else borrows the frame.
        unsafe { *header = value };
        true
    }

    /// Adds `bytes` in front, or removes as many if negative. Returns whether the driver's headroom
    /// (or the frame) was large enough.
    #[inline(always)]
    #[must_use]
    pub fn grow_head(&mut self, bytes: i32) -> bool {
        // SAFETY: the context is the one the program was called with.
        unsafe { bpf_xdp_adjust_head(self.ctx.ctx, -bytes) == 0 }
    }

    /// Removes `bytes` from the end. Returns whether the frame was long enough.
    #[inline(always)]
    #[must_use]
    pub fn shrink_tail(&mut self, bytes: i32) -> bool {
        // SAFETY: the context is the one the program was called with.
        unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, -bytes) == 0 }
    }
}
