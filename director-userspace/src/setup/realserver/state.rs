//! What `director realserver` changed on this host, so that it can be reverted exactly.
//!
//! A change is recorded before its step, and leaves the record after the step that reverts it: a
//! crash at any moment loses no change.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Decap, RealServerError, Step};
use crate::kernel::private_file;

/// Changes when the file's meaning changes.
const VERSION: u32 = 1;

/// The state file's contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Sysctls and addresses do not outlive a boot; a file of another boot is void.
    boot: String,
    /// Settings changed, in the order of their first change.
    pub(super) sysctls: Vec<ChangedSysctl>,
    /// VIPs added to the loopback interface.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The decapsulation program attached.
    pub(super) decap: Option<Decap>,
}

/// A setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChangedSysctl {
    /// Below /proc/sys, with slashes.
    pub(super) key: String,
    /// The value before the first change.
    pub(super) original: String,
    /// The value that was written last.
    pub(super) ours: String,
}

impl State {
    pub(super) fn new(boot: &str) -> Self {
        Self {
            version: VERSION,
            boot: boot.to_owned(),
            sysctls: Vec::new(),
            addresses: BTreeSet::new(),
            decap: None,
        }
    }

    /// Whether there is nothing to revert.
    pub(super) fn is_empty(&self) -> bool {
        self.sysctls.is_empty() && self.addresses.is_empty() && self.decap.is_none()
    }

    /// The state when the step may have begun: its effect is on record.
    pub(super) fn before(&mut self, step: &Step) {
        match step {
            Step::SetSysctl { key, from, to } => {
                match self.sysctls.iter_mut().find(|changed| changed.key == *key) {
                    Some(changed) => changed.ours.clone_from(to),
                    None => self.sysctls.push(ChangedSysctl {
                        key: key.clone(),
                        original: from.clone(),
                        ours: to.clone(),
                    }),
                }
            }
            Step::AddAddress { vip } => {
                self.addresses.insert(*vip);
            }
            Step::AttachDecap(decap) | Step::ReplaceDecap { to: decap, .. } => {
                self.decap = Some(decap.clone());
            }
            Step::RemoveAddress { .. } | Step::DetachDecap(_) => {}
        }
    }

    /// The state when the step is done: what it reverted is off the record.
    pub(super) fn after(&mut self, step: &Step) {
        match step {
            Step::SetSysctl { .. } => self.sysctls.retain(|c| c.original != c.ours),
            Step::RemoveAddress { vip } => {
                self.addresses.remove(vip);
            }
            Step::DetachDecap(_) => self.decap = None,
            Step::AddAddress { .. } | Step::AttachDecap(_) | Step::ReplaceDecap { .. } => {}
        }
    }
}

/// Where a [`State`] is kept.
#[derive(Debug, Clone)]
pub(super) struct StateFile {
    path: PathBuf,
    boot: String,
}

impl StateFile {
    pub(super) fn new(path: PathBuf) -> Result<Self, RealServerError> {
        let boot_id = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot_id).map_err(|source| RealServerError::StateFile {
            doing: "read",
            path: boot_id.to_owned(),
            source,
        })?;
        Ok(Self { path, boot: boot.trim().to_owned() })
    }

    /// What was changed since this boot.
    pub(super) fn load(&self) -> Result<State, RealServerError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(State::new(&self.boot));
            }
            Err(error) => return Err(self.failed("read", error)),
        };
        let state: State = serde_json::from_str(&text)
            .map_err(|error| self.failed("parse", io::Error::other(error)))?;
        if state.version != VERSION {
            let why = format!(
                "it has version {}, this director writes {VERSION}; \
                 take the real server down with the director that set it up",
                state.version
            );
            return Err(self.failed("use", io::Error::other(why)));
        }
        Ok(if state.boot == self.boot { state } else { State::new(&self.boot) })
    }

    /// Replaces the file atomically; removes it if there is nothing to revert.
    pub(super) fn save(&self, state: &State) -> Result<(), RealServerError> {
        if state.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(self.failed("remove", error))
                }
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec_pretty(state)
            .map_err(|error| self.failed("write", io::Error::other(error)))?;
        let written = || {
            // Beside it may be an instance's socket, which a group may reach.
            self.path.parent().map_or(Ok(()), private_file::create_passable_directory)?;
            private_file::replace(&self.path, &text)
        };
        written().map_err(|error| self.failed("write", error))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> RealServerError {
        RealServerError::StateFile { doing, path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(from: &str, to: &str) -> Step {
        Step::SetSysctl {
            key: "net/ipv4/conf/all/arp_ignore".into(),
            from: from.into(),
            to: to.into(),
        }
    }

    #[test]
    fn the_first_value_found_is_the_one_to_restore() {
        let mut state = State::new("boot");
        for step in [set("0", "1"), set("1", "2")] {
            state.before(&step);
            state.after(&step);
        }
        assert_eq!(state.sysctls[0].original, "0");
        assert_eq!(state.sysctls[0].ours, "2");
        let back = set("2", "0");
        state.before(&back);
        assert!(!state.is_empty(), "it is on record until it is done");
        state.after(&back);
        assert!(state.is_empty());
    }

    #[test]
    fn an_address_is_on_record_before_it_is_added_and_until_it_is_removed() {
        let mut state = State::new("boot");
        let add = Step::AddAddress { vip: "192.0.2.1".parse().expect("an address") };
        state.before(&add);
        assert!(!state.is_empty());
        state.after(&add);
        state.before(&add.inverse());
        assert!(!state.is_empty());
        state.after(&add.inverse());
        assert!(state.is_empty());
    }

    #[test]
    fn a_file_of_another_boot_is_void_and_a_broken_one_is_an_error() {
        let path = std::env::temp_dir().join(format!("director-state-{}.json", std::process::id()));
        let file = StateFile { path: path.clone(), boot: "this".into() };
        let mut state = State::new("this");
        state.before(&set("0", "1"));
        file.save(&state).expect("writable");
        assert_eq!(file.load().expect("readable"), state);
        let later = StateFile { path: path.clone(), boot: "next".into() };
        assert!(later.load().expect("readable").is_empty());
        fs::write(&path, "{").expect("writable");
        assert!(file.load().is_err());
        file.save(&State::new("this")).expect("removable");
        assert!(!path.exists());
    }
}
