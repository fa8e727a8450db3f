//! What was repaired, in words.

use director_common::service::{PRESENCE, ServiceKey};

use super::{Tables, address_of, front};

/// The names of a value's words, by the place of the first word of each.
type Fields = [(usize, &'static str)];

const SERVICE: &Fields =
    &[(0, "ring"), (1, "key"), (4, "drain_timeout"), (5, "ring's fingerprint")];
const SERVICE_META: &Fields = &[(0, "name"), (8, "counters"), (12, "scheduler")];
const BACKEND: &Fields =
    &[(0, "state"), (1, "next hop"), (2, "address"), (4, "tunnel source"), (6, "tunnel source")];
const BACKEND_META: &Fields = &[(0, "end of its drain"), (1, "weight")];
const INTERFACE: &Fields = &[(0, "MAC addresses"), (7, "index")];
const META: &Fields = &[(0, "version and size"), (1, "salt"), (2, "hash key")];

/// The fields that have a word among these bits.
fn fields(of: &Fields, words: u64) -> String {
    let mut names: Vec<&str> = Vec::new();
    for word in (0..64).filter(|word| words >> word & 1 != 0) {
        let field = of.iter().rev().find(|(first, _)| *first <= word);
        let name = field.map_or("", |(_, name)| name);
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

pub(super) fn of_service(tables: &Tables, slot: u32) -> String {
    if slot < tables.services.len() && tables.services.get(slot).word.in_use() {
        format!("service {}", super::super::explain::name_of(&tables.service_meta.get(slot)))
    } else {
        format!("unused entry {slot} of services")
    }
}

fn of_backend(tables: &Tables, slot: u32) -> String {
    let fields = tables.backends.get(slot).word.unpack();
    if fields.state == director_common::backend::BackendState::Free {
        return format!("unused entry {slot} of backends");
    }
    let service = of_service(tables, u32::from(fields.service));
    format!("backend {} of {service}", address_of(tables, slot, fields.is_v6))
}

pub(super) fn service(tables: &Tables, slot: u32, words: u64) -> String {
    format!("{}: {}", of_service(tables, slot), fields(SERVICE, words))
}

pub(super) fn service_meta(tables: &Tables, slot: u32, words: u64) -> String {
    format!("{}: {}", of_service(tables, slot), fields(SERVICE_META, words))
}

pub(super) fn backend(tables: &Tables, slot: u32, words: u64) -> String {
    format!("{}: {}", of_backend(tables, slot), fields(BACKEND, words))
}

pub(super) fn backend_meta(tables: &Tables, slot: u32, words: u64) -> String {
    format!("{}: {}", of_backend(tables, slot), fields(BACKEND_META, words))
}

pub(super) fn interface(slot: u32, words: u64) -> String {
    format!("interface slot {slot}: {}", fields(INTERFACE, words))
}

pub(super) fn meta(words: u64) -> String {
    format!("metadata of the maps: {}", fields(META, words))
}

pub(super) fn key(key: ServiceKey) -> String {
    let what = if key.family & PRESENCE == 0 { "key" } else { "shared key" };
    format!("{what} {}", front(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_once() {
        for (of, words, expected) in [
            (SERVICE, 1, "ring"),
            (SERVICE, 0b1111, "ring, key"),
            (BACKEND, 1 << 3, "address"),
            (BACKEND, 0b1111_0000, "tunnel source"),
            (SERVICE_META, 1 << 15, "scheduler"),
            (INTERFACE, 1 << 6 | 1 << 7, "MAC addresses, index"),
        ] {
            assert_eq!(fields(of, words), expected, "{words:#b}");
        }
    }
}
