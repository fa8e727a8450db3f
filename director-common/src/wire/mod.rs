//! Headers in wire format: one file per protocol, byte arrays or packed words.
//!
//! Every header has alignment 1 and no padding and may be laid over any packet
//! offset that has been checked against the packet's end. Accessors return host order.

pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;

/// Types made of bytes only: any bit pattern is valid, and alignment is 1.
///
/// # Safety
///
/// The implementor is `#[repr(C)]`, has alignment 1, no padding, and is valid for all bit patterns.
pub unsafe trait Header: Copy {
    /// Length on the wire, bytes.
    const LEN: usize = size_of::<Self>();
}

// SAFETY: an array of headers is bytes, as its elements are.
unsafe impl<T: Header, const N: usize> Header for [T; N] {}
// SAFETY: a byte is bytes.
unsafe impl Header for u8 {}
