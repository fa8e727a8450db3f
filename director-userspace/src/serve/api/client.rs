//! The client of the API.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{socket_of, types::Problem};
use crate::kernel::datapath::Instance;

/// Timeout of a request: longer than the daemon's own.
const TIMEOUT: Duration = Duration::from_secs(100);
/// Longest response, bytes.
const MAX_RESPONSE: usize = 256 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens.
    #[error("no daemon answers at {path}: is `director run` running?")]
    NoDaemon {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not use the socket.
    #[error("{path}: permission denied: be root or in the socket's group (api.group)")]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon refused the request.
    #[error("{}", .0.error)]
    Refused(Problem),
    /// There is no response, or an invalid one.
    #[error("the daemon at {path}: {message}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        message: String,
    },
}

impl ClientError {
    /// Whether a configuration was refused as invalid.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.kind == "invalid")
    }
}

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client of an instance's daemon, or of the one at `socket`. Nothing is sent yet.
    pub fn new(instance: &Instance, socket: Option<PathBuf>) -> Self {
        Self { path: socket.unwrap_or_else(|| socket_of(instance)) }
    }

    /// Whether a daemon listens.
    pub async fn is_reachable(&self) -> bool {
        UnixStream::connect(&self.path).await.is_ok()
    }

    /// Gets `path`.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.send(Method::GET, path, "application/json", Bytes::new()).await?;
        self.read(&answer)
    }

    /// Posts a value to `path`.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        value: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(value).map_err(|error| self.broken(error))?;
        let answer = self.send(Method::POST, path, "application/json", body.into()).await?;
        self.read(&answer)
    }

    /// Posts a configuration to `path`.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn post_yaml<T: DeserializeOwned>(
        &self,
        path: &str,
        text: String,
    ) -> Result<T, ClientError> {
        let answer = self.send(Method::POST, path, "application/yaml", text.into()).await?;
        self.read(&answer)
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(answer).map_err(|error| self.broken(error))
    }

    fn broken(&self, error: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { path: self.path.clone(), message: error.to_string() }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        tokio::time::timeout(TIMEOUT, self.exchange(method, path, content, body))
            .await
            .map_err(|_| self.broken(format!("no answer within {} s", TIMEOUT.as_secs())))?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => ClientError::Denied { path: self.path.clone() },
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon { path: self.path.clone() }
            }
            _ => self.broken(error),
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "director")
            .header(header::CONTENT_TYPE, content)
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_RESPONSE).collect().await;
        connection.abort();
        let body = body.map_err(|error| self.broken(error))?.to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(ClientError::Refused(problem)),
            Err(_) => Err(self.broken(String::from_utf8_lossy(&body))),
        }
    }
}
