//! The programs on interfaces.
//!
//! A filter carries the instance's name, so that a director finds what its earlier process left,
//! and changes no other filters. A clsact qdisc is removed only if this instance created it and it
//! is empty; a file records which those are.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{PathProbeError, program::Programs};
use crate::kernel::{
    datapath::{Attached, Instance},
    net::{Clsact, Filter, NetError, Netlink, Side},
    private_file,
};

/// Priorities to try: filters in front might consume a packet.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=16;
/// The file in the instance's run directory: indices of interfaces, one a line.
const MADE: &str = "clsact";

/// The interfaces of a namespace, for one instance.
#[derive(Clone, Copy)]
pub(super) struct Interfaces<'a> {
    pub(super) netlink: &'a Netlink,
    pub(super) instance: &'a Instance,
}

impl Interfaces<'_> {
    /// Attaches the programs to both sides of an interface, or replaces what an earlier process of
    /// this instance attached. What is correct already stays; returns whether anything was not.
    pub(super) async fn attach(
        &self,
        interface: &Attached,
        range: u16,
        programs: &Programs,
    ) -> Result<bool, PathProbeError> {
        let index = interface.ifindex;
        let mut changed = false;
        match self.netlink.ensure_clsact(index).await? {
            Clsact::Present => {}
            Clsact::Made => self.record_made(|made| _ = made.insert(index))?,
            Clsact::Taken => {
                return Err(PathProbeError::IngressQdisc { interface: interface.name.clone() });
            }
        }
        // Ingress first: no probe is sent before its mark is known.
        for side in Side::ALL {
            let (fd, id) = programs.of(side);
            let there = self.netlink.filters(index, side).await?;
            let mut ours = there.iter().filter(|filter| self.is_ours(filter));
            let place = ours.next().map(|filter| (filter.priority, filter.handle));
            // More than one, if a first attempt was interrupted.
            for stray in ours {
                self.netlink.remove_classifier(index, side, stray).await?;
            }
            if there.iter().any(|filter| self.is_ours(filter) && filter.program == Some(id)) {
                continue;
            }
            let handle = u32::from(range);
            if let Some(other) =
                there.iter().find(|filter| self.is_of_another_instance(filter, handle))
            {
                return Err(PathProbeError::RangeTaken {
                    interface: interface.name.clone(),
                    owner: other.name.clone().unwrap_or_default(),
                });
            }
            self.put(index, side, place.filter(|(_, h)| *h == handle), handle, fd).await?;
            changed = true;
            if let Some((priority, old)) = place.filter(|(_, old)| *old != handle) {
                let old = Filter { priority, handle: old, name: None, program: None };
                self.netlink.remove_classifier(index, side, &old).await?;
            }
        }
        Ok(changed)
    }

    async fn put(
        &self,
        index: u32,
        side: Side,
        place: Option<(u16, u32)>,
        handle: u32,
        program: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), NetError> {
        let name = Some(self.filter_name());
        let mut filter = Filter { priority: 0, handle, name, program: None };
        let priorities = match place {
            Some((priority, _)) => priority..=priority,
            None => PRIORITIES,
        };
        let last = *priorities.end();
        for priority in priorities {
            filter.priority = priority;
            match self.netlink.put_classifier(index, side, &filter, program).await {
                // Filters of another kind or for another protocol have this priority.
                Err(error) if error.errno() == Some(libc::EINVAL) && priority != last => {}
                result => return result,
            }
        }
        Ok(())
    }

    /// Removes the programs from every interface but those of `keep`, with what was created for
    /// them. Returns the interfaces that they were on.
    pub(super) async fn detach(&self, keep: &BTreeSet<u32>) -> Result<Vec<u32>, PathProbeError> {
        let mut were_on = Vec::new();
        let made = self.made();
        for index in self.netlink.clsacts().await? {
            if keep.contains(&index) {
                continue;
            }
            match self.detach_one(index, made.contains(&index)).await {
                Ok(true) => were_on.push(index),
                Ok(false) => {}
                // The interface was removed meanwhile.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.record_made(|made| made.retain(|index| keep.contains(index)))?;
        Ok(were_on)
    }

    async fn detach_one(&self, index: u32, made: bool) -> Result<bool, NetError> {
        let mut was_on = false;
        let mut left = 0;
        for side in Side::ALL {
            for filter in self.netlink.filters(index, side).await? {
                if self.is_ours(&filter) {
                    self.netlink.remove_classifier(index, side, &filter).await?;
                    was_on = true;
                } else {
                    left += 1;
                }
            }
        }
        if made && left == 0 {
            self.netlink.remove_clsact(index).await?;
        }
        Ok(was_on)
    }

    fn filter_name(&self) -> String {
        format!("{FILTER_NAME}:{}", self.instance.name())
    }

    fn is_ours(&self, filter: &Filter) -> bool {
        filter.name.as_ref().is_some_and(|name| *name == self.filter_name())
    }

    /// Whether another instance uses this range here: one whose claim is not visible.
    fn is_of_another_instance(&self, filter: &Filter, handle: u32) -> bool {
        let name = filter.name.as_deref().unwrap_or_default();
        let is_path_probes = name.strip_prefix(FILTER_NAME).is_some_and(|n| n.starts_with(':'));
        filter.handle == handle && is_path_probes && !self.is_ours(filter)
    }

    fn file(&self) -> PathBuf {
        self.instance.run_dir().join(MADE)
    }

    fn made(&self) -> BTreeSet<u32> {
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn record_made(&self, change: impl FnOnce(&mut BTreeSet<u32>)) -> Result<(), PathProbeError> {
        let before = self.made();
        let mut made = before.clone();
        change(&mut made);
        if made == before {
            return Ok(());
        }
        let path = self.file();
        let result = if made.is_empty() {
            fs::remove_file(&path)
        } else {
            let lines: Vec<String> = made.iter().map(u32::to_string).collect();
            private_file::create_passable_directory(&self.instance.run_dir())
                .and_then(|()| private_file::replace(&path, lines.join("\n").as_bytes()))
        };
        result.map_err(|error| PathProbeError::File { path, error })
    }
}

/// The name of our filters, before the instance's name.
const FILTER_NAME: &str = "director-path";

fn is_gone(error: &NetError) -> bool {
    matches!(error.errno(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL))
}
