//! Arrays shared with the programs: a map's memory, mapped into this process.
//!
//! Userspace writes here without a system call, one aligned 64-bit word at a time wherever packets
//! may be reading (`bpf_map_update_elem` copies bytes, and packets see partial copies).

use std::{
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A type that userspace and the programs share byte for byte.
///
/// # Safety
///
/// The type is `#[repr(C)]`, has no padding and no pointers, is valid for all bit patterns that are
/// ever written to its map, and has a size that is a multiple of eight bytes.
pub(super) unsafe trait Shared: Copy {}

// SAFETY: a word.
unsafe impl Shared for u64 {}

macro_rules! shared {
    ($($kind:ty),+) => {$(
        // SAFETY: a map value of director-common: repr(C), explicit padding, asserted size.
        unsafe impl Shared for $kind {}
    )+};
}

shared!(
    director_common::abi::Meta,
    director_common::backend::Backend,
    director_common::backend::BackendMeta,
    director_common::client::ClientSet,
    director_common::flow_table::FlowSet,
    director_common::interface::Interface,
    director_common::tunables::Tunables,
    director_common::service::RingChunk,
    director_common::service::Service,
    director_common::service::ServiceMeta,
    director_common::trace::TraceFilter
);

/// The values of an mmap-able BPF array.
pub(super) struct MappedArray<T> {
    start: NonNull<T>,
    len: u32,
    bytes: NonZeroUsize,
    _values: PhantomData<T>,
}

// SAFETY: the memory belongs to the map and stays mapped as long as this lives; every access is by
// volatile or atomic words, as packets on other CPUs access it too.
unsafe impl<T: Shared> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for MappedArray<T> {}

impl<T: Shared> MappedArray<T> {
    /// Maps the `len` values of the array behind `map`, which was created with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    ///
    /// The error of mmap(2); the kernel refuses maps without the flag or with fewer values.
    pub(super) fn new(map: impl AsFd, len: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 64) };
        let bytes =
            NonZeroUsize::new(size_of::<T>() * len as usize).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, map, 0)? };
        Ok(Self { start: start.cast(), len, bytes, _values: PhantomData })
    }

    /// Number of values.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    fn place(&self, index: u32) -> *mut T {
        assert!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.start.as_ptr().add(index as usize) }
    }

    /// A copy of one value. Packets may be writing it: only its words are whole.
    pub(super) fn get(&self, index: u32) -> T {
        // SAFETY: within the mapping; Shared is valid for whatever is there.
        unsafe { self.place(index).read_volatile() }
    }

    /// Writes a value that no packet is reading.
    pub(super) fn set(&self, index: u32, value: T) {
        // SAFETY: within the mapping.
        unsafe { self.place(index).write_volatile(value) };
    }

    /// One aligned word of a value, `offset` bytes into it: stored whole, after all earlier writes.
    pub(super) fn word(&self, index: u32, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < size_of::<T>());
        // SAFETY: within the value, aligned (a value's size is a multiple of eight and the mapping
        // starts on a page), and lives as long as the mapping.
        unsafe { AtomicU64::from_ptr(self.place(index).byte_add(offset).cast()) }
    }

    /// Publishes one word: see [`MappedArray::word`].
    pub(super) fn publish(&self, index: u32, offset: usize, word: u64) {
        self.word(index, offset).store(word, Ordering::Release);
    }

    /// `count` values from each of `firsts`, which ascend, for filling in bulk where no packet is
    /// reading.
    ///
    /// # Panics
    ///
    /// If the ranges overlap or do not lie within the array.
    pub(super) fn slices_mut(&mut self, firsts: &[u32], count: u32) -> Vec<&mut [T]> {
        let mut end = 0;
        let slice = |first: &u32| {
            assert!(*first >= end, "{first} lies before {end}");
            end = first.checked_add(count).filter(|end| *end <= self.len).expect("within");
            // SAFETY: within the mapping and apart from the others; `&mut self` keeps this process
            // from a second view, and the caller keeps packets away (see `plan`: a region is filled
            // before a word points at it).
            unsafe { std::slice::from_raw_parts_mut(self.place(*first), count as usize) }
        };
        firsts.iter().map(slice).collect()
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing borrows any more.
        let result = unsafe { munmap(self.start.cast(), self.bytes.get()) };
        debug_assert!(result.is_ok(), "{result:?}");
    }
}
