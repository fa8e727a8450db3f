//! The heartbeat that programs trust next hops by.

use std::mem::offset_of;

use director_common::{abi::map, tunables::Tunables};

use super::{DatapathError, Instance, clock_ns, load, mmap::MappedArray, tables::Fd};

/// Writes the heartbeat of an instance, independently of other handles of its maps.
pub struct Pulse(MappedArray<Tunables>);

impl Pulse {
    /// Opens the pinned map.
    ///
    /// # Errors
    ///
    /// If it is not pinned, or cannot be mapped.
    pub fn open(instance: &Instance) -> Result<Self, DatapathError> {
        let data = load::pinned(instance, map::TUNABLES)?;
        MappedArray::new(Fd(&data), 1)
            .map(Self)
            .map_err(|error| DatapathError::Mmap { name: map::TUNABLES, error })
    }

    /// Next hops are fresh as of now. Programs trust that for a second and a half.
    pub fn beat(&self) {
        self.0.publish(0, offset_of!(Tunables, heartbeat_ns), clock_ns());
    }

    /// Next hops are no longer kept fresh.
    pub fn stop(&self) {
        self.0.publish(0, offset_of!(Tunables, heartbeat_ns), 0);
    }
}
