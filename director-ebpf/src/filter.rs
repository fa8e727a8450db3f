//! Whether an address can be a VIP at all: a bit for each value of its last 16 bits. What is for
//! nobody is told from the rest by one load, before anything else is looked up. Reads VIP_FILTER.

use core::ptr::read_volatile;

use director_common::{address::Address, service::vip_bit};

use crate::maps;

/// False: no service has this address. True: one may.
#[inline(always)]
pub fn may_be_vip(address: Address, is_v6: bool) -> bool {
    let (word, bit) = vip_bit(address, is_v6);
    // SAFETY: the map's lookup returned it. Volatile: userspace sets bits while packets look.
    maps::VIP_FILTER.get_ptr(word).is_none_or(|word| unsafe { read_volatile(word) } >> bit & 1 != 0)
}
