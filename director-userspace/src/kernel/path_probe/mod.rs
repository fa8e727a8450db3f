//! Health checks that go the way the traffic goes: to the VIP, along the tunnel or direct route of
//! one backend.
//!
//! The prober opens an ordinary socket to the *backend's own address* and marks it ([`mark`]). A
//! program where packets leave (`director-ebpf/src/path_probe.rs`) makes of a marked packet what the
//! data plane would make of a client's: the destination becomes the VIP, and the packet goes into
//! the tunnel. The backend answers straight from the VIP, and a second program where packets come in
//! puts the backend's address back, so that the socket sees whom it asked. See
//! `docs/decisions/0013-path-probes.md`.
//!
//! - [`PathProbe`] is one way: a VIP, a backend, and how packets get there;
//! - [`PathProbes`] brings programs and maps to a set of them, and says which mark is whose;
//! - `marks`: who has which mark; pure. `range`: which marks are this instance's;
//! - `program`: what is loaded; `attach`: where it is.

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

/// What an instance has in the kernel for its path probes.
#[derive(Debug)]
pub struct PathProbes {
    netlink: Netlink,
    instance: Instance,
    marks: Marks,
    loaded: Option<Loaded>,
    /// Whether what an earlier process left is gone.
    is_clean: bool,
}

#[derive(Debug)]
struct Loaded {
    range: u16,
    programs: Programs,
}

impl Loaded {
    /// Puts the programs on interfaces; returns the names of those where they were not.
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
                // Pulled out since it was listed: whoever sees that calls again.
                Err(PathProbeError::Net(error)) if error.errno() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }
}

impl PathProbes {
    /// For the interfaces of the namespace that `netlink` looks at. Nothing is loaded yet.
    pub fn new(netlink: Netlink, instance: &Instance) -> Self {
        let marks = Marks::starting_anywhere();
        Self { netlink, instance: instance.clone(), marks, loaded: None, is_clean: false }
    }

    /// Brings programs and entries to this; returns each probe's mark, which it keeps as long as it
    /// is among `probes`. One that [`PathProbe::check`] refuses gets none, and whoever has no mark
    /// must not probe: without one, packets go straight to the backend.
    ///
    /// To be called whenever the probes or the interfaces change. With no probe, nothing is loaded,
    /// and what was there is taken off.
    ///
    /// # Errors
    ///
    /// [`PathProbeError`], each naming what it is about. Then no mark is to be used, also none of
    /// before; the next call starts afresh.
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
            self.forget();
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
        // Again each time: it is given back when programs are taken off by command.
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

    /// Puts the programs back where somebody else took them off, for until then packets go straight
    /// to backends; returns the interfaces' names. To be called now and then.
    ///
    /// # Errors
    ///
    /// [`PathProbeError`]; what [`PathProbes::set`] says of one holds.
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
            self.forget();
        }
        result
    }

    /// Packets that were sent on a probe's way since it has its mark. If this stays as it is while
    /// the probe is used, the packets went another way, and its outcome says nothing: somebody took
    /// the program off, or put one in front that ends a packet's way.
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

    /// Takes off what is there, once.
    async fn clear(&mut self) -> Result<(), PathProbeError> {
        self.forget();
        if !self.is_clean {
            remove(&self.netlink, &self.instance, &[]).await?;
            self.is_clean = true;
        }
        Ok(())
    }

    /// Lets go of the programs. Those on interfaces stay there, and what has a mark of theirs goes
    /// where it went; the numbers that were given come last when new ones are needed.
    fn forget(&mut self) {
        self.loaded = None;
        self.marks.clear();
    }
}

/// Takes the programs of an instance off interfaces: off those named, or off all, and then with
/// everything that was noted of them. For `director detach`; it also finds what a process left that
/// was killed. Returns the indices of the interfaces they were on.
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
