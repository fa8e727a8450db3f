//! The filter that separates VIPs from other addresses: an extra bit costs a lookup, a missing bit
//! causes an outage. So bits are set before their service is shown, and cleared after it is hidden.

use director_common::{
    flow::Family,
    service::{ServiceKey, VIP_FILTER_WORDS, vip_bit},
};

use super::Tables;

fn bit_of(key: &ServiceKey) -> (u32, u64) {
    let (word, bit) = vip_bit(key.address, key.family == Family::V6 as u8);
    (word, 1 << bit)
}

/// Lets packets for `key`'s address through to the service lookup.
pub(super) fn admit(tables: &Tables, key: &ServiceKey) {
    let (word, bit) = bit_of(key);
    let present = tables.vip_filter.load(word, 0);
    if present & bit == 0 {
        tables.vip_filter.publish(word, 0, present | bit);
    }
}

/// Makes the filter exactly what the services need.
pub(super) fn rebuild(tables: &Tables) {
    let mut words = vec![0; VIP_FILTER_WORDS as usize];
    for service in (0..tables.services.len()).map(|slot| tables.services.get(slot)) {
        if service.word.in_use() {
            let (word, bit) = bit_of(&service.key);
            words[word as usize] |= bit;
        }
    }
    for (at, word) in words.into_iter().enumerate() {
        tables.vip_filter.publish(at as u32, 0, word);
    }
}
