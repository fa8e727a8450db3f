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
    let context = PacketContext::read(tunables);
    let refusal = match stages::run::<SlowPath<TRACED>>(frame, packet, &context, decision) {
        Ok(verdict) => return verdict,
        Err(refusal) => refusal,
    };
    let fits = if let Refusal::TooBig { fits, .. } = refusal { fits } else { 0 };
    // Here, once, so that the verifier meets the reply's many branches at one place.
    match verdict_policy::decide(packet, &refusal, &context) {
        Verdict::Reply(reason) if !reply::send(frame, packet, reason, fits) => {
            Verdict::Drop(DropReason::NoHeadroom)
        }
        verdict => verdict,
    }
}

struct SlowPath<const TRACED: bool>;

impl<const IS_TRACED: bool> Path for SlowPath<IS_TRACED> {
    type Error = Refusal;
    const TRACED: bool = IS_TRACED;

    #[inline(always)]
    fn lookup(hash: FlowHash, packet: &Packet, context: &PacketContext) -> Result<Lookup, Refusal> {
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
        frame: &Frame,
        packet: &Packet,
        selected: &SelectedBackend,
        context: &PacketContext,
    ) -> Result<Hop, Refusal> {
        next_hop::find(frame, packet, selected, context)
            .map_err(|reason| Refusal::Dropped { service: selected.word.service(), reason })
    }

    #[inline(always)]
    fn refuse(refusal: Refusal) -> Refusal {
        refusal
    }
}
