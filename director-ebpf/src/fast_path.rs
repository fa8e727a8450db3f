//! The fast path, for nearly every packet: a plain one, of an established or a new flow, whose
//! backend's next hop is known, or one for no service.
//!
//! Returns `None` if it does not handle the packet, which is unmodified; the slow path then does. Both
//! run the list in `stages.rs` (and `tests/tests/properties.rs` sends a million frames through both).
//! Worth its lines because nothing here has to be kept in memory for a function that is not inlined,
//! and each address family has a straight line of its own.

use director_common::{
    decision::Decision,
    flow::{Family, FlowHash},
    tunables::Tunables,
    verdict::{PassReason, Verdict},
};

use crate::{
    admission,
    backend::SelectedBackend,
    context::PacketContext,
    flow_table::{self, FastLookup},
    frame::Frame,
    next_hop::{self, Hop},
    parse::{Packet, plain},
    stages::{self, Lookup, Path},
    verdict_policy::Refusal,
};

/// Decides and rewrites the packet, if it is one of those.
#[inline(always)]
pub fn run(
    frame: &mut Frame,
    tunables: &'static Tunables,
    decision: &mut Decision,
) -> Option<Verdict> {
    match plain::family(frame)? {
        Family::V4 => {
            let packet = plain::v4(frame)?;
            decide(frame, &packet, tunables, decision)
        }
        Family::V6 => {
            let packet = plain::v6(frame)?;
            decide(frame, &packet, tunables, decision)
        }
    }
}

#[inline(always)]
fn decide(
    frame: &mut Frame,
    packet: &Packet,
    tunables: &'static Tunables,
    decision: &mut Decision,
) -> Option<Verdict> {
    match stages::run(&mut FastPath, frame, packet, tunables, decision) {
        Ok(verdict) => Some(verdict),
        Err(Undecided::NoService) => Some(Verdict::Pass(PassReason::NoService)),
        Err(Undecided::SlowPath) => None,
    }
}

struct FastPath;

/// Why the fast path does not forward a packet.
enum Undecided {
    /// It is for no service.
    NoService,
    /// The slow path decides.
    SlowPath,
}

impl Path for FastPath {
    type Error = Undecided;
    const UNMATCHED: Undecided = Undecided::NoService;
    const TRACED: bool = false;
    const REFUSES: bool = false;
    const ADMISSION: u32 = admission::FAST_PATH;

    #[inline(always)]
    fn lookup(
        &mut self,
        hash: FlowHash,
        packet: &Packet,
        context: &PacketContext,
    ) -> Result<Lookup, Undecided> {
        match flow_table::lookup_fast(hash, packet, context) {
            FastLookup::Established(selected) => Ok(Lookup::Known(selected)),
            FastLookup::Unknown => Ok(Lookup::Unknown),
            FastLookup::Undecided => Err(Undecided::SlowPath),
        }
    }

    #[inline(always)]
    fn next_hop(
        &mut self,
        _frame: &Frame,
        packet: &Packet,
        selected: &SelectedBackend,
        context: &PacketContext,
    ) -> Result<Hop, Undecided> {
        next_hop::cached(packet, selected, context).ok_or(Undecided::SlowPath)
    }

    #[inline(always)]
    fn refuse(
        &mut self,
        refusal: Refusal,
        _packet: &Packet,
        _context: &PacketContext,
    ) -> Undecided {
        match refusal {
            Refusal::NoBackend(_) | Refusal::TooBig { .. } | Refusal::Dropped { .. } => {
                Undecided::SlowPath
            }
        }
    }
}
