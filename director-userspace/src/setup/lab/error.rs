//! Why a lab cannot be built or used.

use std::{io, path::PathBuf};

use crate::{kernel::net::NetError, setup::realserver::RealServerError};

/// Why a lab could not be built, opened, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A name that would not fit into those of namespaces and files.
    #[error("{name:?} cannot name a lab: 1 to 32 of a-z, 0-9 and -, such as \"lab\"")]
    BadName {
        /// The name given.
        name: String,
    },
    /// Only root may make namespaces.
    #[error(
        "a lab needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make network namespaces: run it as root"
    )]
    NeedsRoot,
    /// It is in use.
    #[error(
        "the lab {name} already exists{}: `director lab down --name {name}` removes it, \
         --name builds another beside it",
        creator.map(|pid| format!(" (process {pid} is using it)")).unwrap_or_default()
    )]
    Exists {
        /// The lab.
        name: String,
        /// The process that built it and is still running, unless the lab is persistent.
        creator: Option<u32>,
    },
    /// There is none.
    #[error(
        "there is no lab {name} ({}); `director lab up` builds one",
        if others.is_empty() { "nor any other".to_owned() }
        else { format!("there are: {}", others.join(", ")) }
    )]
    NoSuchLab {
        /// The name asked for.
        name: String,
        /// Those that exist.
        others: Vec<String>,
    },
    /// A node that the lab does not have.
    #[error("the lab has no node {name}; it has: {}", existing.join(", "))]
    NoSuchNode {
        /// The name asked for.
        name: String,
        /// Those it has.
        existing: Vec<String>,
    },
    /// A configuration that cannot be laid out on one link.
    #[error("cannot lay the configuration out in a lab: {why}")]
    Unplaceable {
        /// What is wrong, and what to do.
        why: String,
    },
    /// A program a lab needs is not installed.
    #[error("{program} is not installed: `apt-get install {package}`")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A server on a node did not come up.
    #[error("the HTTP server on {node} does not answer:\n{log}")]
    ServerFailed {
        /// The node.
        node: String,
        /// The end of what it logged.
        log: String,
    },
    /// A file or process could not be handled.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried, to stand after "cannot".
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The file that says what a lab consists of is unreadable.
    #[error("{}: {why}; remove the file, and its namespaces with `ip netns`", path.display())]
    BrokenRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel refused a change to the network.
    #[error("{node}: {source}")]
    Net {
        /// The node it was for.
        node: String,
        /// What was refused.
        source: NetError,
    },
    /// A backend could not be set up.
    #[error("backend {node}: {source}")]
    Backend {
        /// The node.
        node: String,
        /// Why.
        source: RealServerError,
    },
}

impl LabError {
    pub(super) fn system(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { doing: doing.into(), source: source.into() }
    }
}

/// Says which node a refused change was for.
pub(super) trait OnNode<T> {
    fn on(self, node: &str) -> Result<T, LabError>;
}

impl<T> OnNode<T> for Result<T, NetError> {
    fn on(self, node: &str) -> Result<T, LabError> {
        self.map_err(|source| LabError::Net { node: node.to_owned(), source })
    }
}
