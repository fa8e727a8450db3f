//! The list of stages behind `parse`, in order. The fast path and the slow path both run it.
//!
//! ```text
//! filter -> admission -> flow table -> (miss) service -> schedule -> next hop -> forward
//!                            | hit ----------------------------------^              |
//!                                                   count <- record <- transmit <---+
//! ```
//!
//! A stage before `forward` may leave the packet to the other path or to the host: nothing in the frame
//! has changed. From `forward` on a packet is sent or dropped. A flow is recorded last, so that a
//! packet which is refused or dropped leaves no trace.

use director_common::{
    decision::{Connection, Decision},
    flow::FlowHash,
    tunables::Tunables,
    verdict::Verdict,
};

use crate::{
    admission::{self, Admission},
    backend::SelectedBackend,
    constants,
    context::PacketContext,
    count, filter, flow_table, forward,
    frame::Frame,
    next_hop::{self, Hop},
    parse::{Content, Packet},
    schedule, service, transmit,
    verdict_policy::{self, Refusal},
};

/// What the flow table says of a packet's flow.
pub enum Lookup {
    /// Known: where the flow goes.
    Known(SelectedBackend),
    /// Not in the table.
    Unknown,
}

/// What the two paths do differently in a stage. A path that cannot decide says so by its error.
pub trait Path {
    /// What a refused packet becomes.
    type Error;
    /// What becomes of a packet for no service.
    const UNMATCHED: Self::Error;
    /// Whether the decision is wanted, beside those of programs that record it anyway.
    const TRACED: bool;
    /// Whether a refusal is final, so that the decision about a refused packet is wanted too.
    const REFUSES: bool;
    /// The admission stage's counter.
    const ADMISSION: u32;

    /// The flow table's answer.
    ///
    /// # Errors
    ///
    /// The path does not handle such a flow.
    fn lookup(
        &mut self,
        hash: FlowHash,
        packet: &Packet,
        context: &PacketContext,
    ) -> Result<Lookup, Self::Error>;

    /// The next hop of a backend.
    ///
    /// # Errors
    ///
    /// It is not known to this path.
    fn next_hop(
        &mut self,
        frame: &Frame,
        packet: &Packet,
        selected: &SelectedBackend,
        context: &PacketContext,
    ) -> Result<Hop, Self::Error>;

    /// What becomes of a packet that a stage refused.
    fn refuse(&mut self, refusal: Refusal, packet: &Packet, context: &PacketContext)
    -> Self::Error;
}

/// Decides and rewrites one packet that is not a fragment.
///
/// # Errors
///
/// A stage refused the packet; nothing in the frame has changed.
#[inline(always)]
pub fn run<P: Path>(
    path: &mut P,
    frame: &mut Frame,
    packet: &Packet,
    tunables: &'static Tunables,
    decision: &mut Decision,
) -> Result<Verdict, P::Error> {
    if !filter::may_be_vip(packet.flow.destination, packet.is_v6()) {
        return Err(P::UNMATCHED);
    }
    let context = &PacketContext::read(tunables);
    let hash = packet.flow.hash(&constants::FleetKey);
    let admission = admission::admit(packet, context, P::ADMISSION);
    let found = match admission {
        Admission::Exhausted => Lookup::Unknown,
        Admission::Admitted => path.lookup(hash, packet, context)?,
    };
    let (selected, mut connection) = match found {
        Lookup::Known(selected) => (selected, Connection::Known),
        Lookup::Unknown => {
            let Some(service) = service::find(&packet.flow) else {
                return Err(P::UNMATCHED);
            };
            if P::REFUSES && (P::TRACED || constants::mode().records()) {
                decision.service = u32::from(service.slot) + 1;
            }
            // The fast path's parser has looked at IPv6 sources already.
            if (P::REFUSES || !packet.is_v6())
                && let Some(reason) = packet.flaw_of_new()
            {
                let service = service.slot;
                return Err(path.refuse(Refusal::Dropped { service, reason }, packet, context));
            }
            let Some(selected) = schedule::pick(&service, hash) else {
                return Err(path.refuse(Refusal::NoBackend(service), packet, context));
            };
            (selected, opened(packet))
        }
    };
    if P::REFUSES {
        note::<P>(decision, &selected, connection);
    }
    if let Some(reason) = packet.flaw() {
        let service = selected.word.service();
        return Err(path.refuse(Refusal::Dropped { service, reason }, packet, context));
    }

    let hop = path.next_hop(frame, packet, &selected, context)?;
    let overhead = forward::overhead(&selected);
    if next_hop::too_big(packet, &hop, overhead) {
        // The client is told what fits, also without don't-fragment: XDP cannot fragment.
        let (service, fits) = (selected.word.service(), next_hop::fits(packet, &hop, overhead));
        return Err(path.refuse(Refusal::TooBig { service, fits }, packet, context));
    }
    // From here on the frame changes: what fails is dropped, on either path.
    let sent =
        forward::rewrite(frame, packet, &selected, &hop, hash).and_then(|()| transmit::send(&hop));
    let verdict = match sent {
        Ok(verdict) => verdict,
        Err(reason) => {
            note::<P>(decision, &selected, connection);
            return Ok(verdict_policy::dropped(selected.word.service(), reason));
        }
    };
    let mut is_recorded = false;
    if matches!(connection, Connection::New) {
        is_recorded = match admission {
            Admission::Exhausted => {
                count::untracked(selected.word.service());
                false
            }
            Admission::Admitted => flow_table::record(hash, packet, &selected, context),
        };
        // Its next packet is as new as this one: only a flow that is recorded counts as one.
        if !is_recorded {
            connection = Connection::None;
        }
    }
    note::<P>(decision, &selected, connection);
    count::forwarded(packet, &selected, is_recorded);
    Ok(verdict)
}

/// The connection of a packet whose flow is not in the table. An ICMP error follows a flow and never
/// makes one.
#[inline(always)]
fn opened(packet: &Packet) -> Connection {
    match packet.content {
        Content::Whole => Connection::New,
        Content::IcmpError | Content::Fragment => Connection::None,
    }
}

/// Says where the packet goes, if that is wanted.
#[inline(always)]
fn note<P: Path>(decision: &mut Decision, selected: &SelectedBackend, connection: Connection) {
    if P::TRACED || constants::mode().records() {
        decision.backend = selected.reference;
        decision.service = u32::from(selected.word.service()) + 1;
        decision.connection = connection as u32;
    }
}
