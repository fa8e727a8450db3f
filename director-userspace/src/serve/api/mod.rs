//! The daemon's API: HTTP and JSON over a Unix socket. The command line is one of its clients.
//!
//! - [`types`]: requests and responses; the OpenAPI document is generated from them;
//! - [`server`]: the socket, limits, and clients' credentials;
//! - `routes`: one handler per path; each passes a [`Command`] to the daemon's loop and waits;
//! - `body`: bodies of requests and responses, and their limits;
//! - [`client`]: the client.

mod body;
pub mod client;
mod connections;
mod published;
mod routes;
pub mod server;
pub mod types;

pub use published::Published;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};
use utoipa::OpenApi as _;

use self::types::{
    Acted, Applied, ApplyOptions, BackendRequest, DetachRequest, Detached, DrainRequest, History,
    Planned, RollbackRequest, WeightRequest,
};
use crate::{
    kernel::datapath::Instance,
    policy::config::{ConfigErrors, Loaded, parse},
    serve::view::Status,
};

/// The name of a request's text in errors.
pub const TEXT: &str = "the configuration";

/// A configuration's text, and what it says.
#[derive(Debug)]
pub struct Parsed {
    /// The text.
    pub text: String,
    /// The configuration, and warnings about it.
    pub loaded: Loaded,
}

impl Parsed {
    /// Parses a text, in up to seconds.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(text: String) -> Result<Self, ConfigErrors> {
        let loaded = parse(TEXT, &text)?;
        Ok(Self { text, loaded })
    }
}

/// A command for the daemon.
#[derive(Debug)]
pub enum Command {
    /// Report the status.
    Status(Reply<Status>),
    /// Report the text of the configuration in effect.
    Config(Reply<String>),
    /// Report what applying this configuration would change.
    Plan(Box<Parsed>, Reply<Planned>),
    /// Apply this configuration, and write its text to the file.
    Apply(Box<Parsed>, ApplyOptions, Reply<Applied>),
    /// List the configurations that were applied.
    History(Reply<History>),
    /// Apply a former configuration.
    Rollback(RollbackRequest, Reply<Applied>),
    /// Take backends out of service, gracefully.
    Drain(DrainRequest, Reply<Acted>),
    /// Bring drained backends back into service.
    Undrain(BackendRequest, Reply<Acted>),
    /// Override a weight, or clear the override.
    Weight(WeightRequest, Reply<Acted>),
    /// Read the file again.
    Reload(Reply<Applied>),
    /// End forwarding.
    Detach(DetachRequest, Reply<Detached>),
    /// Begin forwarding again.
    Attach(Reply<Applied>),
}

impl Command {
    /// Whether its client no longer waits for it.
    pub fn is_abandoned(&self) -> bool {
        match self {
            Self::Status(reply) => reply.is_closed(),
            Self::Config(reply) => reply.is_closed(),
            Self::Plan(_, reply) => reply.is_closed(),
            Self::Apply(.., reply) | Self::Rollback(_, reply) => reply.is_closed(),
            Self::Reload(reply) | Self::Attach(reply) => reply.is_closed(),
            Self::History(reply) => reply.is_closed(),
            Self::Drain(_, reply) | Self::Undrain(_, reply) | Self::Weight(_, reply) => {
                reply.is_closed()
            }
            Self::Detach(_, reply) => reply.is_closed(),
        }
    }
}

/// The channel of a result. Its receiver may be gone.
pub type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// A command, and the peer that sent it.
#[derive(Debug)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// The peer: `uid 0, pid 4711`.
    pub by: String,
    /// Whether the peer is root, which could edit the file as well.
    pub is_root: bool,
}

/// Why a command was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The configuration is invalid; every error, as `director check` prints them.
    #[error("{0}")]
    Invalid(String),
    /// The request names a service, backend or revision that does not exist.
    #[error("{0}")]
    Unknown(String),
    /// Another change came first.
    #[error("{0}")]
    Conflict(String),
    /// The peer may not do this.
    #[error("{0}")]
    Denied(String),
    /// Allowed only with `force`.
    #[error("{0}")]
    NeedsForce(String),
    /// It failed; the state in effect stays.
    #[error("{0}")]
    Failed(String),
}

/// The paths for a peer of this user; commands go to `daemon`.
#[doc(hidden)]
pub fn router_for(uid: u32, daemon: mpsc::Sender<Request>, instance: Instance) -> axum::Router {
    let api =
        routes::Api { daemon, instance, published: Published::default(), applying: Arc::default() };
    routes::router(api).layer(axum::Extension(server::Peer { uid, pid: None }))
}

/// The default socket of an instance's daemon; if its configuration has another, a symbolic link to
/// that.
pub fn socket_of(instance: &Instance) -> PathBuf {
    if *instance == Instance::default() {
        Path::new("/run/director/director.sock").to_path_buf()
    } else {
        instance.run_dir().join("director.sock")
    }
}

/// The API's description, OpenAPI 3.1, as JSON.
pub fn openapi() -> String {
    let document = routes::Document::openapi();
    // Strings and lists always serialize.
    document.to_pretty_json().unwrap_or_default()
}
