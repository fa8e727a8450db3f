//! Stage 3: is the flow known? Previous: `admission`; next: `next_hop` if it is, `service` if not.
//! Also stage 9, the last: record. Reads and writes FLOWS, reads BACKENDS, writes FLOW_KEYS.
//!
//! Plain loads and stores are enough: see `director_common::flow_table`.

use core::ptr::{read_volatile, write_volatile};

use director_common::{
    client::Client,
    flow::FlowHash,
    flow_table::{FlowEntry, FlowSet, FlowState, LastSeen, REFRESH_AFTER, SET_WAYS},
    tunables::Ticks,
    wire::tcp::{ACK, FIN, PROTOCOL_TCP, RST, SYN},
};

use crate::{
    backend::{self, SelectedBackend},
    constants,
    context::PacketContext,
    count, maps,
    parse::{Content, Packet},
};

/// An established flow that was seen within this time (about a minute) is never evicted.
const PROTECT: Ticks = Ticks(900);

/// A flow's entry, and its backend.
pub struct FlowHit {
    /// The entry's place in its set.
    place: *mut FlowEntry,
    /// The entry as it was read.
    entry: FlowEntry,
    /// The flow's backend.
    pub selected: SelectedBackend,
}

#[inline(always)]
fn set_of(hash: FlowHash) -> Option<*mut FlowSet> {
    maps::FLOWS.get_ptr_mut(hash.table_set(constants::table_salt(), constants::table_bits()))
}

#[inline(always)]
fn read(place: *const FlowEntry) -> FlowEntry {
    // SAFETY: a place within a set that the map's lookup returned. Volatile, so that each word is
    // read once: other CPUs write here.
    unsafe {
        FlowEntry {
            tag: read_volatile(&raw const (*place).tag),
            word: read_volatile(&raw const (*place).word),
        }
    }
}

/// The `at`-th way to search for the flow `hash`, its preferred one first: most sets are nearly
/// empty, where the first comparison matches, which saves a branch misprediction.
#[inline(always)]
fn place(set: *mut FlowSet, hash: FlowHash, at: usize) -> *mut FlowEntry {
    // SAFETY: below SET_WAYS, so within the set.
    unsafe { &raw mut (*set).entries[(hash.preferred_way() ^ at) & (SET_WAYS - 1)] }
}

/// The entry of the flow `hash`, whatever its state. An empty entry may match, and names no
/// backend: see [`FlowEntry::matches`].
#[inline(always)]
fn search(hash: FlowHash) -> Option<(*mut FlowEntry, FlowEntry)> {
    let set = set_of(hash)?;
    for at in 0..SET_WAYS {
        let place = place(set, hash, at);
        let entry = read(place);
        if entry.matches(hash) {
            return Some((place, entry));
        }
    }
    None
}

/// The entry of the flow `hash`, if it has not timed out and its backend is still valid.
#[inline(always)]
pub fn find(hash: FlowHash, packet: &Packet, context: &PacketContext) -> Option<FlowHit> {
    let (place, entry) = search(hash)?;
    let last_seen = entry.last_seen();
    if context.tunables.has_timed_out(packet.flow.protocol, last_seen, context.now) {
        return None;
    }
    // A SYN on a closing connection opens a new connection from the same port (RFC 9293 3.6.1).
    if last_seen.state() as u8 == FlowState::Closing as u8 && is_initial_syn(packet) {
        return None;
    }
    let selected = backend::resolve(entry.backend())?;
    Some(FlowHit { place, entry, selected })
}

/// The result of the fast path's lookup.
pub enum FastLookup {
    /// An established flow that this packet neither opens nor closes; its entry is refreshed.
    Established(SelectedBackend),
    /// The flow has no entry.
    Unknown,
    /// The flow has an entry that only [`find`] evaluates.
    Undecided,
}

/// Looks the flow up, except where its state changes or its entry may be invalid.
#[inline(always)]
pub fn lookup_fast(hash: FlowHash, packet: &Packet, context: &PacketContext) -> FastLookup {
    let Some((place, entry)) = search(hash) else { return FastLookup::Unknown };
    let last_seen = entry.last_seen();
    if flags(packet) & (SYN | FIN | RST) != 0
        || last_seen.state() as u8 != FlowState::Established as u8
    {
        return FastLookup::Undecided;
    }
    if last_seen.age(context.now) >= REFRESH_AFTER {
        if context.tunables.has_timed_out(packet.flow.protocol, last_seen, context.now) {
            return FastLookup::Undecided;
        }
        if constants::mode().writes() {
            let entry = entry.refreshed(LastSeen::new(context.now, FlowState::Established));
            // SAFETY: as in `refresh`.
            unsafe { write_volatile(&raw mut (*place).word, entry.word) };
        }
    }
    match backend::resolve(entry.backend()) {
        Some(selected) => FastLookup::Established(selected),
        None => FastLookup::Undecided,
    }
}

/// Refreshes the flow's entry. Written only if its state changes or it is older than
/// [`REFRESH_AFTER`].
#[inline(always)]
pub fn refresh(hit: &FlowHit, packet: &Packet, context: &PacketContext) {
    // An ICMP error about a flow does not show that the flow is alive.
    if packet.content == Content::IcmpError || !constants::mode().writes() {
        return;
    }
    let before = hit.entry.last_seen();
    let state = next_state(packet, before.state());
    if state as u8 != before.state() as u8 || before.age(context.now) >= REFRESH_AFTER {
        let entry = hit.entry.refreshed(LastSeen::new(context.now, state));
        // SAFETY: the place is within a set that the map's lookup returned; if it has been reused
        // for another flow since, the halves do not match and both flows miss.
        unsafe { write_volatile(&raw mut (*hit.place).word, entry.word) };
    }
}

/// Records a new flow's backend. If its set is full of established flows, it stays untracked: the
/// ring alone selects its backend, and a flood of new flows evicts no known one. Returns whether it
/// was recorded.
#[inline(always)]
pub fn record(
    hash: FlowHash,
    packet: &Packet,
    selected: &SelectedBackend,
    context: &PacketContext,
) -> bool {
    // The end of a flow that is not in the table: nothing to record.
    if packet.flow.protocol == PROTOCOL_TCP && flags(packet) & (RST | FIN) != 0 {
        return false;
    }
    if !constants::mode().writes() {
        return true;
    }
    let Some(set) = set_of(hash) else { return false };
    let mut victim = place(set, hash, 0);
    let mut most = 0;
    for at in 0..SET_WAYS {
        let place = place(set, hash, at);
        let priority = eviction_priority(&read(place), hash, context);
        if priority > most {
            most = priority;
            victim = place;
        }
    }
    if most == 0 {
        count::untracked(selected.word.service());
        return false;
    }
    // A flow first seen midway (another director forwarded it before) may be forged, as a SYN may
    // be.
    let last_seen = LastSeen::new(context.now, FlowState::New);
    let entry = FlowEntry::new(hash, selected.reference, last_seen);
    // SAFETY: `victim` is within the set.
    unsafe {
        write_volatile(&raw mut (*victim).tag, entry.tag);
        write_volatile(&raw mut (*victim).word, entry.word);
    }
    if constants::track_clients() {
        // Derived from addresses, so that no register holds it where clients are not tracked.
        let place = (victim as usize).wrapping_sub(set as usize) / size_of::<FlowEntry>();
        record_client(hash, place, packet);
    }
    true
}

/// Records the client of the flow in this place of its set. A reader sees by the flow's hash whether
/// the record is whole.
#[inline(always)]
fn record_client(hash: FlowHash, place: usize, packet: &Packet) {
    let set = hash.table_set(constants::table_salt(), constants::table_bits());
    let Some(set) = maps::FLOW_KEYS.get_ptr_mut(set) else { return };
    // SAFETY: below SET_WAYS, so within the set that the map's lookup returned.
    unsafe { (*set).clients[place & (SET_WAYS - 1)] = Client::of(&packet.flow) };
}

/// How soon an entry is evicted for the flow `hash`: the highest first; 0: never.
#[inline(always)]
fn eviction_priority(entry: &FlowEntry, hash: FlowHash, context: &PacketContext) -> u32 {
    if entry.is_of(hash) {
        return u32::MAX;
    }
    if entry.is_empty() {
        return u32::MAX - 1;
    }
    let last_seen = entry.last_seen();
    let age = last_seen.age(context.now);
    if last_seen.state() as u8 != FlowState::Established as u8 {
        return 1 << 30 | age.0;
    }
    if age >= PROTECT { age.0 } else { 0 }
}

#[inline(always)]
fn flags(packet: &Packet) -> u8 {
    packet.tcp_flags as u8
}

/// Whether this packet is the first SYN of a TCP connection.
#[inline(always)]
pub fn is_initial_syn(packet: &Packet) -> bool {
    flags(packet) & (SYN | ACK) == SYN
}

#[inline(always)]
fn next_state(packet: &Packet, state: FlowState) -> FlowState {
    if packet.flow.protocol != PROTOCOL_TCP {
        return FlowState::Established;
    }
    if flags(packet) & (RST | FIN) != 0 || state as u8 == FlowState::Closing as u8 {
        return FlowState::Closing;
    }
    // A retransmitted SYN does not prove that the flow is established.
    if flags(packet) & SYN != 0 { state } else { FlowState::Established }
}
