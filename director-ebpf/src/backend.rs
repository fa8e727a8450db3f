//! The backend that a placement slot or a flow entry names. Reads BACKENDS.

use core::ptr::read_volatile;

use director_common::backend::{Backend, BackendRef, BackendWord, ForwardMode};

use crate::maps;

/// Where a packet goes.
#[derive(Clone, Copy)]
pub struct SelectedBackend {
    /// The backend's slot and generation.
    pub reference: BackendRef,
    /// How the backend is reached, as of one moment.
    pub word: BackendWord,
    /// The rest of the backend.
    pub backend: &'static Backend,
}

/// Looks up a reference. `None` if it is stale, or names no backend, or one of a forwarding mode that
/// this program does not know.
#[inline(always)]
pub fn resolve(reference: BackendRef) -> Option<SelectedBackend> {
    let backend: *const Backend = maps::BACKENDS.get_ptr(reference.slot())?;
    // SAFETY: the map's lookup returned it. Volatile: the word is replaced while packets read it, and
    // what it covers is only written while no word points at it.
    let (word, backend) =
        unsafe { (BackendWord(read_volatile(&raw const (*backend).word.0)), &*backend) };
    if reference.is_none() || !word.is(reference) || word.forward().is_none() {
        return None;
    }
    Some(SelectedBackend { reference, word, backend })
}

impl SelectedBackend {
    /// How packets travel to it. Decoded where it is needed: kept, it would cost stack, of which Linux
    /// 6.1 leaves the slow path none.
    #[inline(always)]
    pub fn forward(&self) -> ForwardMode {
        // SAFETY: `resolve`, which alone makes this structure, refuses words of unknown modes.
        unsafe { self.word.forward().unwrap_unchecked() }
    }
}
