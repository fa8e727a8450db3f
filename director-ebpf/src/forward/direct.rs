//! Direct routing: the packet is sent unmodified to the backend's MAC. TTL and hop limit stay, as
//! with a bridge: a backend receives what the client sent.

use director_common::{
    verdict::DropReason,
    wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
};

use super::{link_length, trim, write};
use crate::{frame::Frame, next_hop::Hop, parse::Packet};

/// Length of the shortest Ethernet frame, without checksum: padding up to it stays.
const SHORTEST_FRAME: usize = 60;

/// Rewrites the frame's Ethernet header.
#[inline(always)]
pub fn rewrite(frame: &mut Frame, packet: &Packet, hop: &Hop) -> Result<(), DropReason> {
    if !trim(frame, packet, (SHORTEST_FRAME - link_length(hop)) as u32) {
        return Err(DropReason::NoHeadroom);
    }
    let grow = link_length(hop) as i32 - packet.l3_offset as i32;
    if grow != 0 && !frame.grow_head(grow) {
        return Err(DropReason::NoHeadroom);
    }
    let ethertype = if packet.is_v6() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    if write::<[u8; 0]>(frame, hop, ethertype, []) { Ok(()) } else { Err(DropReason::NoHeadroom) }
}
