//! Counts the flow table's established flows by reading its memory.

use std::mem::offset_of;

use director_common::{
    backend::{Backend, BackendRef, BackendState, BackendWord},
    flow_table::FlowState,
    tunables::Ticks,
};

use super::{Tables, clock_ns};

/// Sets that are scanned in a large table: 16 MiB.
const SAMPLE: u32 = 1 << 18;
/// Sets of the largest table that is scanned whole if few flows were found: 64 MiB, the default.
const WHOLE: u32 = 1 << 20;
/// Few flows: an estimate would be coarse.
const FEW: u64 = 10_000;
/// Sets that are scanned in a row: a page of memory.
const RUN: u32 = 64;

/// Established flows by backend slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    flows: Vec<u64>,
    scanned: u32,
    sets: u32,
}

impl Census {
    /// Flows of the backend in this slot; an estimate if only a part of the table was scanned.
    pub fn of(&self, slot: u32) -> u64 {
        let found = self.flows.get(slot as usize).copied().unwrap_or_default();
        (found as f64 / self.share()).round() as u64
    }

    /// The share of the table that was scanned, 1 for all of it.
    pub fn share(&self) -> f64 {
        if self.sets == 0 { 1.0 } else { f64::from(self.scanned) / f64::from(self.sets) }
    }
}

/// Counts flows of which more than one packet was seen, that are not closing and not expired. In a
/// table for more than a quarter of a million flows it scans evenly spread pages, unless those hold
/// few: flows are placed by their hash, so any part represents the whole.
pub fn census(tables: &Tables) -> Census {
    let now = Ticks::from_ns(clock_ns());
    let tunables = tables.tunables.get(0);
    let word_at = offset_of!(Backend, word);
    let live: Vec<Option<(BackendRef, u8)>> = (0..tables.capacity().backends)
        .map(|slot| {
            let fields = BackendWord(tables.backends.load(slot, word_at)).unpack();
            let service = u32::from(fields.service);
            // Flows of a backend that is down are rescheduled.
            let is_used = matches!(fields.state, BackendState::Active | BackendState::Draining)
                && service < tables.services.len();
            is_used.then(|| {
                let protocol = tables.services.get(service).key.protocol;
                (BackendRef::new(slot, fields.generation), protocol)
            })
        })
        .collect();
    let mut flows = vec![0; live.len()];
    let mut found = 0;
    let mut scan = |first: u32| {
        for set in first..first + RUN.min(tables.flows.len() - first) {
            for entry in tables.flows.get(set).entries {
                let (reference, last_seen) = (entry.backend(), entry.last_seen());
                if entry.is_empty() || last_seen.state() != FlowState::Established {
                    continue;
                }
                let slot = reference.slot() as usize;
                if let Some(Some((live, protocol))) = live.get(slot)
                    && *live == reference
                    && !tunables.has_timed_out(*protocol, last_seen, now)
                {
                    flows[slot] += 1;
                    found += 1;
                }
            }
        }
        found
    };
    let sets = tables.flows.len();
    // Sets come in powers of two, so this divides them.
    let stride = sets.div_ceil(SAMPLE).max(1);
    let mut scanned = 0;
    for round in 0..stride {
        let runs = (round * RUN..sets).step_by((stride * RUN) as usize);
        let mut total = 0;
        for first in runs {
            total = scan(first);
            scanned += RUN.min(sets - first);
        }
        if sets > WHOLE || total > FEW {
            break;
        }
    }
    Census { flows, scanned, sets }
}
