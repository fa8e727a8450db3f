//! Configurations that were in effect: their texts, in the state directory.

use std::{
    env, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::whole_file::write_whole;
use crate::{
    kernel::datapath::Instance,
    policy::config::{Config, MAX_BYTES},
    serve::api::types::Revision,
};

/// Number of revisions that are kept.
const KEPT: usize = 20;

/// A higher number was not assigned by a daemon: it is damage, and has no next one.
const LAST_NUMBER: u64 = u32::MAX as u64;

/// Directory of an instance's state that outlives a boot: `STATE_DIRECTORY`, which systemd sets, or
/// `/var/lib/director`, and its name.
pub(super) fn state_directory(instance: &Instance) -> PathBuf {
    let base = env::var_os("STATE_DIRECTORY").map_or("/var/lib/director".into(), PathBuf::from);
    base.join(instance.name())
}

/// The texts, and an index of them.
#[derive(Debug)]
pub(super) struct History {
    directory: PathBuf,
    index: Index,
    /// The text in effect, also if it could not be written.
    current: String,
    /// The highest revision number that was ever assigned, as far as that is known.
    last: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    revisions: Vec<Revision>,
}

/// Refuses an index that no daemon has written.
fn sane(index: Index) -> io::Result<Index> {
    match index.revisions.iter().find(|kept| kept.revision > LAST_NUMBER) {
        None => Ok(index),
        Some(kept) => Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("a revision has the number {}, which is damage", kept.revision),
        )),
    }
}

impl History {
    /// Reads the history of earlier processes. An unreadable one does not prevent a start: the
    /// error comes with an empty history.
    pub(super) fn open(directory: &Path) -> (Self, Option<io::Error>) {
        let directory = directory.join("history");
        let (index, error) = match fs::read(directory.join("index.json")) {
            Ok(text) => match serde_json::from_slice(&text).map_err(io::Error::from).and_then(sane)
            {
                Ok(index) => (index, None),
                Err(error) => (Index::default(), Some(error)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => (Index::default(), None),
            Err(error) => (Index::default(), Some(error)),
        };
        let mut history = Self { directory, index, current: String::new(), last: 0 };
        // Numbers are assigned once, even if the index is lost.
        history.last = history.numbers_on_disk().max().unwrap_or(0).max(history.revision());
        (history, error)
    }

    fn numbers_on_disk(&self) -> impl Iterator<Item = u64> {
        let files = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        files.filter_map(|file| {
            let number = file.file_name().to_str()?.strip_suffix(".yaml")?.parse::<u64>().ok()?;
            (number <= LAST_NUMBER).then_some(number)
        })
    }

    /// Number of the configuration in effect; 0 before the first.
    pub(super) fn revision(&self) -> u64 {
        self.index.revisions.last().map_or(0, |last| last.revision)
    }

    /// When it was applied, seconds since 1970.
    pub(super) fn applied(&self) -> u64 {
        self.index.revisions.last().map_or(0, |last| last.at)
    }

    /// Its text.
    pub(super) fn current(&self) -> &str {
        &self.current
    }

    /// All that are kept, the newest last.
    pub(super) fn revisions(&self) -> &[Revision] {
        &self.index.revisions
    }

    /// Adds the configuration in effect. Its number is assigned even if it cannot be written.
    ///
    /// # Errors
    ///
    /// If it cannot be written: then it cannot be rolled back to after the next.
    pub(super) fn add(
        &mut self,
        text: String,
        config: &Config,
        by: &str,
        at: u64,
    ) -> io::Result<()> {
        let is_same =
            self.revision() > 0 && self.text(self.revision()).is_ok_and(|last| last == text);
        self.current = text;
        if is_same {
            return Ok(());
        }
        let revision = self.last + 1;
        self.last = revision;
        self.index.revisions.push(Revision {
            revision,
            at,
            by: by.to_owned(),
            services: config.services.len(),
            backends: config.services.iter().map(|service| service.backends.len()).sum(),
        });
        let written = write_whole(&self.path(revision), self.current.as_bytes());
        let excess = self.index.revisions.len().saturating_sub(KEPT);
        for oldest in self.index.revisions.drain(..excess).collect::<Vec<_>>() {
            let _ = fs::remove_file(self.path(oldest.revision));
        }
        // Also if the text could not be written: its number is assigned.
        let index = serde_json::to_vec_pretty(&self.index)?;
        let indexed = write_whole(&self.directory.join("index.json"), &index);
        written.and(indexed)
    }

    /// The text of a revision.
    ///
    /// # Errors
    ///
    /// If it is not kept, or cannot be read.
    pub(super) fn text(&self, revision: u64) -> io::Result<String> {
        if !self.index.revisions.iter().any(|kept| kept.revision == revision) {
            let kept: Vec<_> =
                self.index.revisions.iter().map(|kept| kept.revision.to_string()).collect();
            let message = format!("there is no revision {revision}; kept: {}", kept.join(", "));
            return Err(io::Error::new(ErrorKind::NotFound, message));
        }
        let path = self.path(revision);
        if fs::metadata(&path)?.len() > MAX_BYTES as u64 {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "longer than a configuration may be",
            ));
        }
        fs::read_to_string(path)
    }

    /// The last revision whose text differs from the one in effect.
    pub(super) fn last_other(&self) -> Option<u64> {
        let numbers = self.index.revisions.iter().rev().map(|kept| kept.revision);
        numbers.skip(1).find(|n| self.text(*n).is_ok_and(|text| text != self.current))
    }

    fn path(&self, revision: u64) -> PathBuf {
        self.directory.join(format!("{revision:06}.yaml"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_numbers_are_assigned_once_even_if_the_index_is_lost() {
        let directory = env::temp_dir().join(format!("director-history-{}", std::process::id()));
        let yaml = "services: [{name: web, address: 192.0.2.1, protocol: tcp, port: 80, forward: \
                    tunnel, backends: [{address: 10.0.0.1}]}]";
        let config = crate::policy::config::parse("test", yaml).expect("valid").config;
        let (mut history, error) = History::open(&directory);
        assert!(error.is_none());
        for number in 1..=KEPT as u64 + 3 {
            history.add(format!("# {number}"), &config, "test", 1).expect("written");
            assert_eq!(history.revision(), number);
        }
        assert_eq!(history.revisions().len(), KEPT);
        assert!(history.text(3).is_err() && history.text(4).is_ok());

        fs::write(directory.join("history/index.json"), "{").expect("written");
        let (mut history, error) = History::open(&directory);
        assert!(error.is_some() && history.revisions().is_empty());
        history.add("# next".to_owned(), &config, "test", 1).expect("written");
        assert_eq!(history.revision(), KEPT as u64 + 4);

        // Numbers that no daemon has assigned, in the index and of a file.
        let damaged = r#"{"revisions":[{"revision":18446744073709551615,"at":0,"by":"","services":0,"backends":0}]}"#;
        fs::write(directory.join("history/index.json"), damaged).expect("written");
        fs::write(directory.join("history/18446744073709551615.yaml"), "").expect("written");
        let (mut history, error) = History::open(&directory);
        assert!(error.is_some() && history.revisions().is_empty());
        history.add("# after damage".to_owned(), &config, "test", 1).expect("written");
        assert_eq!(history.revision(), KEPT as u64 + 5);

        // The limit also holds if nothing can be written.
        fs::remove_dir_all(&directory).expect("removed");
        fs::write(&directory, "in the way").expect("written");
        for number in 0..2 * KEPT {
            history.add(format!("# lost {number}"), &config, "test", 1).expect_err("in the way");
        }
        assert_eq!(history.revisions().len(), KEPT);
        fs::remove_file(&directory).expect("removed");
    }
}
