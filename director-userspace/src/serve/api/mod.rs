//! The daemon's API: HTTP and JSON over a Unix socket. The command line is one of its clients.
//!
//! - [`types`]: what is asked and answered; the OpenAPI document is made from them;
//! - [`server`]: sockets, limits, and who asks;
//! - `routes`: one handler per path; each hands a [`Command`] to the daemon's loop and waits;
//! - [`client`]: the other side.

pub mod client;
mod connections;
mod routes;
pub mod server;
pub mod types;

use std::path::{Path, PathBuf};

use tokio::sync::oneshot;
use utoipa::OpenApi as _;

use self::types::{
    Acted, Applied, ApplyOptions, BackendRequest, DetachRequest, Detached, DrainRequest, History,
    Planned, RollbackRequest, WeightRequest,
};
use crate::{kernel::datapath::Instance, serve::view::Status};

/// What errors call the text of a request.
pub const TEXT: &str = "the configuration";

/// What the daemon is asked to do.
#[derive(Debug)]
pub enum Command {
    /// How everything is.
    Status(Reply<Status>),
    /// The text of the configuration that is in effect.
    Config(Reply<String>),
    /// What putting this text into effect would change.
    Plan(String, Reply<Planned>),
    /// Put this text into effect, and into the file.
    Apply(String, ApplyOptions, Reply<Applied>),
    /// What was in effect before.
    History(Reply<History>),
    /// Put a former configuration into effect.
    Rollback(RollbackRequest, Reply<Applied>),
    /// Take backends out of service, gracefully.
    Drain(DrainRequest, Reply<Acted>),
    /// Undo that.
    Undrain(BackendRequest, Reply<Acted>),
    /// Set a weight by hand, or no longer.
    Weight(WeightRequest, Reply<Acted>),
    /// Read the file again.
    Reload(Reply<Applied>),
    /// End forwarding.
    Detach(DetachRequest, Reply<Detached>),
    /// Begin it again.
    Attach(Reply<Applied>),
}

impl Command {
    /// Whether nobody waits for it any more.
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

/// Where an answer goes. Whoever waited for it may be gone.
pub type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// A command, and who gave it.
#[derive(Debug)]
pub struct Request {
    /// What is to be done.
    pub command: Command,
    /// The peer: `uid 0, pid 4711`.
    pub by: String,
    /// Whether it is root, who might as well edit the file.
    pub is_root: bool,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The configuration is wrong; every error, as `director check` prints them.
    #[error("{0}")]
    Invalid(String),
    /// What was asked for makes no sense: no such service, no such backend.
    #[error("{0}")]
    Unknown(String),
    /// Somebody else was faster.
    #[error("{0}")]
    Conflict(String),
    /// Not this peer's to do.
    #[error("{0}")]
    Denied(String),
    /// Allowed only if it is insisted on.
    #[error("{0}")]
    NeedsForce(String),
    /// It was tried and failed; what was in effect stays.
    #[error("{0}")]
    Failed(String),
}

/// Where an instance's daemon listens, unless its configuration says otherwise; then this is a
/// symbolic link to there.
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
    // A document of strings and lists.
    document.to_pretty_json().unwrap_or_default()
}
