//! The interfaces: which are there, what is attached to them, and which fail.
//!
//! An interface that is missing, or that the program cannot be attached to, is a warning of its
//! own: the others are followed, and it is tried again with growing waits, and whenever it changes.

use std::collections::BTreeMap;

use tokio::time::Instant;
use tracing::info;

use super::backoff::Backoff;
use crate::kernel::{
    datapath::{AttachError, Attached, Attachments, Datapath, DatapathError, Loaded},
    host::HostError,
};

/// What is known of the configured interfaces.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// Those that are there, in the configuration's order.
    pub(super) present: Vec<Attached>,
    /// Their slots.
    pub(super) slots: Attachments,
    /// Why others are not.
    missing: Vec<Missing>,
    /// What the programs on them were loaded with, by name.
    loaded: BTreeMap<String, Loaded>,
    /// Those without a program, or with an outdated one.
    failing: BTreeMap<String, Failing>,
}

/// An interface that is not there.
#[derive(Debug)]
struct Missing {
    name: String,
    error: String,
}

/// An interface that the program could not be attached to.
#[derive(Debug)]
struct Failing {
    /// The program that was to be attached.
    wanted: Loaded,
    /// The program that it carried.
    program: Option<u32>,
    error: String,
    backoff: Backoff,
}

impl Interfaces {
    /// What was found on the host.
    pub(super) fn found(
        &mut self,
        present: Vec<Attached>,
        slots: Attachments,
        missing: &[HostError],
    ) {
        self.present = present;
        self.slots = slots;
        let missing = missing.iter().filter_map(|error| {
            let name = error.interface()?.to_owned();
            Some(Missing { name, error: error.to_string() })
        });
        self.missing = missing.collect();
        let is_present = |name: &String| self.present.iter().any(|i| i.name == *name);
        self.failing.retain(|name, _| is_present(name));
        self.loaded.retain(|name, _| is_present(name));
    }

    /// After [`Interfaces::found`]: an interface that does not carry one of `ours` any more is
    /// attached to again, and where another process's program came or went, the next attempt is due.
    pub(super) fn check_programs(&mut self, ours: &[u32]) {
        let has_ours = |name: &String| {
            let interface = self.present.iter().find(|interface| interface.name == *name);
            interface.and_then(|i| i.program).is_some_and(|program| ours.contains(&program))
        };
        self.loaded.retain(|name, _| has_ours(name));
        for interface in &self.present {
            if let Some(failing) = self.failing.get_mut(&interface.name)
                && failing.program != interface.program
            {
                failing.program = interface.program;
                failing.backoff = Backoff::due_now();
            }
        }
    }

    /// Interfaces that no link attaches to any more, by the ids of `attached` programs, are attached
    /// to again: fewer programs than interfaces means that one was detached.
    pub(super) fn check_attached(&mut self, attached: &[u32]) {
        if attached.len() < self.loaded.len() {
            self.loaded.clear();
        }
    }

    /// Whether an error is about an interface that is known to be missing.
    pub(super) fn is_missing(&self, error: &HostError) -> bool {
        self.missing.iter().any(|missing| error.interface() == Some(&missing.name))
    }

    /// Whether the program cannot be attached to an interface already now.
    pub(super) fn is_failing(&self, interface: &Attached) -> bool {
        self.failing.contains_key(&interface.name)
    }

    /// Interfaces of `all` whose program is not the one that they are to have.
    pub(super) fn differing<'a>(
        &self,
        datapath: &Datapath,
        all: &'a [Attached],
        attachments: &Attachments,
    ) -> Vec<&'a Attached> {
        let differs = |interface: &&Attached| {
            let wanted = datapath.loaded_for(interface, attachments);
            self.loaded.get(&interface.name) != Some(&wanted)
        };
        all.iter().filter(differs).collect()
    }

    /// Records a round of attaching `interfaces`: all that are not among `errors` succeeded.
    pub(super) fn record(
        &mut self,
        datapath: &Datapath,
        interfaces: &[&Attached],
        attachments: &Attachments,
        errors: Vec<AttachError>,
    ) {
        let mut errors: BTreeMap<String, DatapathError> =
            errors.into_iter().map(|failed| (failed.interface, failed.error)).collect();
        for interface in interfaces {
            let name = &interface.name;
            let wanted = datapath.loaded_for(interface, attachments);
            let Some(error) = errors.remove(name) else {
                self.loaded.insert(name.clone(), wanted);
                if self.failing.remove(name).is_some() {
                    info!("attached to {name} at last");
                }
                continue;
            };
            self.loaded.remove(name);
            let error = error.to_string();
            let before = self.failing.remove(name);
            let before = before.filter(|before| before.wanted == wanted);
            let backoff = before.map_or_else(Backoff::new, |before| before.backoff.again());
            let program = interface.program;
            self.failing.insert(name.clone(), Failing { wanted, program, error, backoff });
        }
    }

    /// The next interface to attach to, of those that are due.
    pub(super) fn next<'a>(
        &'a self,
        datapath: &Datapath,
        attachments: &Attachments,
    ) -> Option<&'a Attached> {
        let now = Instant::now();
        let mut differing =
            self.differing(datapath, &self.present, attachments).into_iter().filter(|interface| {
                self.failing.get(&interface.name).is_none_or(|failing| {
                    failing.backoff.at() <= now
                        || failing.wanted != datapath.loaded_for(interface, attachments)
                })
            });
        differing.next()
    }

    /// The programs are to be attached again.
    pub(super) fn forget_loaded(&mut self) {
        self.loaded.clear();
    }

    /// When an interface that failed is tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.failing.values().map(|failing| failing.backoff.at()).min()
    }

    /// What is wrong, in words.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let missing = self.missing.iter().map(|missing| {
            format!("{}; the others are served, and it is attached to when it comes", missing.error)
        });
        let failing = self.failing.values().map(|failing| {
            format!("{}; the others are not affected, and this is tried again", failing.error)
        });
        missing.chain(failing)
    }
}
