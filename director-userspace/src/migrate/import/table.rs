//! A configuration of LVS, whatever its source.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use serde::Serialize;

use super::report::Note;
use crate::policy::config::model::HealthCheck;

/// A place in a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The file, as the user named it, or as another includes it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Everything that was read.
#[derive(Debug, Default)]
pub(super) struct LvsTable {
    pub(super) services: Vec<LvsService>,
    /// TCP, TCP after FIN, UDP.
    pub(super) timeouts: Timeouts,
    /// What was left out while reading.
    pub(super) notes: Vec<Note>,
}

/// LVS's timeouts of connections; those that the source does not set are missing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Timeouts {
    pub(super) tcp: Option<Duration>,
    pub(super) tcp_closing: Option<Duration>,
    pub(super) udp: Option<Duration>,
}

/// A transport protocol of LVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// What identifies a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Identity {
    /// Port 0: all that no other service has.
    Address {
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    },
    Mark {
        mark: u32,
        is_v6: bool,
    },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark { mark, .. } => write!(f, "fwmark {mark}"),
            Self::Address { protocol, address, port } => {
                write!(f, "{} ", protocol.word())?;
                match address {
                    IpAddr::V4(v4) => write!(f, "{v4}:")?,
                    IpAddr::V6(v6) => write!(f, "[{v6}]:")?,
                }
                if *port == 0 { f.write_str("any") } else { write!(f, "{port}") }
            }
        }
    }
}

/// LVS's persistence: a client's connections stay on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Persistence {
    pub(super) timeout: Duration,
    /// Prefix length of clients that belong together, if not a whole address.
    pub(super) prefix: Option<u8>,
}

/// A virtual service.
#[derive(Debug, Clone)]
pub(super) struct LvsService {
    pub(super) place: Place,
    pub(super) identity: Identity,
    /// Its name in the source, if it has one.
    pub(super) name: Option<String>,
    pub(super) scheduler: String,
    pub(super) scheduler_flags: Vec<String>,
    pub(super) persistence: Option<Persistence>,
    /// Persistence engine.
    pub(super) engine: Option<String>,
    /// One packet scheduling.
    pub(super) ops: bool,
    pub(super) servers: Vec<LvsServer>,
    pub(super) health: LvsHealth,
}

impl LvsService {
    pub(super) fn new(place: Place, identity: Identity) -> Self {
        Self {
            place,
            identity,
            name: None,
            scheduler: "wlc".to_owned(),
            scheduler_flags: Vec::new(),
            persistence: None,
            engine: None,
            ops: false,
            servers: Vec::new(),
            health: LvsHealth::default(),
        }
    }
}

/// What keepalived adds to a service.
#[derive(Debug, Clone)]
pub(super) struct LvsHealth {
    /// Sum of the weights that must be up.
    pub(super) quorum: u32,
    pub(super) hysteresis: u32,
    pub(super) sorry: Option<Sorry>,
}

impl Default for LvsHealth {
    fn default() -> Self {
        Self { quorum: 1, hysteresis: 0, sorry: None }
    }
}

/// The server that gets connections while no other can.
#[derive(Debug, Clone)]
pub(super) struct Sorry {
    pub(super) place: Place,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) method: Method,
}

/// How packets travel to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Method {
    Nat,
    Direct,
    Ipip,
    Gue,
    Gre,
    /// The server is the director itself.
    Local,
}

impl Method {
    /// Its usual name.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Nat => "NAT (masquerading)",
            Self::Direct => "direct routing",
            Self::Ipip => "IPIP tunnel",
            Self::Gue => "GUE tunnel",
            Self::Gre => "GRE tunnel",
            Self::Local => "local",
        }
    }

    /// Director's word, whether or not this version supports it.
    pub(super) fn forward(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Direct => "direct",
            Self::Ipip | Self::Gue | Self::Gre => "tunnel",
            Self::Local => "local",
        }
    }
}

/// A real server.
#[derive(Debug, Clone)]
pub(super) struct LvsServer {
    pub(super) place: Place,
    pub(super) address: IpAddr,
    /// 0: the service's.
    pub(super) port: u16,
    pub(super) method: Method,
    pub(super) weight: u32,
    /// Connections above which it gets no new ones; 0: none.
    pub(super) upper: u32,
    pub(super) lower: u32,
    /// Keeps its connections when a check fails.
    pub(super) inhibit: bool,
    /// Its checks, and where they are in the source.
    pub(super) checks: Vec<(Place, HealthCheck)>,
}

impl LvsServer {
    pub(super) fn new(place: Place, address: IpAddr, port: u16) -> Self {
        Self {
            place,
            address,
            port,
            method: Method::Direct,
            weight: 1,
            upper: 0,
            lower: 0,
            inhibit: false,
            checks: Vec::new(),
        }
    }
}
