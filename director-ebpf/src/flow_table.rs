//! Stage 2: is the flow known? Previous: `parse`; next: `next_hop` if it is, `service` if not.
//! Also stage 5: record. Reads and writes FLOWS, reads BACKENDS.
//!
//! Why plain loads and stores are enough here: `director_common::flow_table`.

use core::ptr::{read_volatile, write_volatile};

use director_common::{
    client::Client,
    flow::FlowHash,
    flow_table::{FlowEntry, FlowSet, FlowState, SET_WAYS, Touch},
    runtime::Ticks,
    wire::tcp::{ACK, FIN, PROTOCOL_TCP, RST, SYN},
};

use crate::{
    constants, count, maps,
    parse::{Content, Packet},
    pipeline::Now,
    schedule::{self, Assigned},
};

/// An entry is written again when it is older than this (about a second), so that its cache line
/// stays shared between CPUs.
const TOUCH_AFTER: Ticks = Ticks(16);
/// An established flow that was seen within this time (about a minute) never gives way to another.
const PROTECT: Ticks = Ticks(900);

/// A flow's entry, and where it leads.
pub struct Found {
    /// The entry's place.
    place: *mut FlowEntry,
    /// What it held.
    entry: FlowEntry,
    /// Where the flow goes.
    pub assigned: Assigned,
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

/// Place `at` of those where the flow `hash` may be, its favourite first: most sets are nearly empty,
/// and there the first look finds it, which spares a misprediction.
#[inline(always)]
fn place(set: *mut FlowSet, hash: FlowHash, at: usize) -> *mut FlowEntry {
    // SAFETY: below SET_WAYS, so within the set.
    unsafe { &raw mut (*set).entries[(hash.favourite_way() ^ at) & (SET_WAYS - 1)] }
}

/// The entry of the flow `hash`, whatever it says. An empty place may be one of a backend that is
/// none: see [`FlowEntry::matches`].
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

/// The entry of the flow `hash`, if it has not idled too long and its backend is still there.
#[inline(always)]
pub fn find(hash: FlowHash, packet: &Packet, now: &Now) -> Option<Found> {
    let (place, entry) = search(hash)?;
    let touch = entry.touch();
    if touch.age(now.ticks) > timeout(packet, touch.state(), now) {
        return None;
    }
    // A client that opens a connection again from the same port wants a new one.
    if touch.state() as u8 == FlowState::Closing as u8 && opens(packet) {
        return None;
    }
    let assigned = schedule::resolve(entry.backend())?;
    Some(Found { place, entry, assigned })
}

/// What a short look at the table says.
pub enum Glance {
    /// An established flow that this packet neither opens nor closes: seen now.
    Established(Assigned),
    /// There is no entry of the flow.
    Unknown,
    /// There is one, and [`find`] is to look at it.
    Other,
}

/// Looks for the flow, as far as that is simple.
#[inline(always)]
pub fn glance(hash: FlowHash, packet: &Packet, now: &Now) -> Glance {
    let Some((place, entry)) = search(hash) else { return Glance::Unknown };
    let touch = entry.touch();
    if flags(packet) & (SYN | FIN | RST) != 0 || touch.state() as u8 != FlowState::Established as u8
    {
        return Glance::Other;
    }
    if touch.age(now.ticks) >= TOUCH_AFTER {
        if touch.age(now.ticks) > timeout(packet, FlowState::Established, now) {
            return Glance::Other;
        }
        if !constants::explain() {
            let entry = entry.touched(Touch::new(now.ticks, FlowState::Established));
            // SAFETY: as in `touch`.
            unsafe { write_volatile(&raw mut (*place).word, entry.word) };
        }
    }
    match schedule::resolve(entry.backend()) {
        Some(assigned) => Glance::Established(assigned),
        None => Glance::Other,
    }
}

/// Writes down that the flow was seen, if that changes anything.
#[inline(always)]
pub fn touch(found: &Found, packet: &Packet, now: &Now) {
    // An error about a flow says nothing of its being alive.
    if packet.content == Content::IcmpError || constants::explain() {
        return;
    }
    let before = found.entry.touch();
    let state = next_state(packet, before.state());
    if state as u8 != before.state() as u8 || before.age(now.ticks) >= TOUCH_AFTER {
        let entry = found.entry.touched(Touch::new(now.ticks, state));
        // SAFETY: the place is within a set that the map's lookup returned; if it was given to
        // another flow since, the halves do not fit together and both miss.
        unsafe { write_volatile(&raw mut (*found.place).word, entry.word) };
    }
}

/// Remembers where a new flow goes. If its set is full of established flows, it is not remembered:
/// the ring alone decides then, and a flood of new flows pushes no known one out.
#[inline(always)]
pub fn record(hash: FlowHash, packet: &Packet, assigned: &Assigned, now: &Now) {
    if constants::explain() {
        return;
    }
    // The end of a flow that nobody knew: nothing to remember.
    if packet.flow.protocol == PROTOCOL_TCP && flags(packet) & (RST | FIN) != 0 {
        return;
    }
    let Some(set) = set_of(hash) else { return };
    let mut victim = place(set, hash, 0);
    let mut most = 0;
    for at in 0..SET_WAYS {
        let place = place(set, hash, at);
        let willing = willingness(&read(place), hash, now);
        if willing > most {
            most = willing;
            victim = place;
        }
    }
    if most == 0 {
        count::unrecorded(assigned.word.service());
        return;
    }
    // One that we meet in its middle (another director had it before) has proven itself as little
    // as a SYN has.
    let touch = Touch::new(now.ticks, FlowState::New);
    let entry = FlowEntry::new(hash, assigned.reference, touch);
    // SAFETY: `victim` is within the set.
    unsafe {
        write_volatile(&raw mut (*victim).tag, entry.tag);
        write_volatile(&raw mut (*victim).word, entry.word);
    }
    if constants::record_clients() {
        // By addresses, so that nothing has to be kept for it where it is not wanted.
        let place = (victim as usize).wrapping_sub(set as usize) / size_of::<FlowEntry>();
        record_client(hash, place, packet);
    }
}

/// Writes down who the client of the flow in this place of its set is. Whoever reads it sees by the
/// flow's hash whether it is all there.
#[inline(always)]
fn record_client(hash: FlowHash, place: usize, packet: &Packet) {
    let set = hash.table_set(constants::table_salt(), constants::table_bits());
    let Some(set) = maps::CLIENTS.get_ptr_mut(set) else { return };
    // SAFETY: below SET_WAYS, so within the set that the map's lookup returned.
    unsafe { (*set).clients[place & (SET_WAYS - 1)] = Client::of(&packet.flow) };
}

/// How willingly an entry gives way to the flow `hash`; 0: not at all.
#[inline(always)]
fn willingness(entry: &FlowEntry, hash: FlowHash, now: &Now) -> u32 {
    if entry.is_of(hash) {
        return u32::MAX;
    }
    if entry.is_empty() {
        return u32::MAX - 1;
    }
    let touch = entry.touch();
    let age = touch.age(now.ticks);
    if touch.state() as u8 != FlowState::Established as u8 {
        return 1 << 30 | age.0;
    }
    if age >= PROTECT { age.0 } else { 0 }
}

#[inline(always)]
fn timeout(packet: &Packet, state: FlowState, now: &Now) -> Ticks {
    Ticks(if packet.flow.protocol != PROTOCOL_TCP {
        now.runtime.udp_ticks
    } else if state as u8 == FlowState::Established as u8 {
        now.runtime.tcp_ticks
    } else {
        now.runtime.tcp_closing_ticks
    })
}

#[inline(always)]
fn flags(packet: &Packet) -> u8 {
    packet.tcp_flags as u8
}

/// Whether this packet asks for a new connection.
#[inline(always)]
pub fn opens(packet: &Packet) -> bool {
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
    // A repeated SYN proves nothing.
    if flags(packet) & SYN != 0 { state } else { FlowState::Established }
}
