//! Hashes of the rings that an earlier process built: they are built again, on a thread of its own.

use std::{
    sync::mpsc::{Receiver, channel},
    thread,
};

use super::{
    Member, RingBuilder, Scheduler, Tables, members_of, ring_of, rings::sum_of, scheduler_of,
};
use crate::policy::{config::model::WhenEmpty, plan::ring_fingerprint};

/// The least share of a CPU that the kernel gives: forwarding and the daemon come first.
const NICE: libc::c_int = 19;

/// Rings that are being built again.
#[derive(Debug, Default)]
pub(super) struct AdoptedRings(Option<Receiver<Known>>);

/// What the ring of a service must hold.
#[derive(Clone, Copy, Debug)]
struct Known {
    service: u32,
    ring: u32,
    fingerprint: u64,
    sum: u64,
}

/// A ring to build.
struct Job {
    service: u32,
    ring: u32,
    fingerprint: u64,
    scheduler: Scheduler,
    members: Vec<Member>,
}

impl AdoptedRings {
    /// Begins to build all rings whose contents are unknown, unless that goes on already.
    pub(super) fn begin(&mut self, tables: &Tables) {
        if self.0.is_some() {
            return;
        }
        let unknown = (0..tables.services.len()).filter(|slot| {
            ring_of(tables, *slot).is_some_and(|ring| tables.ring_sums.of(ring).is_none())
        });
        let mut members = members_of(tables, &unknown.collect());
        let mut jobs: Vec<Job> = Vec::with_capacity(members.len());
        for (service, members) in members.drain() {
            let (Some(ring), Some(scheduler)) =
                (ring_of(tables, service), scheduler_of(tables, service))
            else {
                continue;
            };
            let there = tables.services.get(service);
            let when_empty: WhenEmpty = there.word.when_empty();
            let fingerprint = ring_fingerprint(scheduler, &members, when_empty);
            // A change stopped before this ring: the next one builds it.
            if fingerprint == there.ring_fingerprint {
                jobs.push(Job { service, ring, fingerprint, scheduler, members });
            }
        }
        if jobs.is_empty() {
            return;
        }
        let (sender, receiver) = channel();
        let work = move || {
            // SAFETY: a system call without pointers, about this thread (0) only. It may be refused.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
            let mut builder = RingBuilder::default();
            for Job { service, ring, fingerprint, scheduler, members } in jobs {
                let sum = sum_of(builder.build(scheduler, &members));
                if sender.send(Known { service, ring, fingerprint, sum }).is_err() {
                    // The scrub has ended.
                    return;
                }
            }
        };
        if thread::Builder::new().name("rings".into()).spawn(work).is_ok() {
            self.0 = Some(receiver);
        }
    }

    /// Takes what was built by now.
    pub(super) fn learn(&mut self, tables: &mut Tables) {
        let Some(known) = &self.0 else { return };
        loop {
            match known.try_recv() {
                // A change may have replaced the ring, and built another in its place.
                Ok(Known { service, ring, fingerprint, sum }) => {
                    if ring_of(tables, service) == Some(ring)
                        && tables.services.get(service).ring_fingerprint == fingerprint
                        && tables.ring_sums.of(ring).is_none()
                    {
                        tables.ring_sums.set([(ring, sum)]);
                    }
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    self.0 = None;
                    return;
                }
            }
        }
    }
}
