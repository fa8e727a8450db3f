//! The facts that the checks evaluate, gathered once; a check itself never reads from the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    time::Duration,
};

use aya::programs::loaded_programs;
use nix::sys::{
    statfs::{BPF_FS_MAGIC, statfs},
    statvfs::{FsFlags, statvfs},
};
use tokio::task::JoinSet;

use crate::{
    kernel::{
        host::{kernel, privileges},
        net::{
            Address, Channels, Driver, Feature, Link, NeighbourState, NetError, Netlink, NextHop,
            XdpFeatures,
        },
    },
    policy::config::model::{Config, ForwardMode, Role},
};

/// How long to wait for an answer to ARP or neighbour discovery. The kernel sends one request per
/// second.
const ANSWER_WAIT: Duration = Duration::from_millis(1500);
/// Most concurrent lookups.
const MAX_LOOKUPS: usize = 64;

/// The host, independent of its role.
#[derive(Debug, Default)]
pub(super) struct HostFacts {
    /// The kernel's release, as `uname -r` shows it.
    pub(super) kernel_release: String,
    /// The kernel's version: 6, 1 for 6.1.
    pub(super) kernel: (u32, u32),
    /// Whether the kernel has BTF.
    pub(super) btf: bool,
    /// The state of /sys/fs/bpf.
    pub(super) bpffs: Bpffs,
    /// The effective capabilities of this process, one bit each.
    pub(super) capabilities: u64,
    /// CPUs that are online.
    pub(super) cpus: usize,
    /// The interfaces.
    pub(super) links: Vec<Link>,
    /// The addresses of the interfaces.
    pub(super) addresses: Vec<Address>,
    /// The NICs of the examined interfaces, by interface name.
    pub(super) nics: BTreeMap<String, Nic>,
    /// Names of the BPF programs on the interfaces, by id.
    pub(super) programs: BTreeMap<u32, String>,
    /// The existing kernel settings, by path below /proc/sys.
    pub(super) sysctls: BTreeMap<String, String>,
}

/// The BPF filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Bpffs {
    /// Not mounted.
    #[default]
    Missing,
    /// Mounted, and objects can be pinned.
    Mounted,
    /// Mounted read-only.
    ReadOnly,
}

/// The properties that a driver reports.
#[derive(Clone, Debug, Default)]
pub(super) struct Nic {
    /// The driver.
    pub(super) driver: Option<Driver>,
    /// Its queues.
    pub(super) channels: Option<Channels>,
    /// Its offloads.
    pub(super) features: Vec<Feature>,
    /// Its XDP features; none if the kernel does not report them.
    pub(super) xdp: Option<XdpFeatures>,
}

impl Nic {
    /// Whether an offload is active.
    pub(super) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f.name == feature && f.active)
    }
}

/// A director's host and its configuration.
#[derive(Debug)]
pub(super) struct DirectorFacts {
    /// The host.
    pub(super) host: HostFacts,
    /// The configuration.
    pub(super) config: Config,
    /// The next hop of each backend.
    pub(super) next_hops: BTreeMap<IpAddr, Result<NextHop, NetError>>,
    /// The owner, by interface, of each VIP that this host does not have.
    pub(super) owners: BTreeMap<(String, IpAddr), VipOwner>,
}

/// The result of looking up the owner of a VIP by ARP or neighbour discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VipOwner {
    /// Another host on the link, by MAC address.
    Host([u8; 6]),
    /// No host answered.
    NoAnswer,
    /// The lookup failed.
    Unknown(String),
}

impl HostFacts {
    /// Gathers the facts of the host and its interfaces, with the NICs of the named ones.
    ///
    /// # Errors
    /// [`NetError`] if the kernel doesn't list its interfaces.
    pub(super) async fn gather(netlink: &Netlink, interfaces: &[&str]) -> Result<Self, NetError> {
        let links = netlink.links().await?;
        let release = kernel::release();
        let mut facts = Self {
            kernel: kernel::parse(&release).unwrap_or_default(),
            kernel_release: release,
            btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            bpffs: bpffs(),
            capabilities: privileges::effective().unwrap_or(0),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            addresses: netlink.addresses().await?,
            programs: program_names(&links),
            nics: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            links,
        };
        // Ports of a bond or bridge receive for it.
        let is_named = |link: &Link| interfaces.contains(&link.name.as_str());
        let examined = facts.links.iter().filter(|link| {
            is_named(link)
                || facts.links.iter().any(|l| is_named(l) && Some(l.index) == link.master)
        });
        for link in examined {
            // A driver that fails a query counts as one that does not report.
            let nic = Nic {
                driver: netlink.driver(&link.name).unwrap_or_default(),
                channels: netlink.channels(&link.name).unwrap_or_default(),
                features: netlink.features(&link.name).unwrap_or_default(),
                xdp: netlink.xdp_features(link.index).unwrap_or_default(),
            };
            facts.nics.insert(link.name.clone(), nic);
        }
        let mut settings = vec![
            "net/core/bpf_jit_enable".to_owned(),
            "net/ipv4/neigh/default/gc_thresh3".to_owned(),
            "net/ipv6/neigh/default/gc_thresh3".to_owned(),
            "net/ipv6/conf/lo/disable_ipv6".to_owned(),
        ];
        for name in facts.links.iter().map(|l| l.name.as_str()).chain(["all"]) {
            for setting in ["arp_ignore", "arp_announce", "rp_filter"] {
                settings.push(format!("net/ipv4/conf/{name}/{setting}"));
            }
        }
        facts.sysctls = netlink.sysctls(settings)?;
        Ok(facts)
    }

    /// The interface of this name.
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The interface of this index.
    pub(super) fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The name of the interface of this index, for messages.
    pub(super) fn name_of(&self, index: u32) -> &str {
        self.link_at(index).map_or("a removed interface", |link| &link.name)
    }

    /// The effective value of an IPv4 setting of an interface: the kernel uses the greater of the
    /// interface's own value and that of `all`.
    pub(super) fn ipv4_setting(&self, interface: &str, setting: &str) -> u32 {
        [interface, "all"]
            .iter()
            .filter_map(|name| self.sysctl_number(&format!("net/ipv4/conf/{name}/{setting}")))
            .max()
            .unwrap_or(0)
    }

    /// A setting that is a number.
    pub(super) fn sysctl_number(&self, path: &str) -> Option<u32> {
        self.sysctls.get(path)?.parse().ok()
    }

    /// Whether an interface has a subnet with this address in it.
    pub(super) fn is_on_link(&self, link_index: u32, ip: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|a| a.link_index == link_index && contains(a.address, a.prefix_len, ip))
    }
}

impl DirectorFacts {
    /// Gathers all facts that the configuration depends on.
    ///
    /// # Errors
    /// As [`HostFacts::gather`].
    pub(super) async fn gather(netlink: &Netlink, config: &Config) -> Result<Self, NetError> {
        let backends: BTreeSet<IpAddr> =
            config.services.iter().flat_map(|s| &s.backends).map(|b| b.address).collect();
        let next_hops = next_hops(netlink, backends).await;
        let mut named: BTreeSet<String> =
            config.interfaces.iter().map(|interface| interface.name.clone()).collect();
        // Egress interfaces are examined like ingress interfaces.
        for hop in next_hops.values().flatten() {
            if let Ok(link) = netlink.link_by_index(hop.link_index).await {
                named.insert(link.name);
            }
        }
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let host = HostFacts::gather(netlink, &named).await?;
        let owners = owners(netlink, &host, config).await;
        Ok(Self { host, config: config.clone(), next_hops, owners })
    }

    /// The names of the ingress interfaces.
    pub(super) fn ingress(&self) -> impl Iterator<Item = &str> {
        let both = self.config.interfaces.iter().filter(|i| i.role == Role::Both);
        both.map(|interface| interface.name.as_str())
    }

    /// The backends of all services, with their service's name and forwarding mode.
    pub(super) fn backends(
        &self,
    ) -> impl Iterator<Item = (&str, ForwardMode, &crate::policy::config::model::Backend)> {
        self.config.services.iter().flat_map(|service| {
            service.backends.iter().map(move |b| (service.name.as_str(), service.forward, b))
        })
    }

    /// The VIPs, once each.
    pub(super) fn vips(&self) -> BTreeSet<IpAddr> {
        vips(&self.config)
    }
}

fn vips(config: &Config) -> BTreeSet<IpAddr> {
    config.services.iter().map(|service| service.frontend.address).collect()
}

/// Resolves the next hop of every backend, many at a time.
async fn next_hops(
    netlink: &Netlink,
    backends: BTreeSet<IpAddr>,
) -> BTreeMap<IpAddr, Result<NextHop, NetError>> {
    let resolve = |ip: IpAddr| {
        let netlink = netlink.clone();
        async move {
            let mut next_hop = netlink.resolve_next_hop(ip, ANSWER_WAIT).await;
            if let Ok(hop) = &mut next_hop
                && hop.mac.is_some()
                && is_silent(&netlink, hop).await
            {
                hop.mac = None;
            }
            (ip, next_hop)
        }
    };
    all(backends.into_iter().map(resolve)).await
}

/// Whether a resolved neighbour does not answer now. The kernel keeps the entry of a dead one for
/// half a minute and more.
async fn is_silent(netlink: &Netlink, hop: &NextHop) -> bool {
    let (link, ip) = (hop.route_link_index, hop.neighbour);
    match netlink.neighbour(link, ip).await {
        Ok(Some(known)) if known.state == NeighbourState::Permanent => false,
        // Without permission to send a request, the kernel's entry counts.
        _ => matches!(netlink.who_has(link, ip, ANSWER_WAIT).await, Ok(None)),
    }
}

/// Looks up the owners of the VIPs that this host does not have, on every ingress interface.
async fn owners(
    netlink: &Netlink,
    host: &HostFacts,
    config: &Config,
) -> BTreeMap<(String, IpAddr), VipOwner> {
    let missing: Vec<IpAddr> = vips(config)
        .into_iter()
        .filter(|vip| !host.addresses.iter().any(|a| a.address == *vip))
        .collect();
    let mut lookups = Vec::new();
    for interface in config.interfaces.iter().filter(|i| i.role == Role::Both) {
        let Some(link) = host.link(&interface.name) else {
            continue;
        };
        for &vip in &missing {
            let (netlink, name) = (netlink.clone(), interface.name.clone());
            let (index, running) = (link.index, link.running);
            lookups.push(async move {
                let owner = if !running {
                    VipOwner::Unknown(format!("{name} is down"))
                } else {
                    match netlink.who_has(index, vip, ANSWER_WAIT).await {
                        Ok(Some(owner)) => VipOwner::Host(owner.mac),
                        Ok(None) => VipOwner::NoAnswer,
                        Err(error) => VipOwner::Unknown(error.to_string()),
                    }
                };
                ((name, vip), owner)
            });
        }
    }
    all(lookups.into_iter()).await
}

/// Runs futures, a limited number at a time.
async fn all<K: Ord + Send + 'static, V: Send + 'static>(
    mut futures: impl Iterator<Item = impl Future<Output = (K, V)> + Send + 'static>,
) -> BTreeMap<K, V> {
    let mut running = JoinSet::new();
    for future in futures.by_ref().take(MAX_LOOKUPS) {
        running.spawn(future);
    }
    let mut results = BTreeMap::new();
    while let Some(done) = running.join_next().await {
        // Only a panic ends a task without a result, and it has been printed.
        results.extend(done.ok());
        if let Some(future) = futures.next() {
            running.spawn(future);
        }
    }
    results
}

/// Whether the prefix of `network` contains an address.
pub(super) fn contains(network: IpAddr, prefix_len: u8, ip: IpAddr) -> bool {
    let len = u32::from(prefix_len);
    match (network, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(32 - len.min(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(128 - len.min(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn bpffs() -> Bpffs {
    let path = "/sys/fs/bpf";
    match statfs(path) {
        Ok(stat) if stat.filesystem_type() == BPF_FS_MAGIC => match statvfs(path) {
            Ok(stat) if stat.flags().contains(FsFlags::ST_RDONLY) => Bpffs::ReadOnly,
            _ => Bpffs::Mounted,
        },
        _ => Bpffs::Missing,
    }
}

/// The names of the XDP programs on interfaces, as far as this process may read them.
fn program_names(links: &[Link]) -> BTreeMap<u32, String> {
    let ids: BTreeSet<u32> = links.iter().filter_map(|l| l.xdp.map(|xdp| xdp.prog_id)).collect();
    if ids.is_empty() {
        return BTreeMap::new();
    }
    loaded_programs()
        .flatten()
        .filter(|program| ids.contains(&program.id()))
        .filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (network, len, ip, expected) in [
            ("10.0.0.1", 24, "10.0.0.200", true),
            ("10.0.0.1", 24, "10.0.1.1", false),
            ("10.0.0.1", 32, "10.0.0.1", true),
            ("10.0.0.1", 32, "10.0.0.2", false),
            ("10.0.0.1", 0, "192.0.2.1", true),
            ("2001:db8::1", 64, "2001:db8::ffff", true),
            ("2001:db8::1", 64, "2001:db8:0:1::1", false),
            ("2001:db8::1", 0, "fe80::1", true),
            ("10.0.0.1", 0, "fe80::1", false),
        ] {
            let [network, ip]: [IpAddr; 2] = [network, ip].map(|a| a.parse().expect("address"));
            assert_eq!(contains(network, len, ip), expected, "{network}/{len} {ip}");
        }
    }
}
