//! Stage 4: which backend gets the flow? Previous: `service`; next: `flow_table::record`.
//! Reads RINGS and BACKENDS.
//!
//! Every scheduler there is builds its ring in userspace; the program only looks up the slot that
//! the flow's hash falls on.

use core::ptr::read_volatile;

use director_common::{
    backend::{Backend, BackendRef, BackendWord},
    flow::FlowHash,
};

use crate::{maps, service::Matched};

/// Where a packet goes.
#[derive(Clone, Copy)]
pub struct Assigned {
    /// The backend's slot and generation.
    pub reference: BackendRef,
    /// How the backend is to be reached, as of one moment.
    pub word: BackendWord,
    /// The rest of the backend.
    pub backend: &'static Backend,
}

/// The backend of a new flow; `None` when the service has none.
#[inline(always)]
pub fn pick(matched: &Matched, hash: FlowHash) -> Option<Assigned> {
    let slots = matched.word.slots();
    if slots == 0 {
        return None;
    }
    let (chunk, place) = matched.word.place(hash.ring_slot(slots));
    let chunk = maps::RINGS.get(chunk)?;
    resolve(*chunk.slots.get(place)?)
}

/// The backend that a ring or a flow entry names, unless its slot has been reused since.
#[inline(always)]
pub fn resolve(reference: BackendRef) -> Option<Assigned> {
    let backend: *const Backend = maps::BACKENDS.get_ptr(reference.slot())?;
    // SAFETY: the map's lookup returned it. Volatile: the word is replaced while we look, and what
    // it covers is only written while no word points at it.
    let (word, backend) =
        unsafe { (BackendWord(read_volatile(&raw const (*backend).word.0)), &*backend) };
    if reference.is_none() || !word.is(reference) {
        return None;
    }
    Some(Assigned { reference, word, backend })
}
