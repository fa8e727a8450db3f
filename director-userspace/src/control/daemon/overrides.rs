//! All admin overrides, on disk: they outlive reloads and restarts.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{kernel::private_file, policy::health_policy::Override};

/// All admin overrides, by service (its front: `tcp 192.0.2.10:443`) and backend.
#[derive(Debug)]
pub(super) struct Overrides {
    path: PathBuf,
    boot: String,
    all: BTreeMap<String, BTreeMap<IpAddr, Override>>,
}

/// The file.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    version: u32,
    /// The kernel's boot id, for `deadline_ns`.
    boot: String,
    overrides: BTreeMap<String, BTreeMap<IpAddr, Override>>,
}

/// The version of [`Stored`].
const VERSION: u32 = 1;

impl Overrides {
    /// Reads the file that an earlier process left at `path`, if there is one.
    ///
    /// # Errors
    ///
    /// If the file is there and cannot be read or parsed.
    pub(super) fn load(path: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim().to_owned();
        let mut overrides = Self { path: path.to_path_buf(), boot, all: BTreeMap::new() };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(overrides),
            Err(error) => return Err(error),
        };
        let stored: Stored = serde_json::from_slice(&text)?;
        if stored.version != VERSION {
            let message = format!("has version {}, not {VERSION}", stored.version);
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        overrides.all = stored.overrides;
        if stored.boot != overrides.boot {
            let drains = overrides.all.values_mut().flat_map(BTreeMap::values_mut);
            // The clock restarted; the flows that were to be rescheduled are gone.
            drains.filter_map(|one| one.drain.as_mut()).for_each(|drain| drain.deadline_ns = None);
        }
        Ok(overrides)
    }

    /// The override of a backend.
    pub(super) fn of(&self, front: &str, backend: IpAddr) -> Override {
        self.all.get(front).and_then(|one| one.get(&backend)).cloned().unwrap_or_default()
    }

    /// The overrides of a service's backends, if there are any.
    pub(super) fn of_service(&self, front: &str) -> Option<&BTreeMap<IpAddr, Override>> {
        self.all.get(front)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Every backend with an override.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, IpAddr, &Override)> {
        self.all.iter().flat_map(|(front, backends)| {
            backends.iter().map(|(address, one)| (front.as_str(), *address, one))
        })
    }

    /// The overrides after `changes`, which are not in effect yet: first they are stored, so that
    /// nothing is in effect that a restart would lose.
    pub(super) fn changed(
        &self,
        changes: impl IntoIterator<Item = (String, IpAddr, Override)>,
    ) -> Unstored {
        let mut all = self.all.clone();
        for (front, backend, one) in changes {
            let backends = all.entry(front.clone()).or_default();
            if one.is_empty() {
                backends.remove(&backend);
            } else {
                backends.insert(backend, one);
            }
            if backends.is_empty() {
                all.remove(&front);
            }
        }
        let path = self.path.clone();
        Unstored(path, Stored { version: VERSION, boot: self.boot.clone(), overrides: all })
    }

    /// Brings stored overrides into effect.
    pub(super) fn replace(&mut self, stored: Stored) {
        self.all = stored.overrides;
    }
}

/// Overrides that are to be stored.
pub(super) struct Unstored(PathBuf, Stored);

impl Unstored {
    /// Stores them, on disk.
    ///
    /// # Errors
    ///
    /// If they cannot be stored; the file is as before then.
    pub(super) fn store(self) -> io::Result<Stored> {
        let Self(path, stored) = self;
        private_file::replace(&path, &serde_json::to_vec_pretty(&stored)?)?;
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::health_policy::Drain;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("director-overrides-{name}-{}", std::process::id()))
    }

    #[test]
    fn overrides_survive_a_restart() {
        let path = path("restart").join("state.json");
        let address: IpAddr = "10.0.0.11".parse().expect("an address");
        let front = "tcp 192.0.2.10:80";
        let weight_and_drain = Override {
            drain: Some(Drain { since: 1, deadline_ns: Some(2) }),
            weight: Some(7),
            since: 1,
        };
        let mut overrides = Overrides::load(&path).expect("nothing there yet");
        let set = |overrides: &mut Overrides, one: Override| {
            let stored = overrides.changed([(front.to_owned(), address, one)]).store();
            overrides.replace(stored.expect("written"));
        };
        set(&mut overrides, weight_and_drain.clone());
        let again = Overrides::load(&path).expect("read");
        assert_eq!(again.of(front, address), weight_and_drain);
        assert_eq!(again.iter().count(), 1);
        let mut other_boot = fs::read_to_string(&path).expect("there");
        other_boot = other_boot.replace(&again.boot, "another");
        fs::write(&path, other_boot).expect("written");
        let later = Overrides::load(&path).expect("read").of(front, address);
        assert_eq!(later.drain, Some(Drain { since: 1, deadline_ns: None }));
        set(&mut overrides, Override::default());
        assert_eq!(Overrides::load(&path).expect("read").iter().count(), 0);
        fs::remove_dir_all(path.parent().expect("has one")).expect("removed");
    }

    #[test]
    fn an_override_that_cannot_be_stored_is_an_error() {
        let directory = path("unwritable");
        fs::write(&directory, "a file").expect("written");
        let overrides = Overrides {
            path: directory.join("state.json"),
            boot: String::new(),
            all: BTreeMap::new(),
        };
        let address: IpAddr = "10.0.0.11".parse().expect("an address");
        let weight = Override { weight: Some(1), ..Override::default() };
        assert!(overrides.changed([("a".to_owned(), address, weight)]).store().is_err());
        assert_eq!(overrides.of("a", address), Override::default());
        fs::remove_file(directory).expect("removed");
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let path = path("broken");
        fs::write(&path, "{").expect("written");
        assert!(Overrides::load(&path).is_err());
        fs::remove_file(path).expect("removed");
    }
}
