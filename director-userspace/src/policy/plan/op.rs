//! The steps of a plan.
//!
//! Each step leaves maps that are right for packets, and a plan may stop after any of them: the next
//! one finds out what is missing. That is what their order is for: a backend is there before a ring
//! names it, a ring before a service shows it, and what goes is first no longer pointed at.

use std::{fmt, net::IpAddr};

use director_common::{
    backend::{BackendRef, BackendState, NextHop},
    flow::Family,
    flow::Protocol,
    service::{PRESENCE, ServiceKey, WhenEmpty},
};

use super::BackendSpec;
pub use crate::policy::scheduler::Member;
use crate::policy::scheduler::Scheduler;

/// What becomes of the entry that services of one address and protocol share, when one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It names another service.
    Keep,
    /// It named this one, and shall name the service in this slot.
    Move(u32),
    /// This was the last one.
    Remove,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Removes a key that leads nowhere.
    RemoveStrayKey(ServiceKey),
    /// Empties a service's slot whose entry no version writes.
    ResetService {
        /// Its slot.
        slot: u32,
    },
    /// Empties a backend's slot whose entry no version writes, or whose address another process
    /// changed: its flows are scheduled anew, not sent on to a stranger.
    ResetBackend {
        /// Its slot and generation.
        reference: BackendRef,
    },
    /// Fills a service's slot; no packet finds it yet.
    AddService {
        /// A free slot.
        slot: u32,
        /// What identifies it.
        key: ServiceKey,
        /// Its name.
        name: String,
        /// Seconds that removed backends drain.
        drain_timeout_s: u64,
        /// How new flows are placed.
        scheduler: Scheduler,
        /// What new flows get until there is a ring.
        when_empty: WhenEmpty,
    },
    /// Changes what only userspace reads of a service.
    SetServiceMeta {
        /// Its slot.
        slot: u32,
        /// What identifies it.
        key: ServiceKey,
        /// Its name.
        name: String,
        /// Seconds that removed backends drain.
        drain_timeout_s: u64,
        /// How new flows are placed.
        scheduler: Scheduler,
    },
    /// Fills a backend's slot; no ring names it yet.
    AddBackend {
        /// A free slot, and its generation.
        reference: BackendRef,
        /// Its service.
        service: u32,
        /// How it should be.
        spec: BackendSpec,
    },
    /// Changes a backend in place, and ends its drain if it drains. Known flows follow.
    SetBackend {
        /// Its slot and generation.
        reference: BackendRef,
        /// Its service.
        service: u32,
        /// How it should be.
        spec: BackendSpec,
        /// Where the source of the outer header goes: the place not in use, if it changes.
        source_place: u8,
        /// Active, or down if it is and stays so.
        state: BackendState,
        /// What changes, for people.
        changes: String,
    },
    /// Builds a ring where no packet reads and makes it the service's.
    SetRing {
        /// The service.
        service: u32,
        /// What identifies it.
        key: ServiceKey,
        /// Its name.
        name: String,
        /// A free ring; `None` if no backend takes new flows.
        ring: Option<u32>,
        /// What places new flows.
        scheduler: Scheduler,
        /// The backends that get new flows.
        members: Vec<Member>,
        /// What new flows get if there are no members.
        when_empty: WhenEmpty,
    },
    /// Lets packets find a service.
    ShowService {
        /// Its slot.
        slot: u32,
        /// What identifies it.
        key: ServiceKey,
    },
    /// Lets a removed backend's known flows run out.
    DrainBackend {
        /// Its slot and generation.
        reference: BackendRef,
        /// Its address, for people.
        address: IpAddr,
        /// When its flows are given up: CLOCK_MONOTONIC, nanoseconds.
        deadline_ns: u64,
    },
    /// Gives up a backend's flows: they are scheduled anew. No ring names it any more.
    StopBackend {
        /// Its slot and generation.
        reference: BackendRef,
        /// Its address, for people.
        address: IpAddr,
    },
    /// Follows the next hop of a backend that drains.
    MoveBackend {
        /// Its slot and generation.
        reference: BackendRef,
        /// Its address, for people.
        address: IpAddr,
        /// Where its packets leave now, and to whom.
        next_hop: NextHop,
        /// Bytes of IP packet that fit; 0: unknown.
        mtu: u16,
        /// What differs, in words.
        changes: String,
    },
    /// Gives up a backend's flows and frees its slot.
    FreeBackend {
        /// Its slot and generation.
        reference: BackendRef,
        /// Its service.
        service: u32,
        /// Its address, for people.
        address: IpAddr,
    },
    /// Makes packets find a service no longer.
    HideService {
        /// Its slot.
        slot: u32,
        /// What identifies it.
        key: ServiceKey,
        /// Its name, for people.
        name: String,
        /// What becomes of the shared entry.
        presence: Presence,
    },
    /// Frees a service's slot and its ring.
    RemoveService {
        /// Its slot.
        slot: u32,
    },
}

/// Steps in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done first to last.
    pub ops: Vec<Op>,
}

impl Plan {
    /// Whether everything is as it should be.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The first steps, at most so many, and how many more there are: for a log.
    pub fn brief(&self, most: usize) -> String {
        let shown = self.ops.iter().take(most).map(ToString::to_string);
        let mut lines: Vec<String> = shown.collect();
        match self.ops.len().saturating_sub(most) {
            0 => {}
            1 => lines.push("and 1 step more".to_owned()),
            more => lines.push(format!("and {more} steps more")),
        }
        lines.join("\n")
    }
}

/// What a ring is built from, as one number that is never 0: two rings with the same fingerprint
/// are the same.
pub fn ring_fingerprint(scheduler: Scheduler, members: &[Member], when_empty: WhenEmpty) -> u64 {
    let mut sorted: Vec<_> = members.to_vec();
    sorted.sort_by_key(|member| member.address);
    // FNV-1a over 64-bit words.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut mix =
        |word: u64| hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    mix(u64::from(scheduler as u8) << 8 | when_empty as u64);
    for member in sorted {
        let address = director_common::address::Address::from(member.address);
        mix(address.first);
        mix(address.second);
        mix(u64::from(member.reference.0) << 16 | u64::from(member.weight));
    }
    hash | 1
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing to change");
        }
        for (index, op) in self.ops.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{op}")?;
        }
        Ok(())
    }
}

/// A key as people write it: `tcp 192.0.2.10:443`, `udp [2001:db8::1]:any`.
pub fn front(key: ServiceKey) -> String {
    Front(key).to_string()
}

struct Front(ServiceKey);

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.0;
        let family =
            if key.family & !PRESENCE == Family::V6 as u8 { Family::V6 } else { Family::V4 };
        let protocol = Protocol::from_number(key.protocol).map_or("protocol?", Protocol::as_str);
        match key.address.to_ip(family) {
            IpAddr::V4(address) => write!(f, "{protocol} {address}:")?,
            IpAddr::V6(address) => write!(f, "{protocol} [{address}]:")?,
        }
        match u16::from_be_bytes(key.port) {
            0 => f.write_str("any"),
            port => write!(f, "{port}"),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveStrayKey(key) => write!(f, "- stray entry {}", Front(*key)),
            Self::ResetService { slot } => write!(f, "- damaged entry {slot} of services"),
            Self::ResetBackend { reference } => {
                write!(f, "- damaged entry {} of backends", reference.slot())
            }
            Self::AddService { key, name, .. } => write!(f, "+ service {name} ({})", Front(*key)),
            Self::SetServiceMeta { key, name, drain_timeout_s, scheduler, .. } => {
                write!(f, "~ service {name} ({}): drain_timeout {drain_timeout_s}s", Front(*key))?;
                if *scheduler == Scheduler::DEFAULT { Ok(()) } else { write!(f, ", {scheduler}") }
            }
            Self::AddBackend { spec, .. } => {
                write!(f, "+   backend {} weight {}", spec.address, spec.weight)
            }
            Self::SetBackend { spec, changes, .. } => {
                write!(f, "~   backend {}: {changes}", spec.address)
            }
            Self::SetRing { key, name, members, .. } => {
                let members = members.len();
                let s = if members == 1 { "" } else { "s" };
                write!(f, "~ service {name} ({}): ring over {members} backend{s}", Front(*key))
            }
            Self::ShowService { key, .. } => {
                write!(f, "+ service at {} takes packets", Front(*key))
            }
            Self::DrainBackend { address, .. } => write!(f, "-   backend {address} drains"),
            Self::StopBackend { address, .. } => {
                write!(f, "~   backend {address}: down, its flows go elsewhere")
            }
            Self::MoveBackend { address, changes, .. } => {
                write!(f, "~   backend {address}: {changes}")
            }
            Self::FreeBackend { address, .. } => write!(f, "-   backend {address}"),
            Self::HideService { key, name, .. } => write!(f, "- service {name} ({})", Front(*key)),
            Self::RemoveService { .. } => f.write_str("-   its ring"),
        }
    }
}
