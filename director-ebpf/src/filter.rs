//! Filter of addresses that can be a VIP: a bit for each value of the last 16 bits. One load
//! separates unmatched traffic from the rest, before any other lookup. Reads VIP_FILTER.

use core::ptr::read_volatile;

use director_common::{address::Address, service::vip_bit};

use crate::maps;

/// False: no service has this address. True: one may.
#[inline(always)]
pub fn may_be_vip(address: Address, is_v6: bool) -> bool {
    let (word, bit) = vip_bit(address, is_v6);
    // SAFETY: the map's lookup returned it. Volatile: userspace sets bits while packets read them.
    maps::VIP_FILTER.get_ptr(word).is_none_or(|word| unsafe { read_volatile(word) } >> bit & 1 != 0)
}
