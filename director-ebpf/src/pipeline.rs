//! The packet's path, in order. One stage, one file; this is the table of contents.
//!
//! ```text
//! parse -> stages (stages.rs has their list) -> verdict policy -> (reply)
//! ```
//!
//! This is the slow path, which decides about every packet. `fast_path.rs` runs the same stages for
//! the plain packets that nearly all traffic is made of.

use director_common::{
    decision::Decision,
    flow::FlowHash,
    verdict::{DropReason, PassReason, Verdict},
};

use crate::{
    admission,
    backend::SelectedBackend,
    context::PacketContext,
    flow_table,
    frame::Frame,
    maps,
    next_hop::{self, Hop},
    parse::{self, Content, Packet},
    reply,
    stages::{self, Lookup, Path},
    verdict_policy::{self, Refusal},
};

/// Decides and rewrites one packet, which has not been parsed yet. `TRACED`: the decision is wanted.
#[inline(always)]
pub fn run<const TRACED: bool>(
    frame: &mut Frame,
    packet: &mut Packet,
    decision: &mut Decision,
) -> Verdict {
    if let Err(reason) = parse::parse(frame, packet) {
        return Verdict::Pass(reason);
    }
    if let Content::Fragment = packet.content {
        return verdict_policy::fragment(packet);
    }
    let Some(tunables) = maps::tunables() else { return Verdict::Pass(PassReason::NoService) };
    let mut path = SlowPath::<TRACED> { fits: 0 };
    let verdict = match stages::run(&mut path, frame, packet, tunables, decision) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    // Here, once, so that the verifier meets the reply's many branches at one place.
    match verdict {
        Verdict::Reply(reason) if !reply::send(frame, packet, reason, path.fits) => {
            Verdict::Drop(DropReason::NoHeadroom)
        }
        verdict => verdict,
    }
}

/// Decides every packet: a refusal becomes its verdict.
struct SlowPath<const TRACED: bool> {
    /// Bytes of IP packet that fit, if the packet was too big.
    fits: u16,
}

impl<const IS_TRACED: bool> Path for SlowPath<IS_TRACED> {
    type Error = Verdict;
    const UNMATCHED: Verdict = Verdict::Pass(PassReason::NoService);
    const TRACED: bool = IS_TRACED;
    const REFUSES: bool = true;
    const ADMISSION: u32 = admission::SLOW_PATH;

    #[inline(always)]
    fn lookup(
        &mut self,
        hash: FlowHash,
        packet: &Packet,
        context: &PacketContext,
    ) -> Result<Lookup, Verdict> {
        Ok(match flow_table::find(hash, packet, context) {
            Some(hit) => {
                flow_table::refresh(&hit, packet, context);
                Lookup::Known(hit.selected)
            }
            None => Lookup::Unknown,
        })
    }

    #[inline(always)]
    fn next_hop(
        &mut self,
        frame: &Frame,
        packet: &Packet,
        selected: &SelectedBackend,
        context: &PacketContext,
    ) -> Result<Hop, Verdict> {
        next_hop::find(frame, packet, selected, context).map_err(|reason| {
            let service = selected.word.service();
            self.refuse(Refusal::Dropped { service, reason }, packet, context)
        })
    }

    #[inline(always)]
    fn refuse(&mut self, refusal: Refusal, packet: &Packet, context: &PacketContext) -> Verdict {
        if let Refusal::TooBig { fits, .. } = refusal {
            self.fits = fits;
        }
        verdict_policy::decide(packet, &refusal, context)
    }
}
