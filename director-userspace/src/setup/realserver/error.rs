//! Why setting a real server up or taking it down fails.

use std::{fmt, io, net::IpAddr, path::PathBuf};

use super::Prefix;
use crate::kernel::net::NetError;

/// Why setting a real server up, or taking it down, failed.
#[derive(Debug, thiserror::Error)]
pub enum RealServerError {
    /// The request cannot be carried out here. Nothing was changed.
    #[error("{}", lines(.0))]
    Refused(Vec<Refusal>),
    /// A name that would not fit into those of files.
    #[error("{name:?} cannot name an instance: 1 to 63 of a-z, 0-9 and -, such as \"green\"")]
    BadInstance {
        /// The name given.
        name: String,
    },
    /// A netlink request or a sysctl failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The decapsulation program could not be loaded, attached or examined.
    #[error("cannot {doing}: {reason}")]
    Bpf {
        /// What was tried, to stand after "cannot".
        doing: String,
        /// The error of the kernel or the loader.
        reason: String,
    },
    /// The state file is unreadable, unwritable or not ours.
    #[error("cannot {doing} {}: {source}", path.display())]
    StateFile {
        /// "read", "write", ...
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A step failed. The steps before it were undone, except those in `left`.
    #[error(
        "{source}\nat this step: {step}\n{}",
        if left.is_empty() { "all steps before it were undone".to_owned() }
        else { format!("these could not be undone:\n{}", lines(left)) }
    )]
    Step {
        /// The step as `--dry-run` prints it.
        step: String,
        /// Why it failed.
        source: Box<Self>,
        /// Earlier steps that could not be undone, and why.
        left: Vec<String>,
    },
}

/// One thing wrong with a request, found before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This process may not do it.
    #[error("this needs {name} ({what_for}): run it as root")]
    MissingCapability {
        /// The capability, as in capabilities(7).
        name: &'static str,
        /// What is done with it.
        what_for: &'static str,
    },
    /// No VIP at all.
    #[error("no VIP given: name at least one with --vip")]
    NoVip,
    /// An address that no client can send to.
    #[error("{vip} cannot be a VIP: it is {what}")]
    UnusableVip {
        /// The address.
        vip: IpAddr,
        /// "a multicast address", ...
        what: &'static str,
    },
    /// The host would answer ARP for the VIP, or already does, on an interface that faces the
    /// network.
    #[error(
        "the VIP {vip} is on {interface}, where this host answers ARP for it and takes the \
         director's place: `ip address delete {vip}/{prefix_len} dev {interface}` first"
    )]
    VipOnInterface {
        /// The address.
        vip: IpAddr,
        /// Where it is.
        interface: String,
        /// With which prefix length, in bits.
        prefix_len: u8,
    },
    /// IPv6 is off.
    #[error(
        "IPv6 is disabled on lo, so the VIP {vip} cannot be added: \
         `sysctl -w net.ipv6.conf.lo.disable_ipv6=0` first"
    )]
    Ipv6Disabled {
        /// The address.
        vip: IpAddr,
    },
    /// Tunnels would be accepted from no source.
    #[error(
        "no director given: name those that may send tunnels with --from ADDRESS[/LENGTH], \
         or use --forward direct"
    )]
    NoDirector,
    /// An address has bits set beyond its prefix.
    #[error("{given} has bits set beyond its prefix: did you mean {}?", given.network())]
    PrefixHasHostBits {
        /// The prefix as given.
        given: Prefix,
    },
    /// There is no such interface.
    #[error("there is no interface {name} here; there are: {}", existing.join(", "))]
    NoSuchInterface {
        /// The name given.
        name: String,
        /// Those that can be used.
        existing: Vec<String>,
    },
    /// The interface cannot receive tunnels.
    #[error("{name} is no Ethernet interface: name the one that faces the director")]
    NotEthernet {
        /// The name given.
        name: String,
    },
    /// No interface was named, and there is not exactly one.
    #[error(
        "{}: name the interface that faces the director with --interface",
        if candidates.is_empty() { "no Ethernet interface is up".to_owned() }
        else { format!("several interfaces are up ({})", candidates.join(", ")) }
    )]
    WhichInterface {
        /// Those that are up.
        candidates: Vec<String>,
    },
    /// Another XDP program is attached.
    #[error(
        "{interface} carries another XDP program, {program} (id {id}): \
         `ip link set dev {interface} xdp off` removes it if it is not needed, \
         or terminate tunnels in another way and use --forward direct"
    )]
    ForeignXdp {
        /// The interface.
        interface: String,
        /// The program's name, or `?`.
        program: String,
        /// Its id, as in `bpftool prog show id`.
        id: u32,
    },
}

impl RealServerError {
    /// Whether the request is wrong on any host: exit status 2 rather than 1.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Refused(refusals) => refusals.iter().all(Refusal::is_usage),
            Self::BadInstance { .. } => true,
            _ => false,
        }
    }
}

impl Refusal {
    const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoVip
                | Self::UnusableVip { .. }
                | Self::NoDirector
                | Self::PrefixHasHostBits { .. }
        )
    }
}

fn lines<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
