//! What only the daemon has a use for: its API, and whom it tells.

use std::{net::SocketAddr, path::PathBuf};

use serde::Serialize;

/// Where the daemon can be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Api {
    /// The socket's absolute path; the instance's own if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The group that may use the socket beside root; `director`, if there is one, if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where `/metrics` is served over HTTP; nowhere if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Where the status page is served over HTTP; nowhere if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<SocketAddr>,
}

/// Whom the daemon tells of transitions, beside the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Alarms {
    /// Programs that are run with a transition: absolute path and arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<Vec<String>>,
    /// Who runs them; never root. `nobody` if missing.
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
    /// Whether the server must offer STARTTLS, and have a good certificate.
    pub starttls: bool,
    /// The sender's address.
    pub from: String,
    /// Who gets it; not empty.
    pub to: Vec<String>,
}
