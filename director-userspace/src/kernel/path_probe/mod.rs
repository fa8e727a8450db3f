//! Health checks through the data path: to the VIP, along the tunnel or direct route of one
//! backend.
//!
//! The prober opens an ordinary socket to the *backend's own address* and marks it ([`mark`]). An
//! egress program (`director-ebpf/src/path_probe.rs`) rewrites a marked packet as the data plane
//! would rewrite a client's: the destination becomes the VIP, and the packet goes into the tunnel.
//! The backend replies directly from the VIP, and an ingress program restores the backend's
//! address, so that the socket sees its peer. See `docs/decisions/0013-path-probes.md`.
//!
//! - [`PathProbe`] is one path: a VIP, a backend, and the forward mode;
//! - [`PathProbes`] brings programs and maps to a set of them, and returns their marks;
//! - `marks`: which probe has which mark; pure. `range`: which marks are this instance's;
//! - `program`: the loaded programs; `attach`: their interfaces.

mod attach;
mod error;
mod marks;
mod probe;
mod program;
mod range;

use std::collections::{BTreeSet, HashMap};

use self::{attach::Interfaces, marks::Marks, program::Programs};
pub use self::{
    error::PathProbeError,
    probe::{MAX_SEGMENT, PathProbe, mark},
};
use crate::kernel::{
    datapath::{Attached, Instance},
    net::Netlink,
};

/// An instance's programs and marks of path probes.
#[derive(Debug)]
pub struct PathProbes {
    netlink: Netlink,
    instance: Instance,
    marks: Marks,
    loaded: Option<Loaded>,
    /// Whether what an earlier process left is removed.
    is_clean: bool,
}

#[derive(Debug)]
struct Loaded {
    range: u16,
    programs: Programs,
}

impl Loaded {
    /// Attaches the programs to interfaces; returns the names of those where they were missing.
    async fn attach(
        &self,
        here: Interfaces<'_>,
        interfaces: &[Attached],
    ) -> Result<Vec<String>, PathProbeError> {
        let mut changed = Vec::new();
        for interface in interfaces {
            match here.attach(interface, self.range, &self.programs).await {
                Ok(false) => {}
                Ok(true) => changed.push(interface.name.clone()),
                // Removed since it was listed: that event leads to another call.
                Err(PathProbeError::Net(error)) if error.errno() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }
}

impl PathProbes {
    /// For the interfaces of `netlink`'s namespace. Nothing is loaded yet.
    pub fn new(netlink: Netlink, instance: &Instance) -> Self {
        let marks = Marks::starting_at_random();
        Self { netlink, instance: instance.clone(), marks, loaded: None, is_clean: false }
    }

    /// Brings programs and entries to `probes`; returns each probe's mark, which it keeps as long
    /// as it is among `probes`. One that [`PathProbe::check`] refuses gets none and must not be
    /// used: without a mark, packets go directly to the backend.
    ///
    /// Must be called whenever the probes or the interfaces change. With no probe, nothing is
    /// loaded, and what was there is removed.
    ///
    /// # Errors
    ///
    /// [`PathProbeError`], each naming what it is about. Then no mark may be used, including
    /// earlier ones; the next call starts afresh.
    pub async fn set(
        &mut self,
        interfaces: &[Attached],
        probes: &[PathProbe],
    ) -> Result<HashMap<PathProbe, u32>, PathProbeError> {
        let probes: Vec<PathProbe> =
            probes.iter().filter(|probe| probe.check().is_ok()).cloned().collect();
        if probes.is_empty() {
            return self.clear().await.map(|()| HashMap::new());
        }
        let result = self.bring_to(interfaces, &probes).await;
        if result.is_err() {
            self.reset();
        }
        result
    }

    async fn bring_to(
        &mut self,
        interfaces: &[Attached],
        probes: &[PathProbe],
    ) -> Result<HashMap<PathProbe, u32>, PathProbeError> {
        let changes = self.marks.change(probes)?;
        let all = self.marks.numbers();
        // Claimed each time: `director detach` releases it.
        let range = range::claim(&self.instance)?;
        let usable = |l: &Loaded| l.range == range && l.programs.suffice(all.len());
        let loaded = match self.loaded.take().filter(usable) {
            Some(mut loaded) => {
                let added = changes.added.iter().map(|(number, probe)| (*number, probe));
                loaded.programs.write(added, &changes.removed, all)?;
                loaded
            }
            None => {
                let mut programs = Programs::load(range, all.len())?;
                programs.write(all.iter().map(|(probe, number)| (*number, probe)), &[], all)?;
                Loaded { range, programs }
            }
        };
        let here = Interfaces { netlink: &self.netlink, instance: &self.instance };
        loaded.attach(here, interfaces).await?;
        here.detach(&interfaces.iter().map(|interface| interface.ifindex).collect()).await?;
        let marks = all.iter().map(|(probe, number)| {
            (probe.clone(), director_common::probe::mark(loaded.range, *number))
        });
        let marks = marks.collect();
        self.loaded = Some(loaded);
        self.is_clean = false;
        Ok(marks)
    }

    /// Attaches the programs again where another process removed them, since until then packets go
    /// directly to backends; returns the interfaces' names. Must be called periodically.
    ///
    /// # Errors
    ///
    /// [`PathProbeError`], as of [`PathProbes::set`].
    pub async fn restore(
        &mut self,
        interfaces: &[Attached],
    ) -> Result<Vec<String>, PathProbeError> {
        let here = Interfaces { netlink: &self.netlink, instance: &self.instance };
        let result = match &self.loaded {
            Some(loaded) => loaded.attach(here, interfaces).await,
            None => return Ok(Vec::new()),
        };
        if result.is_err() {
            self.reset();
        }
        result
    }

    /// Packets sent on a probe's path since it has its mark. If this does not rise while the probe
    /// is used, the packets took another path, and its outcome is meaningless: another process
    /// removed the program, or put one in front that consumes packets.
    ///
    /// # Errors
    ///
    /// [`PathProbeError::Bpf`].
    pub fn sent(&self, probe: &PathProbe) -> Result<Option<u64>, PathProbeError> {
        let number = self.marks.numbers().get(probe);
        match (number, &self.loaded) {
            (Some(number), Some(loaded)) => loaded.programs.sent(*number).map(Some),
            _ => Ok(None),
        }
    }

    /// Removes what is there, once.
    async fn clear(&mut self) -> Result<(), PathProbeError> {
        self.reset();
        if !self.is_clean {
            remove(&self.netlink, &self.instance, &[]).await?;
            self.is_clean = true;
        }
        Ok(())
    }

    /// Drops the programs. Those on interfaces stay there, and packets with their marks take the
    /// same path as before; the numbers that were assigned are reused last.
    fn reset(&mut self) {
        self.loaded = None;
        self.marks.clear();
    }
}

/// Removes the programs of an instance from interfaces: from those named, or from all, and then
/// with all records of them. For `director detach`; it also finds what a killed process left.
/// Returns the indices of the interfaces they were on.
///
/// # Errors
///
/// [`PathProbeError`].
pub async fn remove(
    netlink: &Netlink,
    instance: &Instance,
    interfaces: &[String],
) -> Result<Vec<u32>, PathProbeError> {
    let mut keep = BTreeSet::new();
    if !interfaces.is_empty() {
        let others = netlink.links().await?.into_iter();
        let others = others.filter(|link| !interfaces.contains(&link.name));
        keep.extend(others.map(|link| link.index));
    }
    let were_on = Interfaces { netlink, instance }.detach(&keep).await?;
    if interfaces.is_empty() {
        range::release(instance)?;
    }
    Ok(were_on)
}
