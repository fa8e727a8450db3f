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

/// The header behind the extension headers.
pub struct Upper {
    /// Protocol number.
    pub protocol: u8,
    /// Where it starts, bytes from the start of the frame.
    pub offset: usize,
    /// Whether it is a fragment of a larger packet.
    pub is_fragment: bool,
}

/// Follows the extension headers from `offset` up to the packet's `end`.
#[inline(always)]
pub fn skip_extensions(
    frame: &Frame,
    protocol: u8,
    offset: usize,
    end: usize,
) -> Result<Upper, PassReason> {
    match protocol {
        NEXT_FRAGMENT | NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION | NEXT_AUTHENTICATION => {
            unpack(walk(frame, protocol, offset, end))
        }
        _ => Ok(Upper { protocol, offset, is_fragment: false }),
    }
}

/// [`Upper`] or a [`PassReason`] as one number, since that is all that a BPF function returns:
/// bits 0-15 offset, 16-23 protocol, 24 fragment, 32-39 one more than the reason.
const FRAGMENT: u64 = 1 << 24;

#[inline(always)]
fn refuse(reason: PassReason) -> u64 {
    (reason as u64 + 1) << 32
}

#[inline(always)]
fn unpack(packed: u64) -> Result<Upper, PassReason> {
    match packed >> 32 {
        0 => Ok(Upper {
            protocol: (packed >> 16) as u8,
            offset: packed as usize & MAX_OFFSET,
            is_fragment: packed & FRAGMENT != 0,
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
    for _ in 0..MAX_EXTENSIONS {
        let length = match protocol {
            NEXT_FRAGMENT => {
                let Some(header) = frame.header::<FragmentHeader>(offset) else {
                    return refuse(PassReason::Truncated);
                };
                protocol = header.next_header;
                if !header.is_atomic() {
                    // What lies behind the packet's end is padding.
                    if offset + FragmentHeader::LEN > end {
                        return refuse(PassReason::Malformed);
                    }
                    return offset as u64 | u64::from(protocol) << 16 | FRAGMENT;
                }
                FragmentHeader::LEN
            }
            NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION | NEXT_AUTHENTICATION => {
                // The routing header is the longest of those read here; any extension header has at
                // least eight bytes.
                let Some(header) = frame.header::<RoutingHeader>(offset) else {
                    return refuse(PassReason::Truncated);
                };
                // The host is a waypoint, not the destination.
                if protocol == NEXT_ROUTING && header.segments_left != 0 {
                    return refuse(PassReason::OtherProtocol);
                }
                let length = header.extension.length(protocol);
                protocol = header.extension.next_header;
                length
            }
            _ => return offset as u64 | u64::from(protocol) << 16,
        };
        offset += length;
        if offset > end {
            return refuse(PassReason::Malformed);
        }
        if offset > MAX_OFFSET {
            return refuse(PassReason::TooManyHeaders);
        }
    }
    refuse(PassReason::TooManyHeaders)
}
