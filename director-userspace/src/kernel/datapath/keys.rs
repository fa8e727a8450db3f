//! The maps that are no arrays: services' keys, and egress ports. As of the arrays, the process that
//! changes a director keeps a copy of what it wrote.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Instant,
};

use aya::maps::{DevMapHash, HashMap, MapData, MapError, xdp::XdpMapError};
use director_common::{abi::map, service::ServiceKey};

use super::{
    DatapathError, link,
    tables::{AsPod, Fd},
};

/// `BPF_MAP_GET_NEXT_KEY` of linux/bpf.h.
const MAP_GET_NEXT_KEY: libc::c_int = 4;

/// The part of `union bpf_attr` that `BPF_MAP_GET_NEXT_KEY` reads.
#[repr(C)]
struct NextKey {
    map_fd: u32,
    _pad: u32,
    /// 0: before the first.
    key: u64,
    next_key: u64,
}

/// Service slots by key.
pub(super) struct ServiceKeys {
    map: HashMap<MapData, AsPod<ServiceKey>, u32>,
    fd: OwnedFd,
    /// What this process wrote, if it is the one that writes.
    written: Option<BTreeMap<ServiceKey, u32>>,
}

/// Where a comparison of keys continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum KeyCursor {
    /// Before the first key of the map: is each one of ours?
    #[default]
    Start,
    /// After this key of the map.
    Present(ServiceKey),
    /// After this key of ours (`None`: before the first): is each one there?
    Written(Option<ServiceKey>),
}

impl ServiceKeys {
    pub(super) fn open(data: MapData) -> Result<Self, DatapathError> {
        let failed = |error| DatapathError::Map { name: map::SERVICE_KEYS, error };
        let fd = Fd(&data).as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| failed(MapError::IoError(error)))?;
        let map = HashMap::try_from(aya::maps::Map::HashMap(data)).map_err(failed)?;
        Ok(Self { map, fd, written: None })
    }

    /// Keeps a copy from now on, which begins with what is there.
    pub(super) fn keep_written(&mut self) {
        self.written = Some(self.all());
    }

    /// Takes over the copy of another handle of the same map.
    pub(super) fn take_written(&mut self, from: &mut Self) {
        self.written = from.written.take();
    }

    /// Every key: what this process wrote, if it is the one that writes, else what is there.
    pub(super) fn all(&self) -> BTreeMap<ServiceKey, u32> {
        match &self.written {
            Some(written) => written.clone(),
            None => self.present(),
        }
    }

    /// Every key that is there.
    pub(super) fn present(&self) -> BTreeMap<ServiceKey, u32> {
        self.map.iter().filter_map(Result::ok).map(|(key, slot)| (key.0, slot)).collect()
    }

    /// Changes the map, and not what this process wrote: as another process does.
    pub(super) fn divert(
        &mut self,
        key: ServiceKey,
        slot: Option<u32>,
    ) -> Result<(), DatapathError> {
        match slot {
            Some(slot) => self.map.insert(AsPod(key), slot, 0).map_err(of),
            None => self.remove_from_map(key),
        }
    }

    /// Whether there is this key.
    pub(super) fn contains(&self, key: ServiceKey) -> bool {
        match &self.written {
            Some(written) => written.contains_key(&key),
            None => self.map.get(&AsPod(key), 0).is_ok(),
        }
    }

    pub(super) fn insert(&mut self, key: ServiceKey, slot: u32) -> Result<(), DatapathError> {
        self.map.insert(AsPod(key), slot, 0).map_err(of)?;
        if let Some(written) = &mut self.written {
            written.insert(key, slot);
        }
        Ok(())
    }

    /// Removes a key that may be gone already.
    pub(super) fn remove(&mut self, key: ServiceKey) -> Result<(), DatapathError> {
        if let Some(written) = &mut self.written {
            written.remove(&key);
        }
        self.remove_from_map(key)
    }

    fn remove_from_map(&mut self, key: ServiceKey) -> Result<(), DatapathError> {
        match self.map.remove(&AsPod(key)) {
            Ok(()) => Ok(()),
            // Removed already: an earlier process reached this step.
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            Err(error) => Err(of(error)),
        }
    }

    /// Writes into the map what this process wrote there before, from `cursor` on until `until`;
    /// `found` gets each key that differed. Returns whether the pass is complete.
    pub(super) fn restore(
        &mut self,
        cursor: &mut KeyCursor,
        until: Instant,
        mut found: impl FnMut(ServiceKey),
    ) -> bool {
        let Some(written) = &self.written else { return true };
        let mut strays = Vec::new();
        let mut missing = Vec::new();
        let complete = loop {
            // The clock costs a fraction of the system call below.
            if Instant::now() >= until {
                break false;
            }
            match *cursor {
                KeyCursor::Start | KeyCursor::Present(_) => {
                    let before = match *cursor {
                        KeyCursor::Present(key) => Some(key),
                        _ => None,
                    };
                    *cursor = match self.next_present(before) {
                        Some(key) => {
                            if !written.contains_key(&key) {
                                strays.push(key);
                            }
                            KeyCursor::Present(key)
                        }
                        None => KeyCursor::Written(None),
                    };
                }
                KeyCursor::Written(before) => {
                    let after =
                        before.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
                    let Some((key, slot)) =
                        written.range((after, std::ops::Bound::Unbounded)).next()
                    else {
                        *cursor = KeyCursor::Start;
                        break true;
                    };
                    if self.map.get(&AsPod(*key), 0).ok() != Some(*slot) {
                        missing.push((*key, *slot));
                    }
                    *cursor = KeyCursor::Written(Some(*key));
                }
            }
        };
        for key in strays {
            if self.remove_from_map(key).is_ok() {
                found(key);
            }
        }
        for (key, slot) in missing {
            if self.map.insert(AsPod(key), slot, 0).is_ok() {
                found(key);
            }
        }
        complete
    }

    /// The key after `before` in the map's order; of one that is gone, the first.
    fn next_present(&self, before: Option<ServiceKey>) -> Option<ServiceKey> {
        let mut next = std::mem::MaybeUninit::<ServiceKey>::uninit();
        let key = before.as_ref().map_or(0, |key| std::ptr::from_ref(key) as u64);
        let next_key = next.as_mut_ptr() as u64;
        let map_fd = self.fd.as_raw_fd() as u32;
        // The kernel writes a key of the map's size, which was checked when it was opened.
        link::bpf(MAP_GET_NEXT_KEY, &NextKey { map_fd, _pad: 0, key, next_key }).ok()?;
        // SAFETY: written by the kernel; valid for all bytes.
        Some(unsafe { next.assume_init() })
    }
}

fn of(error: MapError) -> DatapathError {
    DatapathError::Map { name: map::SERVICE_KEYS, error }
}

/// Interfaces that packets may be redirected to.
pub(super) struct TxPorts {
    map: DevMapHash<MapData>,
    /// What this process wrote, if it is the one that writes.
    written: Option<BTreeMap<u32, u32>>,
}

impl TxPorts {
    pub(super) fn open(data: MapData) -> Result<Self, DatapathError> {
        let map = DevMapHash::try_from(aya::maps::Map::DevMapHash(data))
            .map_err(|error| DatapathError::Map { name: map::TX_PORTS, error })?;
        Ok(Self { map, written: None })
    }

    /// Keeps a copy from now on, which begins with what is there.
    pub(super) fn keep_written(&mut self) {
        self.written = Some(self.present().collect());
    }

    /// Takes over the copy of another handle of the same map.
    pub(super) fn take_written(&mut self, from: &mut Self) {
        self.written = from.written.take();
    }

    fn present(&self) -> impl Iterator<Item = (u32, u32)> {
        // With a program of another process behind it, it is another port.
        let entries = self.map.iter().filter_map(Result::ok);
        entries
            .map(|(index, value)| (index, if value.prog_id.is_some() { 0 } else { value.if_index }))
    }

    /// Lets packets leave by the interface with this index.
    ///
    /// # Errors
    ///
    /// EINVAL if there is no such interface.
    pub(super) fn insert(&mut self, index: u32) -> Result<(), XdpMapError> {
        self.map.insert(index, index, None, 0)?;
        if let Some(written) = &mut self.written {
            written.insert(index, index);
        }
        Ok(())
    }

    /// Lets packets leave only by these interfaces.
    pub(super) fn retain(&mut self, stays: impl Fn(u32) -> bool) {
        if let Some(written) = &mut self.written {
            written.retain(|index, _| stays(*index));
        }
        let gone: Vec<u32> =
            self.present().map(|(index, _)| index).filter(|i| !stays(*i)).collect();
        for index in gone {
            // Gone already if the device is.
            let _ = self.map.remove(index);
        }
    }

    /// Writes into the map what this process wrote there before; returns the indices that differed.
    pub(super) fn restore(&mut self) -> Vec<u32> {
        let Some(written) = &self.written else { return Vec::new() };
        let present: BTreeMap<u32, u32> = self.present().collect();
        let mut found = Vec::new();
        for index in present.keys().filter(|index| !written.contains_key(index)) {
            if self.map.remove(*index).is_ok() {
                found.push(*index);
            }
        }
        for (index, target) in written {
            // A removed interface cannot be an egress port; its removal is an event of its own.
            if present.get(index) != Some(target)
                && self.map.insert(*index, *target, None, 0).is_ok()
            {
                found.push(*index);
            }
        }
        found
    }
}
