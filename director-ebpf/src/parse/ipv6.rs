//! IPv6 extension headers (RFC 8200 section 4).

use director_common::{
    verdict::PassReason,
    wire::{
        Header as _,
        ipv6::{
            FragmentHeader, NEXT_AUTHENTICATION, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP,
            NEXT_ROUTING, RoutingHeader,
        },
    },
};

use crate::frame::{Frame, MAX_OFFSET};

/// Extension headers parsed before a packet is passed to the host. More than these in front of TCP
/// or UDP are not seen outside of tests.
const MAX_EXTENSIONS: usize = 6;

/// The header behind the extension headers. Fields are words, as [`super::Packet`]'s.
pub struct Upper {
    /// Protocol number.
    pub protocol: u64,
    /// Where it starts, bytes from the start of the frame.
    pub offset: usize,
    /// How much of the original packet is there.
    pub part: Part,
}

/// How much of the original packet a packet carries.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment: the headers up to the transport header's ports are there.
    First,
    /// A later fragment. The protocol is what the fragment header announces, which may be an extension
    /// header in the first fragment.
    Later,
}

/// Follows the extension headers from `offset` up to the packet's `end`.
#[inline(always)]
pub fn skip_extensions(
    frame: &Frame,
    protocol: u8,
    offset: usize,
    end: usize,
) -> Result<Upper, PassReason> {
    if is_extension(protocol) {
        return unpack(walk(frame, protocol, offset, end));
    }
    Ok(Upper { protocol: u64::from(protocol), offset, part: Part::Whole })
}

/// Whether this protocol number announces an extension header that is skipped.
#[inline(always)]
pub fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        NEXT_FRAGMENT | NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION | NEXT_AUTHENTICATION
    )
}

/// [`Upper`] or a [`PassReason`] as one number, since that is all that a BPF function returns:
/// bits 0-15 offset, 16-23 protocol, 24 first fragment, 25 later fragment, 32-39 one more than the
/// reason.
const FIRST: u64 = 1 << 24;
const LATER: u64 = 1 << 25;

#[inline(always)]
fn refuse(reason: PassReason) -> u64 {
    (reason as u64 + 1) << 32
}

#[inline(always)]
fn unpack(packed: u64) -> Result<Upper, PassReason> {
    match packed >> 32 {
        0 => Ok(Upper {
            protocol: packed >> 16 & 0xff,
            offset: packed as usize & MAX_OFFSET,
            part: if packed & LATER != 0 {
                Part::Later
            } else if packed & FIRST != 0 {
                Part::First
            } else {
                Part::Whole
            },
        }),
        1 => Err(PassReason::Truncated),
        4 => Err(PassReason::Malformed),
        5 => Err(PassReason::OtherProtocol),
        _ => Err(PassReason::TooManyHeaders),
    }
}

/// Not inlined, so that its many exits become one for the verifier.
#[inline(never)]
fn walk(frame: &Frame, mut protocol: u8, mut offset: usize, end: usize) -> u64 {
    let mut part = 0;
    // One round more than there may be headers: it only sees that there is no further one.
    for at in 0..=MAX_EXTENSIONS {
        if !is_extension(protocol) {
            return offset as u64 | u64::from(protocol) << 16 | part;
        }
        if at == MAX_EXTENSIONS {
            break;
        }
        if protocol == NEXT_FRAGMENT {
            let Some(header) = frame.header::<FragmentHeader>(offset) else {
                return refuse(PassReason::Truncated);
            };
            protocol = header.next_header;
            if !header.is_first() {
                part = LATER;
            } else if !header.is_atomic() {
                part = FIRST;
            }
            offset += FragmentHeader::LEN;
        } else {
            // The routing header is the longest of those read here; any extension header has at
            // least eight bytes.
            let Some(header) = frame.header::<RoutingHeader>(offset) else {
                return refuse(PassReason::Truncated);
            };
            // The host is a waypoint, not the destination.
            if protocol == NEXT_ROUTING && header.segments_left != 0 {
                return refuse(PassReason::OtherProtocol);
            }
            offset += header.extension.length(protocol);
            protocol = header.extension.next_header;
        }
        // What lies behind the packet's end is padding.
        if offset > end {
            return refuse(PassReason::Malformed);
        }
        // What follows is not a header.
        if part == LATER {
            return offset as u64 & MAX_OFFSET as u64 | u64::from(protocol) << 16 | LATER;
        }
        if offset > MAX_OFFSET {
            return refuse(PassReason::TooManyHeaders);
        }
    }
    refuse(PassReason::TooManyHeaders)
}
