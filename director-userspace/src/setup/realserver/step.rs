//! What is done to a host, one reversible step at a time.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Mode, Prefix};

/// The loopback interface, which has the VIPs.
pub(super) const LOOPBACK: &str = "lo";

/// One change to the host. Printed, it is a line for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Changes a kernel setting.
    SetSysctl {
        /// Below /proc/sys, with slashes: interface names may hold dots.
        key: String,
        /// The value until now.
        from: String,
        /// The value from now on.
        to: String,
    },
    /// Adds a VIP to the loopback interface, with a prefix of its full length.
    AddAddress {
        /// The VIP.
        vip: IpAddr,
    },
    /// Removes a VIP from the loopback interface.
    RemoveAddress {
        /// The VIP.
        vip: IpAddr,
    },
    /// Attaches the decapsulation program.
    AttachDecap(Decap),
    /// Exchanges the decapsulation program's settings, without missing a packet.
    ReplaceDecap {
        /// The settings until now.
        from: Decap,
        /// The settings from now on; interface and mode are the same.
        to: Decap,
    },
    /// Detaches the decapsulation program.
    DetachDecap(Decap),
}

/// Where tunnels are decapsulated, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decap {
    /// The interface that faces the director.
    pub interface: String,
    /// Where in its receive path the program runs.
    pub mode: Mode,
    /// Allowed sources of tunnels.
    pub from: BTreeSet<Prefix>,
    /// Allowed inner destinations.
    pub vips: BTreeSet<IpAddr>,
}

impl Step {
    /// The step that reverts this one.
    #[must_use]
    pub fn inverse(&self) -> Self {
        match self.clone() {
            Self::SetSysctl { key, from, to } => Self::SetSysctl { key, from: to, to: from },
            Self::AddAddress { vip } => Self::RemoveAddress { vip },
            Self::RemoveAddress { vip } => Self::AddAddress { vip },
            Self::AttachDecap(decap) => Self::DetachDecap(decap),
            Self::ReplaceDecap { from, to } => Self::ReplaceDecap { from: to, to: from },
            Self::DetachDecap(decap) => Self::AttachDecap(decap),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSysctl { key, from, to } => {
                // sysctl(8) takes both separators; dots are usual.
                let key = if key.contains('.') { key.clone() } else { key.replace('/', ".") };
                write!(f, "sysctl -w {key}={to}  # was {from}")
            }
            Self::AddAddress { vip: vip @ IpAddr::V4(_) } => {
                write!(f, "ip address add {} dev {LOOPBACK}", Prefix::from(*vip))
            }
            Self::AddAddress { vip } => {
                write!(f, "ip address add {} dev {LOOPBACK} nodad", Prefix::from(*vip))
            }
            Self::RemoveAddress { vip } => {
                write!(f, "ip address delete {} dev {LOOPBACK}", Prefix::from(*vip))
            }
            Self::AttachDecap(decap) => write!(f, "# attach XDP decapsulation to {decap}"),
            Self::ReplaceDecap { to, .. } => write!(f, "# change XDP decapsulation on {to}"),
            Self::DetachDecap(decap) => {
                write!(f, "# detach XDP decapsulation from {}", decap.interface)
            }
        }
    }
}

impl fmt::Display for Decap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, mode, from, vips } = self;
        write!(f, "{interface} ({mode}): from {}, to {}", listed(from), listed(vips))
    }
}

fn listed<T: ToString>(items: &BTreeSet<T>) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
