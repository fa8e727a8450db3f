//! Load-time constants: frozen read-only data, whose values the verifier uses to delete the code
//! that they disable. Userspace sets them by name (`director_common::abi::constant`).

use aya_ebpf::Global;
use director_common::{
    abi::ProgramMode,
    flow::{HASH_WORDS, KeyWords},
};

#[unsafe(no_mangle)]
static HASH_KEY: [Global<u32>; HASH_WORDS] = [const { Global::new(0) }; HASH_WORDS];
#[unsafe(no_mangle)]
static TABLE_SALT: Global<u64> = Global::new(1);
#[unsafe(no_mangle)]
static TABLE_BITS: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static INTERFACE_SLOT: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static OWN_MAC: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static PROGRAM_MODE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TRACK_CLIENTS: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
static JIFFY_NS: Global<u64> = Global::new(4_000_000);
#[unsafe(no_mangle)]
static FIRST_JIFFY: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static ZERO: Global<u64> = Global::new(0);

/// Zero, opaque to LLVM, which turns any run of constant zeros into a call to memset, a loop over
/// bytes (bpf-linker has LLVM expand none of them).
#[inline(always)]
pub fn zero() -> u64 {
    ZERO.load()
}

/// The fleet's key of the flow hash. Read word by word, only the words that the address family
/// needs.
pub struct FleetKey;

impl KeyWords for FleetKey {
    #[inline(always)]
    fn word(&self, at: usize) -> u32 {
        HASH_KEY[at].load()
    }
}

/// Odd secret number that spreads flows over the table's sets.
#[inline(always)]
pub fn table_salt() -> u64 {
    TABLE_SALT.load()
}

/// Binary logarithm of the number of sets in the flow table.
#[inline(always)]
pub fn table_bits() -> u32 {
    TABLE_BITS.load()
}

/// Slot of the interface this copy of the program is attached to.
#[inline(always)]
pub fn interface_slot() -> u32 {
    INTERFACE_SLOT.load()
}

/// The MAC that this interface had when the program was loaded; 0: none.
#[inline(always)]
pub fn own_mac() -> u64 {
    OWN_MAC.load()
}

/// Nanoseconds between two ticks of the kernel's timer.
#[inline(always)]
pub fn jiffy_ns() -> u64 {
    JIFFY_NS.load()
}

/// The value of jiffies at boot.
#[inline(always)]
pub fn first_jiffy() -> u64 {
    FIRST_JIFFY.load()
}

/// What this copy of the program is loaded for.
#[inline(always)]
pub fn mode() -> ProgramMode {
    match ProgramMode::from_number(PROGRAM_MODE.load() as u8) {
        Some(mode) => mode,
        // Userspace loads no other.
        None => ProgramMode::Forward,
    }
}

/// Whether the clients of flows are recorded.
#[inline(always)]
pub fn track_clients() -> bool {
    TRACK_CLIENTS.load() != 0
}
