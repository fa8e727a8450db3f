//! The configuration as the rest of Director sees it: complete, checked, without a trace of YAML.
//!
//! Made by [`parse`](super::parse) and [`load`](super::load) only, so that a holder of a
//! [`Config`] may rely on what the field docs promise. It serializes to the keys and words of
//! the file, all defaults spelled out; an entry with several protocols comes out once for each.

mod daemon;
mod health;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

pub use director_common::{backend::ForwardMode, flow::Protocol, service::WhenEmpty};
use serde::{Serialize, Serializer};

pub use self::{
    daemon::{Alarms, Api, Mail},
    health::{
        Agent, AgentSource, DnsProbe, ExecProbe, GrpcProbe, Health, HealthCheck, HttpProbe,
        HttpVersion, OnDown, Percent, Probe, Start, UdpProbe, Via,
    },
};
use super::{units, words::words};
pub use crate::policy::scheduler::Scheduler;

/// Most interfaces a configuration may name.
pub const MAX_INTERFACES: usize = 15;
/// Most services a configuration may have, counted after protocol lists are split.
pub const MAX_SERVICES: usize = director_common::service::MAX_SERVICES as usize;
/// Most backends one service may have.
pub const MAX_BACKENDS: usize = 4096;
/// Most backends all services may have together, counted after protocol lists are split.
pub const MAX_BACKENDS_IN_ALL: usize = 1 << 20;
/// Smallest flow table, in entries.
pub const MIN_FLOWS: u32 = 1 << 10;
/// Largest flow table, in entries.
pub const MAX_FLOWS: u32 = 1 << 26;

/// A whole configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Where to attach, at most [`MAX_INTERFACES`], no name twice. Empty if the file names none.
    pub interfaces: Vec<Interface>,
    /// How packets travel to backends that are reached by tunnel.
    pub tunnel: Tunnel,
    /// Size and timeouts of the flow table.
    pub flows: Flows,
    /// Key of the hash that picks ring positions.
    pub hash_key: HashKey,
    /// Where the daemon can be asked.
    pub api: Api,
    /// Whom the daemon tells.
    pub alarms: Alarms,
    /// What is balanced, at most [`MAX_SERVICES`], in file order, no [`Frontend`] twice. They have at
    /// most [`MAX_BACKENDS_IN_ALL`] backends.
    pub services: Vec<Service>,
}

/// A network interface Director attaches its program to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The kernel's name, 1 to 15 bytes. Whether it exists is not known here.
    pub name: String,
    /// Where in the receive path the program runs.
    pub mode: AttachMode,
    /// What the interface is for.
    pub role: Role,
    /// Whether Director adds the VIPs to this interface.
    pub assign_vips: bool,
}

/// How packets travel to backends that are reached by tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tunnel {
    /// Source address of the outer header.
    pub source: TunnelSource,
    /// What is put around a packet.
    pub encapsulation: Encapsulation,
}

/// Source address of a tunnel's outer header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelSource {
    /// The address the kernel would choose by route to the backend, per address family.
    Auto,
    /// Fixed addresses; at least one is set, and every family that a tunnelled backend has.
    Fixed {
        /// For backends with an IPv4 address.
        v4: Option<Ipv4Addr>,
        /// For backends with an IPv6 address.
        v6: Option<Ipv6Addr>,
    },
}

/// Size and timeouts of the flow table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flows {
    /// Entries, a power of two from [`MIN_FLOWS`] to [`MAX_FLOWS`].
    pub size: u32,
    /// How long an idle TCP connection is remembered; more than zero, as the other two.
    #[serde(serialize_with = "units::serialize_duration")]
    pub tcp: Duration,
    /// How long a TCP connection is remembered after FIN or RST.
    #[serde(serialize_with = "units::serialize_duration")]
    pub tcp_closing: Duration,
    /// How long an idle UDP flow is remembered.
    #[serde(serialize_with = "units::serialize_duration")]
    pub udp: Duration,
    /// Whether each flow's client is tracked, for `director conns`.
    pub clients: bool,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            size: 1 << 20,
            tcp: Duration::from_secs(2 * 3600 + 5 * 60),
            tcp_closing: Duration::from_secs(2 * 60),
            udp: Duration::from_secs(5 * 60),
            clients: false,
        }
    }
}

/// Key of the fleet-wide hash: directors with the same key send a flow to the same backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl Default for HashKey {
    /// A documented constant (`director.hashkey` in ASCII), so that directors agree out of the box.
    fn default() -> Self {
        Self(*b"director.hashkey")
    }
}

impl FromStr for HashKey {
    type Err = Malformed;

    /// 32 hexadecimal digits, either case.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let digits = text.as_bytes();
        let mut key = [0; 16];
        if digits.len() != 2 * key.len() {
            return Err(Malformed);
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_byte(pair).ok_or(Malformed)?;
        }
        Ok(Self(key))
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HashKey({self})")
    }
}

/// One balanced endpoint: a frontend, and the backends behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// What people call it. Shared by the services that one entry with several protocols makes.
    pub name: ServiceName,
    /// The address, protocol and port it answers on: what identifies it.
    #[serde(flatten)]
    pub frontend: Frontend,
    /// How a new flow gets its backend.
    pub scheduler: Scheduler,
    /// How packets travel to the backends.
    pub forward: ForwardMode,
    /// What happens to a new flow when no backend can take it.
    pub when_empty: WhenEmpty,
    /// How long the known flows of a backend that was removed stay with it; may be zero.
    #[serde(serialize_with = "units::serialize_duration")]
    pub drain_timeout: Duration,
    /// How the backends are checked.
    #[serde(flatten)]
    pub health: Arc<Health>,
    /// Who gets new flows while no other backend can, with weight 1: any address that is not among
    /// the backends.
    #[serde(serialize_with = "serialize_sorry", skip_serializing_if = "Option::is_none")]
    pub sorry: Option<Backend>,
    /// At most [`MAX_BACKENDS`], in file order, no address twice; may be empty.
    pub backends: Vec<Backend>,
}

/// The address, protocol and port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Frontend {
    /// The VIP: a unicast address, neither loopback nor IPv4-mapped.
    pub address: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: Port,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{} {v4}:{}", self.protocol, self.port),
            IpAddr::V6(v6) => write!(f, "{} [{v6}]:{}", self.protocol, self.port),
        }
    }
}

/// The port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// Every port that no service of the same address and protocol names.
    Any,
    /// This port (host byte order).
    Exact(NonZeroU16),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Exact(port) => port.fmt(f),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => to.serialize_str("any"),
            Self::Exact(port) => to.serialize_u16(port.get()),
        }
    }
}

/// A real server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Where packets go: unicast, not loopback, no VIP of this configuration. With
    /// [`ForwardMode::Direct`] of the VIP's family.
    pub address: IpAddr,
    /// Its share of the new flows, relative to the other weights; 0 takes none.
    pub weight: u16,
    /// The next hop's MAC address, if it is not to be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Whether it may get packets. Not a key of the file: see [`crate::policy::health_policy`].
    #[serde(skip)]
    pub availability: Availability,
}

/// Whether a backend may get packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Availability {
    /// Flows stay where they are; new ones follow its weight.
    #[default]
    Available,
    /// It gets no packets: its flows are rescheduled.
    Down,
}

/// A unicast Ethernet address, not all zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl FromStr for MacAddr {
    type Err = Malformed;

    /// Six pairs of hexadecimal digits between colons, either case. Says nothing about unicast.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut mac = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut mac {
            let pair = pairs.next().ok_or(Malformed)?;
            *byte = hex_byte(pair.as_bytes()).ok_or(Malformed)?;
        }
        pairs.next().is_none().then_some(Self(mac)).ok_or(Malformed)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

/// A service's name: 1 to 63 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceName(String);

impl ServiceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let valid = (1..=63).contains(&text.len()) && text.bytes().all(allowed);
        valid.then(|| Self(text.to_owned())).ok_or(Malformed)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text that is not what its type wants; the type's docs say what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

fn hex_byte(pair: &[u8]) -> Option<u8> {
    let [high, low] = pair else { return None };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high << 4 | low).ok()
}

words! {
    /// Where in the receive path the program runs.
    AttachMode {
        /// In the driver, before the kernel allocates anything.
        Native = "native",
        /// In the kernel's generic hook: any driver, slower.
        Generic = "generic",
    }
}

words! {
    /// What an interface is for.
    Role {
        /// Packets for VIPs arrive here, and packets may leave here.
        Both = "both",
        /// Packets may leave here; what arrives is not balanced.
        Egress = "egress",
    }
}

words! {
    /// What is put around a tunnelled packet.
    Encapsulation {
        /// An IP header, in all four family pairs.
        Ipip = "ipip",
    }
}

macro_rules! serialize_as_text {
    ($($name:ty),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )+};
}

serialize_as_text!(HashKey, MacAddr);

/// Without the weight: it has no other to be held against.
fn serialize_sorry<S: Serializer>(sorry: &Option<Backend>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Sorry {
        address: IpAddr,
        #[serde(skip_serializing_if = "Option::is_none")]
        mac: Option<MacAddr>,
    }
    sorry.as_ref().map(|backend| Sorry { address: backend.address, mac: backend.mac }).serialize(to)
}

impl Serialize for TunnelSource {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => to.serialize_str("auto"),
            Self::Fixed { v4, v6 } => {
                let both = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6));
                to.collect_seq(both)
            }
        }
    }
}
