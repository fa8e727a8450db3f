//! Stage 7: rewrite the frame for the backend. Previous: `next_hop`; next: `transmit`.

mod direct;
mod tunnel;

use core::hint::black_box;

use director_common::{
    backend::ForwardMode,
    flow::FlowHash,
    verdict::DropReason,
    wire::{
        Header,
        ethernet::{ETHERTYPE_VLAN, EthernetHeader, VlanTag},
    },
};

use crate::{backend::SelectedBackend, frame::Frame, next_hop::Hop, parse::Packet};

/// Bytes that forwarding adds to the IP packet.
#[inline(always)]
pub fn overhead(selected: &SelectedBackend) -> u16 {
    selected.forward().overhead(selected.word.is_v6())
}

/// Rewrites the frame. On an error, the packet must be dropped.
#[inline(always)]
pub fn rewrite(
    frame: &mut Frame,
    packet: &Packet,
    selected: &SelectedBackend,
    hop: &Hop,
    hash: FlowHash,
) -> Result<(), DropReason> {
    match selected.forward() {
        ForwardMode::Tunnel => tunnel::rewrite(frame, packet, selected, hop, hash),
        ForwardMode::Direct => direct::rewrite(frame, packet, hop),
    }
}

/// Length of the outgoing Ethernet header, with its tag.
#[inline(always)]
fn link_length(hop: &Hop) -> usize {
    if hop.vlan_id == 0 { EthernetHeader::LEN } else { EthernetHeader::LEN + VlanTag::LEN }
}

/// Removes what follows the IP packet in the frame, as the kernel does: padding, or a trailer of the
/// link that it came from. At least `shortest` bytes are kept behind the link header. Returns whether it
/// succeeded.
#[inline(always)]
#[must_use]
fn trim(frame: &mut Frame, packet: &Packet, shortest: u32) -> bool {
    let keep = if packet.l3_length < shortest { shortest } else { packet.l3_length };
    let end = packet.l3_offset + keep as usize;
    if !frame.reaches(end + 1) {
        return true;
    }
    // Kept in memory: the verifier forbids the subtraction's reordering ("pointer arithmetic on
    // pkt_end prohibited").
    let surplus = black_box(frame.len()) as i32 - end as i32;
    frame.shrink_tail(surplus)
}

/// An Ethernet header and what follows it: one check against the frame's end for both.
#[repr(C)]
#[derive(Clone, Copy)]
struct Untagged<T>(EthernetHeader, T);

/// The same with a VLAN tag between.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tagged<T>(EthernetHeader, VlanTag, T);

// SAFETY: alignment 1 and no padding, as their parts.
unsafe impl<T: Header> Header for Untagged<T> {}
// SAFETY: as above.
unsafe impl<T: Header> Header for Tagged<T> {}

/// Writes the outgoing Ethernet header, and `next` behind it. VLAN tags of the received frame are
/// removed: the next hop determines the outgoing tag.
#[inline(always)]
#[must_use]
fn write<T: Header>(frame: &mut Frame, hop: &Hop, ethertype: u16, next: T) -> bool {
    if hop.vlan_id == 0 {
        let link = EthernetHeader::new(hop.destination, hop.source, ethertype);
        return frame.write(0, Untagged(link, next));
    }
    let link = EthernetHeader::new(hop.destination, hop.source, ETHERTYPE_VLAN);
    frame.write(0, Tagged(link, VlanTag::new(hop.vlan_id, ethertype), next))
}
