//! For the fuzz targets in `tests/src/fuzz`: files that an earlier process left.

use std::{io, net::IpAddr, path::Path};

use super::{boot_state, history::History, overrides::Overrides};
use crate::policy::config::{Config, model::Frontend};

/// The backends that are down by a file of this text.
pub fn down(text: &[u8], config: &Config) -> Vec<(Frontend, IpAddr)> {
    boot_state::recorded(text, config)
}

/// Reads the admin overrides at `path`, stores them again, and returns them as they were read before
/// and after.
///
/// # Errors
///
/// If they cannot be read or written.
pub fn overrides(path: &Path) -> io::Result<[String; 2]> {
    let overrides = Overrides::load(path)?;
    let all = |overrides: &Overrides| format!("{:?}", overrides.iter().collect::<Vec<_>>());
    let read = all(&overrides);
    overrides.changed([]).store()?;
    Ok([read, all(&Overrides::load(path)?)])
}

/// Reads the history below `directory` and adds a text to it; returns the number of that and the
/// number of revisions kept.
pub fn history(directory: &Path, text: &str) -> (u64, usize) {
    let (mut history, _) = History::open(directory, directory);
    let _ = history.add(text.to_owned(), 1, 1, "fuzz", 0);
    (history.revision(), history.revisions().len())
}
