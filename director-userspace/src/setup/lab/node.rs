//! One node of a lab: a network namespace with one interface to the switch.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use nix::sched::{CloneFlags, setns};

use super::record::NodeRecord;
use crate::kernel::net::{NetError, NetNs};

/// A node of a lab.
#[derive(Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) netns: NetNs,
    pub(super) interface: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) backend: bool,
}

impl Node {
    pub(super) fn new(record: &NodeRecord, netns: NetNs) -> Self {
        let NodeRecord { name, interface, addresses, listen, backend } = record.clone();
        Self { name, netns, interface, addresses, listen, backend }
    }

    /// `director`, `client1`, `b1`, `switch`, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace. `ip netns` names it `LAB-NODE`.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The name of its (first) interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Its own addresses, VIPs not among them. At least one of each family, except of the switch,
    /// which has none.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// VIPs and TCP ports that a server on it may listen on; empty unless it is a backend.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Whether it is a backend of the configuration.
    pub fn is_backend(&self) -> bool {
        self.backend
    }

    /// Its first IPv4 address.
    pub fn ipv4(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4)
    }

    /// Its first IPv6 address.
    pub fn ipv6(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv6)
    }

    /// Runs a closure on a thread of its own in the node's network namespace, and waits. Sockets
    /// opened inside stay the node's wherever they are used later.
    ///
    /// # Errors
    /// [`NetError::System`] if the namespace can't be entered (CAP_SYS_ADMIN is needed).
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetError> {
        self.netns.run(|| Ok(work()))
    }

    /// Makes a command run on this node. Only the network namespace is entered: /sys and bpffs
    /// stay the caller's.
    ///
    /// # Errors
    /// An error of dup(2).
    pub fn place(&self, command: &mut Command) -> io::Result<()> {
        let namespace = std::os::fd::AsFd::as_fd(&self.netns).try_clone_to_owned()?;
        // SAFETY: between fork and exec the closure only calls setns(2), which is
        // async-signal-safe and allocates nothing; the descriptor lives inside the closure.
        unsafe {
            command.pre_exec(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
            });
        }
        Ok(())
    }

    /// Starts a command on this node. See [`Node::place`]. What still runs when the lab is
    /// removed is ended, by SIGTERM first.
    ///
    /// # Errors
    /// Those of [`Command::spawn`].
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        self.place(&mut command)?;
        command.spawn()
    }
}
