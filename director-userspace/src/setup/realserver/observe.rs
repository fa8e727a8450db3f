//! The current state of the host: everything a plan depends on.

use std::collections::BTreeMap;

use super::{RealServerError, Settings, plan, program, state::State};
use crate::kernel::{
    host::privileges,
    net::{Address, Link, NetError, Netlink},
};

/// The state of the host, as far as a plan depends on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// The interfaces.
    pub(super) interfaces: Vec<Interface>,
    /// The addresses on them.
    pub(super) addresses: Vec<Address>,
    /// Values of the settings that matter, by key below /proc/sys.
    pub(super) sysctls: BTreeMap<String, String>,
    /// The interface by which the first director is reached.
    pub(super) toward_director: Option<String>,
    /// The program that our link holds.
    pub(super) our_program: Option<u32>,
    /// The effective capabilities of this thread, a bit each (capabilities(7)).
    pub(super) capabilities: u64,
}

/// What a plan depends on of an interface.
#[derive(Debug, Clone)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) ethernet: bool,
    pub(super) running: bool,
    pub(super) xdp: Option<XdpProgram>,
}

/// An XDP program on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct XdpProgram {
    pub(super) id: u32,
    pub(super) name: String,
}

impl Observed {
    pub(super) fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The names of the interfaces that tunnels can arrive on.
    pub(super) fn ethernet_names(&self) -> Vec<String> {
        let ethernet = self.interfaces.iter().filter(|interface| interface.ethernet);
        ethernet.map(|interface| interface.name.clone()).collect()
    }

    /// The name of the interface with this index.
    pub(super) fn name_of(&self, index: u32) -> Option<&str> {
        let found = self.interfaces.iter().find(|interface| interface.index == index);
        found.map(|interface| interface.name.as_str())
    }
}

/// Reads the state of the host; with `settings`, also what they will change.
pub(super) async fn observe(
    netlink: &Netlink,
    our_program: Option<u32>,
    settings: Option<&Settings>,
    state: &State,
) -> Result<Observed, RealServerError> {
    let links = netlink.links().await?;
    let mut observed = Observed {
        interfaces: links.iter().map(interface_of).collect(),
        addresses: netlink.addresses().await?,
        our_program,
        capabilities: effective_capabilities()?,
        ..Observed::default()
    };
    let mut keys: Vec<String> = state.sysctls.iter().map(|c| c.key.clone()).collect();
    if let Some(settings) = settings {
        if let Some(director) = settings.from.first() {
            // No route is no error here: the interface can be named.
            let route = netlink.route_to(director.address).await.ok();
            observed.toward_director =
                route.and_then(|route| observed.name_of(route.link_index).map(str::to_owned));
        }
        keys.extend(plan::sysctls_read(settings, &observed));
    }
    for key in keys {
        if let Some(value) = netlink.sysctl(&key)? {
            observed.sysctls.insert(key, value);
        }
    }
    Ok(observed)
}

fn interface_of(link: &Link) -> Interface {
    Interface {
        index: link.index,
        name: link.name.clone(),
        ethernet: link.ethernet && !link.loopback,
        running: link.running,
        xdp: link
            .xdp
            .as_ref()
            .map(|xdp| XdpProgram { id: xdp.prog_id, name: program::program_name(xdp.prog_id) }),
    }
}

fn effective_capabilities() -> Result<u64, RealServerError> {
    let path = "/proc/thread-self/status".into();
    privileges::effective().map_err(|source| RealServerError::StateFile {
        doing: "read",
        path,
        source,
    })
}

/// Runs `work`, which depends on the thread's network namespace, in that of the connection.
pub(super) fn in_namespace<T: Send>(
    netlink: &Netlink,
    work: impl FnOnce() -> Result<T, RealServerError> + Send,
) -> Result<T, RealServerError> {
    let here = crate::kernel::net::NetNs::current().and_then(|netns| netns.id());
    let there = netlink.netns().id();
    match (here, there) {
        (Ok(here), Ok(there)) if here == there => work(),
        (Err(error), _) | (_, Err(error)) => Err(NetError::into(error)),
        _ => netlink.netns().run(work),
    }
}
