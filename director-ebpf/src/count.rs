//! Counters: one copy per CPU, so an increment is a plain one.

use director_common::{
    backend::BackendRef,
    decision::Decision,
    stats::{BackendStats, ServiceStats},
    verdict::Verdict,
};

use crate::{constants, maps, parse::Packet, schedule::Assigned};

/// Counts what became of a packet.
#[inline(always)]
pub fn verdict(verdict: Verdict) {
    if constants::explain() {
        return;
    }
    if let Some(counter) = maps::VERDICTS.get_ptr_mut(verdict.code()) {
        // SAFETY: this CPU's copy; an XDP program is not interrupted by another on its CPU.
        unsafe { *counter += 1 };
    }
}

/// What will be told of a packet, before anything is known.
#[inline(always)]
pub fn undecided() -> Decision {
    let zero = constants::zero() as u32;
    Decision { verdict: zero, backend: BackendRef(zero), service: zero, connection: zero }
}

/// Tells who runs the program over a packet what became of it.
#[inline(always)]
pub fn decision(decision: &Decision) {
    if let Some(place) = maps::DECISION.get_ptr_mut(0) {
        // SAFETY: they run one packet at a time.
        unsafe { *place = *decision };
    }
}

#[inline(always)]
fn of_backend(assigned: &Assigned) -> Option<&'static mut BackendStats> {
    if constants::explain() {
        return None;
    }
    let stats = maps::BACKEND_STATS.get_ptr_mut(assigned.reference.slot())?;
    // SAFETY: as in `verdict`.
    Some(unsafe { &mut *stats })
}

/// Counts a packet on its way to a backend, and the flow that it is the first of.
#[inline(always)]
pub fn forwarded(packet: &Packet, assigned: &Assigned, is_new_flow: bool) {
    if let Some(stats) = of_backend(assigned) {
        stats.packets += 1;
        stats.bytes += u64::from(packet.l3_length);
        if is_new_flow {
            stats.flows += 1;
        }
    }
}

/// Counts a new flow.
#[inline(always)]
pub fn scheduled(assigned: &Assigned) {
    if let Some(stats) = of_backend(assigned) {
        stats.flows += 1;
    }
}

#[inline(always)]
fn of_service(slot: u16) -> Option<&'static mut ServiceStats> {
    if constants::explain() {
        return None;
    }
    let stats = maps::SERVICE_STATS.get_ptr_mut(u32::from(slot))?;
    // SAFETY: as in `verdict`.
    Some(unsafe { &mut *stats })
}

/// Counts a packet of a service that no backend got.
#[inline(always)]
pub fn service_dropped(slot: u16) {
    if let Some(stats) = of_service(slot) {
        stats.dropped += 1;
    }
}

/// Counts a flow that its set of the flow table had no room for.
#[inline(always)]
pub fn unrecorded(slot: u16) {
    if let Some(stats) = of_service(slot) {
        stats.unrecorded += 1;
    }
}
