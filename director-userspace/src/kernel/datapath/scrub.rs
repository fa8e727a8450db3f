//! Finds and undoes what other processes wrote into the maps.
//!
//! The process that changes a director keeps what it wrote ([`Tables::keep_written`]), and never
//! reads back what it should find. A scrub compares that copy with the maps, word by word, and writes
//! back what differs, in place: no service, backend or flow is given up. Rings are too large for a
//! copy (256 KiB each); of those a hash is kept, and one that differs is built again and written over
//! the damaged one. Rings of adopted maps are built again once, on another thread, for their hashes.
//!
//! Each step is short, and continues where the last one ended: see [`SCRUB_BUDGET`].

mod adopted;
mod names;

use std::{
    collections::{HashMap, HashSet},
    mem::offset_of,
    net::IpAddr,
    time::{Duration, Instant},
};

use director_common::{
    backend::{Backend, BackendRef, BackendState, BackendWord},
    flow::Family,
    service::{RING_SLOTS, VIP_FILTER_WORDS},
    trace::TRACE_LEASE_NS,
    tunables::{HEARTBEAT_STALE_NS, Tunables},
};

use self::adopted::AdoptedRings;
use super::{
    Datapath, Tables, clock_ns,
    keys::KeyCursor,
    rings::{self, RingBuilder},
};
use crate::policy::{
    plan::{ObservedRing, front},
    scheduler::{Member, Scheduler},
};

/// How long a step may take: a twentieth of the daemon's heartbeat, which it precedes. Small maps are
/// compared whole in a fraction of it.
pub const SCRUB_BUDGET: Duration = Duration::from_millis(25);
/// Values compared between two looks at the clock.
const RUN: u32 = 4096;
/// Rings that each step compares, also on a machine that is so busy that time is up before.
const LEAST_RINGS: u32 = 8;
/// In so many steps all rings are compared, however many there are: in seven seconds, with two steps
/// a second. 12,000 rings are 3 GB, of which a step reads 220 MB then.
const STEPS_OF_A_PASS: u32 = 14;

/// What the last steps compared, and where the next one continues.
#[derive(Debug, Default)]
pub struct Scrub {
    backends: u32,
    keys: KeyCursor,
    /// The service slot whose ring is next.
    rings: u32,
    /// Rings that this pass has compared, and how many the last one had.
    compared: u32,
    rings_there: u32,
    /// Rings of this pass whose contents are not known yet.
    unknown: u32,
    adopted: AdoptedRings,
    passes: Passes,
}

/// How often each part was compared whole.
#[derive(Clone, Copy, Debug, Default)]
struct Passes {
    backends: u64,
    keys: u64,
    rings: u64,
}

impl Datapath {
    /// Takes a step of `scrub`; returns what was repaired, for the operator.
    pub fn scrub(&mut self, scrub: &mut Scrub) -> Vec<String> {
        scrub.step(&mut self.tables, SCRUB_BUDGET)
    }
}

impl Scrub {
    /// How often everything was compared; adopted rings count once they are known.
    pub fn passes(&self) -> u64 {
        self.passes.backends.min(self.passes.keys).min(self.passes.rings)
    }

    /// Compares for about as long as `budget`, and writes back what differs; returns what was
    /// repaired.
    pub fn step(&mut self, tables: &mut Tables, budget: Duration) -> Vec<String> {
        let began = Instant::now();
        let mut found = Vec::new();
        self.arrays(tables, began + budget / 2, &mut found);
        for index in tables.tx_ports.restore() {
            found.push(format!("the interface with index {index} as an egress port"));
        }
        let until = Instant::now() + budget / 5;
        if tables.keys.restore(&mut self.keys, until, |key| found.push(names::key(key))) {
            self.passes.keys += 1;
        }
        // What comes before may take long on a busy machine; rings get their share all the same.
        let until = (began + budget).max(Instant::now() + budget * 3 / 5);
        self.rings(tables, until, &mut found);
        found
    }

    fn arrays(&mut self, tables: &Tables, until: Instant, found: &mut Vec<String>) {
        tables.meta.restore(0..1, |_, words| found.push(names::meta(words)));
        tunables(tables, found);
        let interfaces = 0..tables.interfaces.len();
        tables.interfaces.restore(interfaces, |slot, words| {
            found.push(names::interface(slot, words));
        });
        tables.vip_filter.restore(0..VIP_FILTER_WORDS, |word, _| {
            found.push(format!("word {word} of the filter of VIPs"));
        });
        // What names are taken from comes first; they are those that this process wrote.
        let services = 0..tables.services.len();
        tables.service_meta.restore(services.clone(), |slot, words| {
            found.push(names::service_meta(tables, slot, words));
        });
        tables.services.restore(services, |slot, words| {
            found.push(names::service(tables, slot, words));
        });
        let count = tables.capacity().backends;
        for _ in 0..count.div_ceil(RUN) {
            let run = self.backends..count.min(self.backends + RUN);
            tables.backend_meta.restore(run.clone(), |slot, words| {
                found.push(names::backend_meta(tables, slot, words));
            });
            tables.backends.restore(run.clone(), |slot, words| {
                found.push(names::backend(tables, slot, words));
            });
            self.backends = run.end;
            if run.end == count {
                self.backends = 0;
                self.passes.backends += 1;
            }
            if Instant::now() >= until {
                break;
            }
        }
    }

    /// Compares rings with their hashes.
    fn rings(&mut self, tables: &mut Tables, until: Instant, found: &mut Vec<String>) {
        self.adopted.learn(tables);
        let count = tables.services.len();
        let least = LEAST_RINGS.max(self.rings_there.div_ceil(STEPS_OF_A_PASS));
        let (mut damaged, mut compared) = (Vec::new(), 0);
        for _ in 0..count {
            let slot = self.rings;
            if let Some(ring) = ring_of(tables, slot) {
                compared += 1;
                self.compared += 1;
                match tables.ring_sums.of(ring) {
                    Some(sum) if sum != rings::present_sum(&tables.rings, ring) => {
                        damaged.push(slot);
                    }
                    Some(_) => {}
                    None => self.unknown += 1,
                }
            }
            self.rings = slot + 1;
            if self.rings == count {
                if self.unknown == 0 {
                    self.passes.rings += 1;
                } else {
                    self.adopted.begin(tables);
                }
                self.rings_there = self.compared;
                (self.rings, self.unknown, self.compared) = (0, 0, 0);
            }
            if compared >= least && Instant::now() >= until {
                break;
            }
        }
        let members = members_of(tables, &damaged.iter().copied().collect());
        let mut builder = RingBuilder::default();
        for slot in damaged {
            let (Some(ring), Some(scheduler)) = (ring_of(tables, slot), scheduler_of(tables, slot))
            else {
                continue;
            };
            let built = builder.build(scheduler, members.get(&slot).map_or(&[], Vec::as_slice));
            if tables.ring_sums.of(ring) == Some(rings::sum_of(built)) {
                let slots = rings::restore(&tables.rings, ring, built);
                let name = names::of_service(tables, slot);
                found.push(format!("ring of {name}: up to {slots} of its {RING_SLOTS} slots"));
            }
        }
    }
}

/// The words of TUNABLES that the daemon writes, and a trace without end, which no process began.
fn tunables(tables: &Tables, found: &mut Vec<String>) {
    let words = [
        (offset_of!(Tunables, simulated_ns), "unused bits of the tunables"),
        (offset_of!(Tunables, tcp_ticks), "flow timeouts"),
        (offset_of!(Tunables, udp_ticks), "flow timeouts"),
        (offset_of!(Tunables, _more), "unused bits of the tunables"),
        (offset_of!(Tunables, _more) + 8, "unused bits of the tunables"),
    ];
    // The heartbeat is written by another thread of this process, twice as often as this is called:
    // only one of the future, which programs would trust for long, is not its own.
    let at = offset_of!(Tunables, heartbeat_ns);
    if tables.tunables.present(0, at / 8) > clock_ns() + HEARTBEAT_STALE_NS {
        tables.tunables.publish(0, at, 0);
        found.push("heartbeat".to_owned());
    }
    for (at, name) in words {
        if tables.tunables.restore_word(0, at / 8) {
            found.push(name.to_owned());
        }
    }
    let at = offset_of!(Tunables, trace_until_ns);
    let trace_until = tables.tunables.present(0, at / 8);
    if trace_until > clock_ns().saturating_add(2 * TRACE_LEASE_NS) && tables.tunables.is_kept() {
        tables.tunables.publish(0, at, 0);
        found.push("end of a trace".to_owned());
    }
}

/// The ring of the service in a slot, if it has one.
fn ring_of(tables: &Tables, slot: u32) -> Option<u32> {
    let word = tables.services.get(slot).word;
    match ObservedRing::of(word, tables.capacity()) {
        ObservedRing::Whole(ring) if word.in_use() => Some(ring),
        ObservedRing::Whole(_) | ObservedRing::None | ObservedRing::Damaged(_) => None,
    }
}

fn scheduler_of(tables: &Tables, slot: u32) -> Option<Scheduler> {
    Scheduler::from_number(tables.service_meta.get(slot).scheduler)
}

/// The backends that the rings of these services are built over, by service slot.
fn members_of(tables: &Tables, services: &HashSet<u32>) -> HashMap<u32, Vec<Member>> {
    let mut members: HashMap<u32, Vec<Member>> = HashMap::new();
    if services.is_empty() {
        return members;
    }
    for slot in 1..tables.capacity().backends {
        let word = BackendWord(tables.backends.load(slot, offset_of!(Backend, word)));
        let fields = word.unpack();
        let service = u32::from(fields.service);
        if fields.state != BackendState::Active || !services.contains(&service) {
            continue;
        }
        let weight = tables.backend_meta.get(slot).weight as u16;
        if weight > 0 {
            let reference = BackendRef::new(slot, fields.generation);
            let address: IpAddr = address_of(tables, slot, fields.is_v6);
            members.entry(service).or_default().push(Member { reference, address, weight });
        }
    }
    members
}

fn address_of(tables: &Tables, slot: u32, is_v6: bool) -> IpAddr {
    let family = if is_v6 { Family::V6 } else { Family::V4 };
    tables.backends.get(slot).address.to_ip(family)
}
