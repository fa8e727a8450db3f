//! Health checks that go the way the traffic goes: to the VIP, along the tunnel or direct route of
//! one backend.
//!
//! The prober opens an ordinary socket to the *backend's own address* and marks it ([`mark`]). A
//! program where packets leave (`director-ebpf/src/path_probe.rs`) makes of a marked packet what the
//! data plane would make of a client's: the destination becomes the VIP, and the packet goes into
//! the tunnel. The backend answers straight from the VIP, and a second program where packets come in
//! puts the backend's address back, so that the socket sees whom it asked. See
//! [decision 0013](../../../docs/decisions/0013-path-probes.md).
//!
//! - [`PathProbe`] is one way: a VIP, a backend, and how packets get there;
//! - [`PathProbes`] brings programs and maps to a set of them, and says which mark is whose;
//! - `marks`: who has which mark; pure.

mod error;
mod marks;
mod probe;

use std::collections::HashMap;

use self::marks::Marks;
pub use self::{
    error::PathProbeError,
    probe::{MAX_SEGMENT, PathProbe, mark},
};
use crate::{
    datapath::{Attached, Instance},
    net::Netlink,
};

/// What an instance has in the kernel for its path probes.
#[derive(Debug)]
pub struct PathProbes {
    #[expect(dead_code, reason = "the programs come with the next commit")]
    netlink: Netlink,
    #[expect(dead_code, reason = "the programs come with the next commit")]
    instance: Instance,
    marks: Marks,
}

impl PathProbes {
    /// For the interfaces of the namespace that `netlink` looks at. Nothing is loaded yet.
    pub fn new(netlink: Netlink, instance: &Instance) -> Self {
        Self { netlink, instance: instance.clone(), marks: Marks::default() }
    }

    /// Brings programs and entries to this; returns each probe's mark, which it keeps as long as it
    /// is among `probes`. To be called whenever the probes or the interfaces change, and now and
    /// then besides: what somebody else took away is put back. With no probe, nothing is loaded, and
    /// what was there is taken off.
    ///
    /// # Errors
    ///
    /// [`PathProbeError`], each naming what it is about. Then no mark of this instance leads
    /// anywhere but where it led before.
    pub async fn set(
        &mut self,
        interfaces: &[Attached],
        probes: &[PathProbe],
    ) -> Result<HashMap<PathProbe, u32>, PathProbeError> {
        let changes = self.marks.change(probes)?;
        match interfaces.first() {
            Some(interface) if !changes.added.is_empty() => {
                Err(PathProbeError::NotBuilt { interface: interface.name.clone() })
            }
            _ => Ok(self.marks.numbers().clone()),
        }
    }
}
