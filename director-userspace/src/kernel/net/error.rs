//! Errors of reading and changing the kernel's network configuration.

use std::{io, net::IpAddr};

/// Why a request to the kernel, or a change, failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A system call or a netlink request failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried, to stand after "cannot".
        doing: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// No interface of this name in this network namespace.
    #[error("there is no interface {name} here; `ip link` lists those there are")]
    NoSuchInterface {
        /// The requested name.
        name: String,
    },
    /// No interface of this index in this network namespace.
    #[error("there is no interface with index {index} here; it was removed meanwhile")]
    NoSuchIndex {
        /// The requested index.
        index: u32,
    },
    /// No network namespace of this name or path.
    #[error("there is no network namespace {name}; `ip netns` lists those there are")]
    NoSuchNamespace {
        /// The requested name or path.
        name: String,
    },
    /// A network namespace of this name exists.
    #[error("the network namespace {name} exists already; `ip netns delete {name}` removes it")]
    NamespaceExists {
        /// The requested name.
        name: String,
    },
    /// Not a name that `ip netns` would take.
    #[error("{name:?} cannot name a network namespace: it must be 1 to 255 bytes without a `/`")]
    BadNamespaceName {
        /// The requested name.
        name: String,
    },
    /// The routing table has no route to a destination.
    #[error("no route to {destination} ({reason}); `ip route get {destination}` shows the same")]
    NoRoute {
        /// Where to.
        destination: IpAddr,
        /// The kernel's reason: unreachable, prohibit, blackhole, ...
        reason: String,
    },
    /// The address is this host's own.
    #[error("{address} is an address of this host, so no packet to it leaves")]
    OwnAddress {
        /// The requested address.
        address: IpAddr,
    },
}

impl NetError {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Makes a [`NetError::System`] of anything that becomes an I/O error.
pub(crate) fn failed(doing: impl Into<String>, source: impl Into<io::Error>) -> NetError {
    NetError::System { doing: doing.into(), source: source.into() }
}
