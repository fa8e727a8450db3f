//! How a service's backends are checked, and how the results are used.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Serialize, Serializer};

use super::{super::words::words, NonZeroU16, units};

/// A service's settings for its backends' health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// A backend is up if all of these pass. None: always up.
    #[serde(rename = "health", skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<HealthCheck>,
    /// Where a backend's load is read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// Least sum of the weights of backends that are up; below it the service is down: its `sorry`
    /// backend, or `when_empty`, gets the new flows.
    pub quorum: u32,
    /// The quorum is lost below `quorum - hysteresis` and back at `quorum + hysteresis`; less than
    /// `quorum`.
    pub hysteresis: u32,
    /// What happens to the known flows of a backend that is down.
    pub on_down: OnDown,
    /// How long the weight of a backend that came up takes to reach its full value; may be zero.
    #[serde(serialize_with = "units::serialize_duration")]
    pub slow_start: Duration,
    /// If more than this share of the backends, in percent, is down at once, the checker is more
    /// likely at fault, and all are kept. 100: never.
    pub panic: Percent,
}

impl Default for Health {
    /// Nothing is checked.
    fn default() -> Self {
        Self {
            checks: Vec::new(),
            agent: None,
            quorum: 1,
            hysteresis: 0,
            on_down: OnDown::Reschedule,
            slow_start: Duration::ZERO,
            panic: Percent(100),
        }
    }
}

/// A share from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}%", self.0))
    }
}

/// One check. Equal checks of one address share one probe, whichever services have them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HealthCheck {
    /// The request, and the expected reply.
    #[serde(flatten)]
    pub probe: Probe,
    /// From the start of one probe to that of the next; at least 100 ms.
    #[serde(serialize_with = "units::serialize_duration")]
    pub interval: Duration,
    /// A probe without the expected reply after this time has failed; at most the interval.
    #[serde(serialize_with = "units::serialize_duration")]
    pub timeout: Duration,
    /// Successes in a row that bring a backend up; at least 1.
    pub rise: u16,
    /// Failures in a row that take it down; at least 1.
    pub fall: u16,
    /// Each interval is shorter by up to this, so that probes of many directors spread.
    pub jitter: Percent,
    /// A backend's state before its first probe.
    pub start: Start,
    /// The port to probe, if not the service's. Never missing if the service's port is `any` and
    /// the probe needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// The path of the probe.
    pub via: Via,
}

/// The request of a check, and the expected reply.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Probe {
    /// A connection can be opened.
    Tcp,
    /// An HTTP request succeeds.
    Http(HttpProbe),
    /// The same over TLS.
    Https(HttpProbe),
    /// A DNS question over UDP is answered.
    Dns(DnsProbe),
    /// A datagram draws no ICMP error, and the expected reply if one is configured.
    Udp(UdpProbe),
    /// An echo request is answered.
    Icmp,
    /// A program on this host exits with status 0.
    Exec(ExecProbe),
    /// gRPC's health service (grpc.health.v1) reports SERVING, over HTTP/2 without TLS.
    Grpc(GrpcProbe),
}

impl Probe {
    /// Its word in the configuration.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Dns(_) => "dns",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
            Self::Exec(_) => "exec",
            Self::Grpc(_) => "grpc",
        }
    }
}

/// An HTTP request, and what its response must satisfy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HttpProbe {
    /// `GET`, `HEAD`, ...: an HTTP token.
    pub method: String,
    /// Starts with `/`.
    pub path: String,
    /// The Host header; the backend's address if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// More headers of the request, valid ones.
    #[serde(serialize_with = "serialize_headers", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Accepted status codes; not empty.
    #[serde(serialize_with = "serialize_ranges")]
    pub status: Vec<RangeInclusive<u16>>,
    /// A valid regular expression (`regex` crate) that must match somewhere in the first 64 KiB of
    /// the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The HTTP version.
    pub version: HttpVersion,
    /// TLS only: the server name to send; `host` if missing, none if that is missing or an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// TLS only: whether the certificate must be valid for that name, by this host's roots.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
}

/// A DNS question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct DnsProbe {
    /// The name to query, a valid one; `.` is the root.
    pub name: String,
    /// The record type's name: `A`, `SOA`, ...
    pub record: String,
    /// The answer must have a record of that type, besides NOERROR.
    pub answer: bool,
}

/// A datagram, and the expected reply, if any.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct UdpProbe {
    /// What is sent; may be empty.
    pub send: String,
    /// A regular expression that the reply's bytes match. Without it, silence is a success, and an
    /// ICMP error is a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
}

/// A program on this host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ExecProbe {
    /// The program's absolute path, and its arguments. The environment has only DIRECTOR_ADDRESS,
    /// DIRECTOR_PORT (empty if the service's port is `any`) and PATH.
    pub command: Vec<String>,
    /// The user it runs as; never root.
    pub user: String,
}

/// A request to gRPC's health service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct GrpcProbe {
    /// The service's name; empty: the server as a whole.
    pub service: String,
}

/// Where a backend's load is read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Agent {
    /// How it is queried.
    #[serde(flatten)]
    pub source: AgentSource,
    /// How often; at least 100 ms.
    #[serde(serialize_with = "units::serialize_duration")]
    pub interval: Duration,
    /// How long an answer may take; at most the interval.
    #[serde(serialize_with = "units::serialize_duration")]
    pub timeout: Duration,
    /// The share of its weight that a backend never goes below, `drain` and `down` aside.
    pub min: Percent,
    /// How far the share moves from the last to the reported one at once; 1 to 100.
    pub smoothing: Percent,
}

/// How a backend's load is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum AgentSource {
    /// HAProxy's agent-check: connect, and read a line such as `75%`, `drain`, `up 50%`.
    Agent {
        /// The agent's port.
        port: NonZeroU16,
    },
    /// The same text in a header of an HTTP response.
    Http {
        /// The port; the service's if missing.
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<NonZeroU16>,
        /// Starts with `/`.
        path: String,
        /// The header's name.
        header: String,
    },
    /// The same text on the standard output of a program on this host.
    Exec(ExecProbe),
}

fn serialize_ranges<S: Serializer>(
    ranges: &[RangeInclusive<u16>],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(ranges.iter().map(|range| {
        if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("{}-{}", range.start(), range.end())
        }
    }))
}

fn serialize_headers<S: Serializer>(
    headers: &[(String, String)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(headers.iter().map(|(name, value)| (name, value)))
}

words! {
    /// A backend's state before its first probe.
    Start {
        /// Up, until checks fail.
        Up = "up",
        /// Down, until checks succeed.
        Down = "down",
    }
}

words! {
    /// The path of a probe.
    Via {
        /// To the backend's own address.
        Direct = "direct",
        /// To the VIP, through the data path to this backend.
        Path = "path",
    }
}

words! {
    /// What happens to the known flows of a backend that is down.
    OnDown {
        /// They go to another backend.
        Reschedule = "reschedule",
        /// They stay.
        Keep = "keep",
    }
}

words! {
    /// The HTTP version.
    HttpVersion {
        /// HTTP/1.1.
        Http1 = "1.1",
        /// HTTP/2: by ALPN over TLS, with prior knowledge without.
        Http2 = "2",
    }
}
