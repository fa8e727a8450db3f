//! What a lab consists of, on disk, so that any process can use it and what is left of it after
//! a crash can be removed. Written before the first namespace is made.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    LabError, process,
    topology::{NodePlan, Role},
};
use crate::{
    kernel::{net::NetNs, private_file},
    setup::realserver,
};

/// Where records are kept.
const DIRECTORY: &str = "/run/director";

/// The file's contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) name: String,
    /// The process that builds or uses it; none once the lab is persistent.
    pub(super) creator: Option<process::Identity>,
    pub(super) nodes: Vec<NodeRecord>,
}

/// A node that exists, or will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) addresses: Vec<IpAddr>,
    /// VIPs and ports that servers may listen on; empty unless it is a backend.
    pub(super) listen: Vec<SocketAddr>,
    pub(super) backend: bool,
}

impl Record {
    pub(super) fn new(name: &str, nodes: &[NodePlan]) -> Result<Self, LabError> {
        check_name(name)?;
        let switch = NodeRecord {
            name: super::SWITCH.into(),
            interface: super::BRIDGE.into(),
            addresses: Vec::new(),
            listen: Vec::new(),
            backend: false,
        };
        let nodes = nodes.iter().map(|node| NodeRecord {
            name: node.name.clone(),
            interface: node.interfaces[0].clone(),
            addresses: node.addresses.clone(),
            listen: match &node.role {
                Role::Backend { listen, .. } => listen.clone(),
                _ => Vec::new(),
            },
            backend: matches!(node.role, Role::Backend { .. }),
        });
        Ok(Self {
            name: name.into(),
            creator: Some(process::Identity::own()?),
            nodes: std::iter::once(switch).chain(nodes).collect(),
        })
    }

    /// The namespace of a node, as `ip netns` names it.
    pub(super) fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// The instance name of a backend's real server.
    pub(super) fn instance(&self, node: &str) -> String {
        format!("lab-{}-{node}", self.name)
    }

    /// Puts the record on disk, unless there is one of this name whose lab may be in use; one
    /// that a dead process left behind is removed with its lab.
    pub(super) fn claim(&self) -> Result<(), LabError> {
        let path = path(&self.name);
        private_file::create_passable_directory(Path::new(DIRECTORY))
            .map_err(|e| LabError::system(format!("create {DIRECTORY}"), e))?;
        // Linked into place whole, so that no process reads a part of it.
        let new = PathBuf::from(format!("{DIRECTORY}/.{}.{}", self.name, std::process::id()));
        private_file::replace(&new, &self.text()?)
            .map_err(|e| LabError::system(format!("write {}", new.display()), e))?;
        let claimed = self.link_into_place(&new, &path);
        // Whatever the outcome, the other name is no longer needed.
        let _ = fs::remove_file(&new);
        claimed
    }

    fn link_into_place(&self, new: &Path, path: &Path) -> Result<(), LabError> {
        for _ in 0..2 {
            match fs::hard_link(new, path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let old = Self::load(&self.name)?;
                    if old.creator.as_ref().is_none_or(process::Identity::is_alive) {
                        let creator = old.creator.map(|creator| creator.pid);
                        return Err(LabError::Exists { name: self.name.clone(), creator });
                    }
                    old.remove_lab()?;
                }
                Err(error) => {
                    return Err(LabError::system(format!("create {}", path.display()), error));
                }
            }
        }
        Err(LabError::Exists { name: self.name.clone(), creator: None })
    }

    /// Replaces the record on disk.
    pub(super) fn save(&self) -> Result<(), LabError> {
        let path = path(&self.name);
        private_file::replace(&path, &self.text()?)
            .map_err(|e| LabError::system(format!("write {}", path.display()), e))
    }

    pub(super) fn load(name: &str) -> Result<Self, LabError> {
        check_name(name)?;
        let path = path(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LabError::NoSuchLab { name: name.into(), others: names()? });
            }
            Err(error) => return Err(LabError::system(format!("read {}", path.display()), error)),
        };
        serde_json::from_str(&text)
            .map_err(|error| LabError::BrokenRecord { path, why: error.to_string() })
    }

    /// Removes everything that is left of the lab, the record last. All of it is tried, whatever
    /// fails; the first error is returned.
    pub(super) fn remove_lab(&self) -> Result<(), LabError> {
        let mut result = process::end_all_in(
            self.nodes.iter().filter_map(|node| NetNs::open(&self.namespace(&node.name)).ok()),
        );
        let mut keep_error = |outcome: Result<(), LabError>| {
            if result.is_ok() {
                result = outcome;
            }
        };
        for node in &self.nodes {
            if node.backend {
                let forgotten = realserver::forget(Some(&self.instance(&node.name)));
                keep_error(
                    forgotten
                        .map_err(|source| LabError::Backend { node: node.name.clone(), source }),
                );
            }
            match NetNs::delete(&self.namespace(&node.name)) {
                Ok(()) | Err(crate::kernel::net::NetError::NoSuchNamespace { .. }) => {}
                Err(source) => keep_error(Err(LabError::Net { node: node.name.clone(), source })),
            }
        }
        result.and_then(|()| remove_file(&self.name))
    }

    fn text(&self) -> Result<Vec<u8>, LabError> {
        serde_json::to_vec_pretty(self)
            .map_err(|e| LabError::system("describe the lab", io::Error::other(e)))
    }
}

/// The names of all labs on this host, sorted.
pub(super) fn names() -> Result<Vec<String>, LabError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LabError::system(format!("list {DIRECTORY}"), error)),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|file| Some(file.strip_prefix("lab-")?.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("{DIRECTORY}/lab-{name}.json"))
}

fn remove_file(name: &str) -> Result<(), LabError> {
    match fs::remove_file(path(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LabError::system(format!("remove {}", path(name).display()), error))
        }
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), LabError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if (1..=32).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(LabError::BadName { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in ["lab", "a-1", "x"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a/b", "..", "A", "a b", "\u{e4}", &"x".repeat(33)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
