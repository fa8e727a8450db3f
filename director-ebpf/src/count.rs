//! Counters: one copy per CPU, so increments need not be atomic.

use director_common::{
    backend::BackendRef,
    decision::Decision,
    stats::{BackendStats, ServiceStats},
    verdict::Verdict,
};

use crate::{backend::SelectedBackend, constants, maps, parse::Packet};

/// Counts a packet by its verdict.
#[inline(always)]
pub fn verdict(verdict: Verdict) {
    if !constants::mode().writes() {
        return;
    }
    if let Some(counter) = maps::VERDICTS.get_ptr_mut(verdict.code()) {
        // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
        unsafe { *counter += 1 };
    }
}

/// The decision about a packet before any stage has run.
#[inline(always)]
pub fn undecided() -> Decision {
    let zero = constants::zero() as u32;
    Decision { verdict: zero, backend: BackendRef(zero), service: zero, connection: zero }
}

/// Records the decision, for `simulate` and `explain`.
#[inline(always)]
pub fn decision(decision: &Decision) {
    if let Some(place) = maps::DECISION.get_ptr_mut(0) {
        // SAFETY: these programs process one packet at a time.
        unsafe { *place = *decision };
    }
}

#[inline(always)]
fn of_backend(selected: &SelectedBackend) -> Option<&'static mut BackendStats> {
    if !constants::mode().writes() {
        return None;
    }
    let stats = maps::BACKEND_STATS.get_ptr_mut(selected.reference.slot())?;
    // SAFETY: as in `verdict`.
    Some(unsafe { &mut *stats })
}

/// Counts a packet that is forwarded to a backend, and its flow if the packet made it a known one.
#[inline(always)]
pub fn forwarded(packet: &Packet, selected: &SelectedBackend, is_new_flow: bool) {
    if let Some(stats) = of_backend(selected) {
        stats.packets += 1;
        stats.bytes += u64::from(packet.l3_length);
        if is_new_flow {
            stats.flows += 1;
        }
    }
}

#[inline(always)]
fn of_service(slot: u16) -> Option<&'static mut ServiceStats> {
    if !constants::mode().writes() {
        return None;
    }
    let stats = maps::SERVICE_STATS.get_ptr_mut(u32::from(slot))?;
    // SAFETY: as in `verdict`.
    Some(unsafe { &mut *stats })
}

/// Counts a packet of a service that is not forwarded.
#[inline(always)]
pub fn service_dropped(slot: u16) {
    if let Some(stats) = of_service(slot) {
        stats.dropped += 1;
    }
}

/// Counts a packet of an untracked flow: its set of the flow table is full, or this CPU has reached the
/// limit on new flows.
#[inline(always)]
pub fn untracked(slot: u16) {
    if let Some(stats) = of_service(slot) {
        stats.untracked += 1;
    }
}
