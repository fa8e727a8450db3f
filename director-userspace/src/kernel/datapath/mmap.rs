//! Arrays shared with the programs: a map's memory, mapped into this process.
//!
//! The process that changes a director keeps a copy of what it wrote, and reads that: what another
//! process writes into the map misleads no plan, and is found by comparing the two (`scrub`).
//!
//! Userspace writes here without a system call, one aligned 64-bit word at a time wherever packets
//! may be reading (`bpf_map_update_elem` copies bytes, and packets see partial copies).

use std::{
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    num::NonZeroUsize,
    ops::Range,
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
    /// What this process wrote, word by word, if it is the one that writes.
    written: Option<Box<[AtomicU64]>>,
    _values: PhantomData<T>,
}

/// Words of a value.
const fn words_of<T>() -> usize {
    size_of::<T>() / size_of::<u64>()
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
        Ok(Self { start: start.cast(), len, bytes, written: None, _values: PhantomData })
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

    /// Keeps a copy from now on, which begins with what is there.
    pub(super) fn keep_written(&mut self) {
        let present = self.words(0..self.len).iter();
        let copy = present.map(|word| AtomicU64::new(word.load(Ordering::Relaxed))).collect();
        self.written = Some(copy);
    }

    /// Takes over the copy of an array of the same map.
    pub(super) fn take_written(&mut self, from: &mut Self) {
        if self.len == from.len {
            self.written = from.written.take();
        }
    }

    /// One value: what this process wrote last, if it is the one that writes, else what is there.
    /// Packets may be writing that: only its words are whole.
    pub(super) fn get(&self, index: u32) -> T {
        assert!(index < self.len, "index {index} of {}", self.len);
        match &self.written {
            Some(written) => {
                let first = index as usize * words_of::<T>();
                let words = &written[first..first + words_of::<T>()];
                let mut value = MaybeUninit::<T>::uninit();
                for (at, word) in words.iter().enumerate() {
                    let word = word.load(Ordering::Relaxed);
                    // SAFETY: within the value, whose size is a multiple of eight bytes; unaligned,
                    // since its alignment may be less.
                    unsafe { value.as_mut_ptr().cast::<u64>().add(at).write_unaligned(word) };
                }
                // SAFETY: every byte is written, and Shared is valid for what was.
                unsafe { value.assume_init() }
            }
            // SAFETY: within the mapping; Shared is valid for whatever is there.
            None => unsafe { self.place(index).read_volatile() },
        }
    }

    /// Writes a value that no packet is reading.
    pub(super) fn set(&self, index: u32, value: T) {
        // SAFETY: within the mapping.
        unsafe { self.place(index).write_volatile(value) };
        for at in 0..words_of::<T>() {
            // SAFETY: within the value, as in `get`.
            let word = unsafe { (&raw const value).cast::<u64>().add(at).read_unaligned() };
            self.keep(index, at, word);
        }
    }

    /// One aligned word of a value, `offset` bytes into it, as [`MappedArray::get`].
    pub(super) fn load(&self, index: u32, offset: usize) -> u64 {
        match &self.written {
            Some(written) => {
                written[index as usize * words_of::<T>() + offset / 8].load(Ordering::Relaxed)
            }
            None => self.word(index, offset / 8).load(Ordering::Acquire),
        }
    }

    /// Publishes one aligned word of a value, `offset` bytes into it: stored whole, after all
    /// earlier writes.
    pub(super) fn publish(&self, index: u32, offset: usize, word: u64) {
        assert!(offset.is_multiple_of(8), "offset {offset}");
        self.word(index, offset / 8).store(word, Ordering::Release);
        self.keep(index, offset / 8, word);
    }

    fn keep(&self, index: u32, at: usize, word: u64) {
        if let Some(written) = &self.written {
            written[index as usize * words_of::<T>() + at].store(word, Ordering::Relaxed);
        }
    }

    /// As [`MappedArray::restore`], of one word; returns whether it differed.
    pub(super) fn restore_word(&self, index: u32, at: usize) -> bool {
        let Some(written) = &self.written else { return false };
        let word = written[index as usize * words_of::<T>() + at].load(Ordering::Relaxed);
        self.word(index, at).swap(word, Ordering::Release) != word
    }

    /// Writes into the map what this process wrote there before: the words of these values that
    /// differ, a value's first word last, since it publishes the others. `found` gets a value's
    /// index and the words that differed, as bits.
    pub(super) fn restore(&self, values: Range<u32>, mut found: impl FnMut(u32, u64)) {
        let Some(written) = &self.written else { return };
        let n = words_of::<T>();
        let written = &written[values.start as usize * n..values.end as usize * n];
        let present = self.words(values.clone());
        let pairs = present.chunks_exact(n).zip(written.chunks_exact(n));
        for (index, (present, written)) in values.zip(pairs) {
            let mut differ = 0;
            for (at, (present, written)) in present.iter().zip(written).enumerate().rev() {
                let word = written.load(Ordering::Relaxed);
                if present.load(Ordering::Relaxed) != word {
                    present.store(word, Ordering::Release);
                    differ |= 1 << at;
                }
            }
            if differ != 0 {
                found(index, differ);
            }
        }
    }

    /// The words of these values, as they are in the map.
    pub(super) fn words(&self, values: Range<u32>) -> &[AtomicU64] {
        assert!(values.start <= values.end && values.end <= self.len, "{values:?}");
        let n = (values.end - values.start) as usize * words_of::<T>();
        // SAFETY: within the mapping, by the assertion; aligned, since a value's size is a multiple
        // of eight and the mapping starts on a page; and atomic for this process and for packets.
        unsafe {
            let first = self.start.as_ptr().add(values.start as usize);
            std::slice::from_raw_parts(first.cast(), n)
        }
    }

    /// The `at`-th word of a value, as it is in the map.
    pub(super) fn present(&self, index: u32, at: usize) -> u64 {
        self.word(index, at).load(Ordering::Relaxed)
    }

    /// Whether this process keeps what it writes.
    pub(super) fn is_kept(&self) -> bool {
        self.written.is_some()
    }

    /// Changes bits of the map, and not of what this process wrote: as another process does.
    pub(super) fn flip(&self, index: u32, at: usize, bits: u64) {
        self.word(index, at).fetch_xor(bits, Ordering::Release);
    }

    fn word(&self, index: u32, at: usize) -> &AtomicU64 {
        &self.words(index..index + 1)[at]
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
