//! Damage to maps, as another process does it: for tests, which ask whether it is found and repaired.

use director_common::{abi::map, service::ServiceKey};

use super::{DatapathError, Tables};

/// Calls the method of the array called `$name`.
macro_rules! of_array {
    ($tables:expr, $name:expr, $array:ident => $call:expr) => {
        match $name {
            map::META => {
                let $array = &$tables.meta;
                $call
            }
            map::TUNABLES => {
                let $array = &$tables.tunables;
                $call
            }
            map::INTERFACES => {
                let $array = &$tables.interfaces;
                $call
            }
            map::VIP_FILTER => {
                let $array = &$tables.vip_filter;
                $call
            }
            map::SERVICES => {
                let $array = &$tables.services;
                $call
            }
            map::SERVICE_META => {
                let $array = &$tables.service_meta;
                $call
            }
            map::BACKENDS => {
                let $array = &$tables.backends;
                $call
            }
            map::BACKEND_META => {
                let $array = &$tables.backend_meta;
                $call
            }
            map::RINGS => {
                let $array = &$tables.rings;
                $call
            }
            other => panic!("{other} is no array that userspace writes"),
        }
    };
}

impl Tables {
    /// Flips bits of the `word`-th word of a value in the array `name`, behind the back of the process
    /// that writes it.
    ///
    /// # Panics
    ///
    /// If there is no such array, value or word.
    pub fn flip(&self, name: &str, index: u32, word: usize, bits: u64) {
        of_array!(self, name, array => array.flip(index, word, bits));
    }

    /// The words of a value in the array `name`, as packets see them.
    ///
    /// # Panics
    ///
    /// If there is no such array or value.
    pub fn present(&self, name: &str, index: u32) -> Vec<u64> {
        let load =
            |word: &std::sync::atomic::AtomicU64| word.load(std::sync::atomic::Ordering::Acquire);
        of_array!(self, name, array => array.words(index..index + 1).iter().map(load).collect())
    }

    /// The keys of services, as packets see them, and the slots that they lead to.
    pub fn present_keys(&self) -> std::collections::BTreeMap<ServiceKey, u32> {
        self.keys.present()
    }

    /// Makes a key lead to a slot, or to none, behind the back of the process that writes it.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn divert(&mut self, key: ServiceKey, slot: Option<u32>) -> Result<(), DatapathError> {
        self.keys.divert(key, slot)
    }
}
