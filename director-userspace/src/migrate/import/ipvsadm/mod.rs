//! What `ipvsadm` prints: commands that restore a table (`-S`), or a listing of it (`-L`).

mod endpoint;
mod listing;
mod options;
mod save;

use std::sync::Arc;

pub(super) use self::save::{mask_length, sync_daemon};
use super::{
    error::ImportErrors,
    names::Names,
    table::{LvsTable, Place},
};

/// Reads either form.
pub(super) fn read(file: &Arc<str>, text: &str, names: &Names) -> Result<LvsTable, ImportErrors> {
    let lines = || {
        text.lines().zip(1u32..).filter_map(|(line, number)| {
            let is_there = !line.trim().is_empty() && !line.trim_start().starts_with('#');
            is_there.then(|| (Place { file: Arc::clone(file), line: number }, line))
        })
    };
    let is_listing = lines().next().is_some_and(|(_, line)| listing::is_one(line));
    if is_listing { listing::read(lines(), names) } else { save::read(lines(), names) }
}
