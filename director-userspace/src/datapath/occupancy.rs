//! Which backend the known flows are on: the flow table, read as packets write it.

use director_common::{
    flow_table::FlowState,
    runtime::{TICK_SHIFT, TICKS_MASK, Ticks},
    wire::tcp::PROTOCOL_TCP,
};

use super::{Datapath, clock_ns};

/// A known flow; whose it is the table does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownFlow {
    /// Slot of its service.
    pub service: u32,
    /// Slot of its backend.
    pub backend: u32,
    /// How far it has come.
    pub state: FlowState,
    /// Seconds until it is forgotten if nothing comes.
    pub left_s: u64,
}

/// Every flow that is known and not too long idle. A flow that is written meanwhile may be missing.
pub fn known_flows(datapath: &Datapath) -> impl Iterator<Item = KnownFlow> + '_ {
    let tables = &datapath.tables;
    let (runtime, meta) = (tables.runtime.get(0), tables.meta());
    let now = Ticks::from_ns(clock_ns());
    let entries = (0..tables.flows.len())
        .flat_map(move |set| tables.flows.get(set).entries.map(|entry| (set, entry)));
    entries.filter_map(move |(set, entry)| {
        let reference = entry.backend();
        // Halves of two writes make a hash that hardly ever leads here.
        let leads_here = entry.hash().table_set(meta.table_salt, meta.table_bits) == set;
        if entry.is_empty() || !leads_here || reference.slot() >= tables.backends.len() {
            return None;
        }
        let word = tables.backends.get(reference.slot()).word;
        if !word.is(reference) {
            return None;
        }
        let service = u32::from(word.service());
        let touch = entry.touch();
        let is_tcp = tables.services.get(service).key.protocol == PROTOCOL_TCP;
        let timeout = match (is_tcp, touch.state()) {
            (true, FlowState::Established) => runtime.tcp_ticks,
            (true, _) => runtime.tcp_closing_ticks,
            (false, _) => runtime.udp_ticks,
        };
        let left = timeout.min(TICKS_MASK).checked_sub(touch.age(now).0)?;
        let left_s = (u64::from(left) << TICK_SHIFT) / 1_000_000_000;
        Some(KnownFlow { service, backend: reference.slot(), state: touch.state(), left_s })
    })
}
