//! Configurations that were in effect: their texts, in the state directory.

use std::{
    env, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    kernel::{datapath::Instance, private_file},
    policy::config::MAX_BYTES,
    serve::api::types::Revision,
};

/// The file of the last number, in the run directory.
pub(super) const LAST: &str = "revision";
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
#[derive(Debug, Default)]
pub(super) struct History {
    directory: PathBuf,
    /// Where the last number is recorded for the next process of this boot: the state directory may
    /// be full.
    last_at: PathBuf,
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

/// Why there is nothing to roll back to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRollback {
    /// The configuration in effect is the only one.
    #[error("there is no earlier configuration that differs from this one")]
    Nothing,
    /// A later one than `kept` is lost.
    #[error(
        "revision {lost} came before this one and was not kept ({why}). The last that was kept is \
         revision {kept}: `director rollback --to {kept}` restores it"
    )]
    Lost {
        /// The revision that rolling back would skip.
        lost: u64,
        /// Why it cannot be restored.
        why: String,
        /// The last revision before it that can be.
        kept: u64,
    },
    /// All of them are lost.
    #[error(
        "revision {lost} came before this one and was not kept ({why}), and none before it was"
    )]
    AllLost {
        /// The revision before.
        lost: u64,
        /// Why it cannot be restored.
        why: String,
    },
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
    /// error comes with an empty history. Revisions that an earlier process of this boot could not
    /// keep are known by the number that it left in `run_dir`.
    pub(super) fn open(directory: &Path, run_dir: &Path) -> (Self, Option<io::Error>) {
        let directory = directory.join("history");
        let tidied = private_file::tidy(&directory);
        let (index, error) = match fs::read(directory.join("index.json")) {
            Ok(text) => match serde_json::from_slice(&text).map_err(io::Error::from).and_then(sane)
            {
                Ok(index) => (index, None),
                Err(error) => (Index::default(), Some(error)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => (Index::default(), None),
            Err(error) => (Index::default(), Some(error)),
        };
        let last_at = run_dir.join(LAST);
        let mut history = Self { directory, last_at, index, current: String::new(), last: 0 };
        // Numbers are assigned once, even if the index is lost.
        history.last = history.numbers_on_disk().max().unwrap_or(0).max(history.revision());
        let assigned = fs::read_to_string(&history.last_at).ok();
        let assigned = assigned.and_then(|text| text.trim().parse::<u64>().ok());
        let assigned = assigned.filter(|number| *number <= LAST_NUMBER).unwrap_or(0);
        if assigned > history.last {
            let by = "unknown".to_owned();
            let lost = Revision { revision: assigned, by, lost: true, ..Revision::default() };
            history.index.revisions.push(lost);
            history.last = assigned;
        }
        (history, error.or(tidied.err()))
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
        services: usize,
        backends: usize,
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
        let written = private_file::replace(&self.path(revision), self.current.as_bytes());
        self.index.revisions.push(Revision {
            revision,
            at,
            by: by.to_owned(),
            services,
            backends,
            lost: written.is_err(),
        });
        let excess = self.index.revisions.len().saturating_sub(KEPT);
        for oldest in self.index.revisions.drain(..excess).collect::<Vec<_>>() {
            let _ = fs::remove_file(self.path(oldest.revision));
        }
        // Also if the text could not be written: its number is assigned.
        let index = serde_json::to_vec_pretty(&self.index)?;
        let indexed = private_file::replace(&self.directory.join("index.json"), &index);
        if let Some(run_dir) = self.last_at.parent() {
            // Optional: with it, the next process recognises what could not be kept.
            let _ = private_file::create_passable_directory(run_dir).and_then(|()| {
                private_file::replace(&self.last_at, revision.to_string().as_bytes())
            });
        }
        written.and(indexed)
    }

    /// The text of a revision.
    ///
    /// # Errors
    ///
    /// If it is not kept, or cannot be read.
    pub(super) fn text(&self, revision: u64) -> io::Result<String> {
        let known = self.index.revisions.iter().find(|known| known.revision == revision);
        let missing = |message: String| Err(io::Error::new(ErrorKind::NotFound, message));
        match known {
            Some(known) if known.lost => {
                return missing(format!("revision {revision} could not be written"));
            }
            Some(_) => {}
            None => {
                let kept = self.index.revisions.iter().filter(|known| !known.lost);
                let kept: Vec<_> = kept.map(|kept| kept.revision.to_string()).collect();
                let kept = kept.join(", ");
                return missing(format!("there is no revision {revision}; kept: {kept}"));
            }
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
    ///
    /// # Errors
    ///
    /// [`NoRollback`]; also if a later one might differ and is lost.
    pub(super) fn previous(&self) -> Result<u64, NoRollback> {
        let mut lost: Option<(u64, String)> = None;
        let mut above = self.revision();
        let differs = |text: &str| text != self.current;
        for known in self.index.revisions.iter().rev() {
            let number = known.revision;
            // Numbers without an entry were assigned by a process whose index is lost.
            if number + 1 < above && lost.is_none() {
                lost = Some((above - 1, "its record is lost".to_owned()));
            }
            above = number;
            if number == self.revision() {
                continue;
            }
            match (self.text(number), &lost) {
                (Ok(text), None) if differs(&text) => return Ok(number),
                (Ok(text), Some((lost, why))) if differs(&text) => {
                    let (lost, why) = (*lost, why.clone());
                    return Err(NoRollback::Lost { lost, why, kept: number });
                }
                (Ok(_), _) | (Err(_), Some(_)) => {}
                (Err(why), None) => lost = Some((number, why.to_string())),
            }
        }
        let all = lost.map(|(lost, why)| NoRollback::AllLost { lost, why });
        Err(all.unwrap_or(NoRollback::Nothing))
    }

    /// Where they are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
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
        let run_dir = directory.join("run");
        let (mut history, error) = History::open(&directory, &run_dir);
        assert!(error.is_none());
        for number in 1..=KEPT as u64 + 3 {
            history.add(format!("# {number}"), 1, 1, "test", 1).expect("written");
            assert_eq!(history.revision(), number);
        }
        assert_eq!(history.revisions().len(), KEPT);
        assert!(history.text(3).is_err() && history.text(4).is_ok());

        fs::write(directory.join("history/index.json"), "{").expect("written");
        let (mut history, error) = History::open(&directory, &run_dir);
        assert!(error.is_some() && history.revisions().is_empty());
        history.add("# next".to_owned(), 1, 1, "test", 1).expect("written");
        assert_eq!(history.revision(), KEPT as u64 + 4);

        // What was not kept is known, and nothing before it is restored in its place.
        history.add("# lost".to_owned(), 1, 1, "test", 1).expect("written");
        fs::remove_file(history.path(history.revision())).expect("removed");
        history.add("# now".to_owned(), 1, 1, "test", 1).expect("written");
        let (lost, kept) = (KEPT as u64 + 5, KEPT as u64 + 4);
        let refused = history.previous().expect_err("refused");
        assert!(
            matches!(refused, NoRollback::Lost { lost: l, kept: k, .. } if (l, k) == (lost, kept)),
            "{refused}"
        );
        // Also by the next process, whose index ends before it.
        fs::write(run_dir.join(LAST), (lost + 2).to_string()).expect("written");
        let (mut history, _) = History::open(&directory, &run_dir);
        history.add("# after a restart".to_owned(), 1, 1, "test", 1).expect("written");
        assert_eq!(history.revision(), lost + 3);
        let refused = history.previous().expect_err("refused");
        assert!(matches!(refused, NoRollback::Lost { lost: l, .. } if l == lost + 2), "{refused}");
        let last = lost + 3;
        // Numbers that no daemon has assigned, in the index and of a file.
        let damaged = r#"{"revisions":[{"revision":18446744073709551615,"at":0,"by":"","services":0,"backends":0}]}"#;
        fs::write(directory.join("history/index.json"), damaged).expect("written");
        fs::write(directory.join("history/18446744073709551615.yaml"), "").expect("written");
        let (mut history, error) = History::open(&directory, &run_dir);
        assert!(error.is_some() && history.revisions().is_empty());
        history.add("# after damage".to_owned(), 1, 1, "test", 1).expect("written");
        assert_eq!(history.revision(), last + 1);

        // The limit also holds if nothing can be written.
        fs::remove_dir_all(&directory).expect("removed");
        fs::write(&directory, "in the way").expect("written");
        for number in 0..2 * KEPT {
            history.add(format!("# lost {number}"), 1, 1, "test", 1).expect_err("in the way");
        }
        assert_eq!(history.revisions().len(), KEPT);
        fs::remove_file(&directory).expect("removed");
    }
}
