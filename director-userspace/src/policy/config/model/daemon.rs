//! Settings of the daemon alone: its API and its alarms.

use std::{net::SocketAddr, path::PathBuf};

use serde::Serialize;

/// The daemon's API and HTTP listeners.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Api {
    /// Names in lower case that clients of metrics and the page may use, besides the hostname.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The socket's absolute path; the instance's own if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The group that may use the socket besides root; `director`, if there is one, if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where `/metrics` is served over HTTP; nowhere if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Where the status page is served over HTTP; nowhere if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<SocketAddr>,
}

/// Where transitions are reported, besides the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Alarms {
    /// Programs that are run on a transition: absolute path and arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<Vec<String>>,
    /// The user they run as; never root. `nobody` if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `http://` or `https://` URLs that get transitions as JSON.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<String>,
    /// Mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail: Option<Mail>,
}

/// Mail by SMTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mail {
    /// `host:port` of the server.
    pub server: String,
    /// Whether the server must offer STARTTLS, and have a valid certificate.
    pub starttls: bool,
    /// The sender's address.
    pub from: String,
    /// The recipients; not empty.
    pub to: Vec<String>,
}
