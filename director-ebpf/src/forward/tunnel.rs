//! IP in IP: 4-in-4 (RFC 2003), 6-in-6 and 4-in-6 (RFC 2473), 6-in-4 (RFC 4213).
//!
//! The inner packet is unmodified, its TTL or hop limit too. The outer header starts with 64 hops
//! and carries the inner DSCP and ECN bits (RFC 6040, normal mode). An IPv4 one has don't-fragment
//! set; an IPv6 one carries a flow label from the flow's hash (RFC 6438).

use director_common::{
    flow::FlowHash,
    verdict::DropReason,
    wire::{
        Header as _,
        ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
        ipv4::{Ipv4Header, PROTOCOL_IPIP, TUNNEL_TTL},
        ipv6::{Ipv6Header, PROTOCOL_IPV6},
    },
};

use super::{link_length, trim, write};
use crate::{backend::SelectedBackend, frame::Frame, next_hop::Hop, parse::Packet};

/// Encapsulates the packet, from the director to the backend.
#[inline(always)]
pub fn rewrite(
    frame: &mut Frame,
    packet: &Packet,
    selected: &SelectedBackend,
    hop: &Hop,
    hash: FlowHash,
) -> Result<(), DropReason> {
    if !trim(frame, packet, 0) {
        return Err(DropReason::NoHeadroom);
    }
    let protocol = if packet.is_v6() { PROTOCOL_IPV6 } else { PROTOCOL_IPIP };
    let source = selected.backend.sources[selected.word.source() & 1];
    let address = selected.backend.address;
    let link = link_length(hop);
    let written = if selected.word.is_v6() {
        if !frame.grow_head((link + Ipv6Header::LEN) as i32 - packet.l3_offset as i32) {
            return Err(DropReason::NoHeadroom);
        }
        let outer = Ipv6Header::new(
            packet.tos as u8,
            hash.flow_label(),
            packet.l3_length as u16,
            protocol,
            TUNNEL_TTL,
            source.bytes(),
            address.bytes(),
        );
        write(frame, hop, ETHERTYPE_IPV6, outer)
    } else {
        if !frame.grow_head((link + Ipv4Header::LEN) as i32 - packet.l3_offset as i32) {
            return Err(DropReason::NoHeadroom);
        }
        let outer = Ipv4Header::new(
            packet.tos as u8,
            packet.l3_length as u16 + Ipv4Header::LEN as u16,
            TUNNEL_TTL,
            protocol,
            source.v4_bytes(),
            address.v4_bytes(),
        );
        write(frame, hop, ETHERTYPE_IPV4, outer)
    };
    if written { Ok(()) } else { Err(DropReason::NoHeadroom) }
}
