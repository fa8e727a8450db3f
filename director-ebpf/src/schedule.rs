//! Stage 5: which backend gets a new flow? Previous: `service`; next: `next_hop`. Reads RINGS.
//!
//! The placement tables are built in userspace; the program only looks up the slot that the flow's
//! hash falls on.

use director_common::flow::FlowHash;

use crate::{
    backend::{self, SelectedBackend},
    maps,
    service::ServiceMatch,
};

/// The backend of a new flow; `None` when the service has none.
#[inline(always)]
pub fn pick(service: &ServiceMatch, hash: FlowHash) -> Option<SelectedBackend> {
    let slots = service.word.slots();
    if slots == 0 {
        return None;
    }
    let (chunk, place) = service.word.place(hash.ring_slot(slots));
    let chunk = maps::RINGS.get(chunk)?;
    backend::resolve(*chunk.slots.get(place)?)
}
