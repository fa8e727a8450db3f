//! JSON keys that have been renamed. For one version, objects carry the value under both names; the
//! CHANGELOG lists them under *Deprecated*.

use serde::{Serialize, Serializer, ser::SerializeMap};

/// `untracked`, formerly `unrecorded`.
pub(super) fn untracked<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
    both(value, ["untracked", "unrecorded"], to)
}

/// `status`, formerly `condition`.
pub(super) fn status<T: Serialize, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    both(value, ["status", "condition"], to)
}

fn both<T: Serialize, S: Serializer>(
    value: &T,
    names: [&str; 2],
    to: S,
) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(names.len()))?;
    for name in names {
        map.serialize_entry(name, value)?;
    }
    map.end()
}
