//! The socket: its permissions, and the limits of a client.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::unistd::{Group, chown};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Mutex, Semaphore, mpsc},
    task::JoinHandle,
};
use tracing::{debug, warn};

use super::{
    Request,
    routes::{self, Api},
    socket_of,
};
use crate::{kernel::datapath::Instance, policy::config::model};

/// Most connections at once; further clients wait until one ends.
const MAX_CONNECTIONS: usize = 128;
/// Timeout of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a whole request: its body, the daemon, and reading the response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// The group that may use the socket, if it exists and no other is named.
const GROUP: &str = "director";

/// The credentials of a client.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) pid: Option<i32>,
}

impl Peer {
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        self.pid.map_or(Ok(()), |pid| write!(f, ", pid {pid}"))
    }
}

/// A listening socket. Closed and removed when dropped.
#[derive(Debug)]
pub struct Server {
    /// Its configuration; another configuration needs another server.
    config: model::Api,
    path: PathBuf,
    link: Option<PathBuf>,
    /// The socket's device and inode: a socket of another process in its place is not removed.
    file: Option<(u64, u64)>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens as configured; commands go to `daemon`.
    ///
    /// # Errors
    ///
    /// If another process listens there, or the socket cannot be created or given to its group;
    /// with the path, and what to do.
    pub fn start(
        config: &model::Api,
        instance: &Instance,
        daemon: mpsc::Sender<Request>,
    ) -> Result<Self, String> {
        let default_path = socket_of(instance);
        let path = config.socket.clone().unwrap_or_else(|| default_path.clone());
        let listener = listen(&path, config.group.as_deref())
            .map_err(|error| format!("the API's socket {}: {error}", path.display()))?;
        let link = (path != default_path).then_some(default_path);
        if let Some(link) = &link {
            // The link is optional: commands have `--socket`.
            if link.is_symlink() || socket_at(link).is_some() {
                let _ = fs::remove_file(link);
            }
            if let Err(error) = symlink(&path, link) {
                warn!("{}: {error}: commands need --socket {}", link.display(), path.display());
            }
        }
        let applying = Arc::new(Mutex::new(()));
        let api = Api { daemon, instance: instance.clone(), applying };
        let accepting = tokio::spawn(accept(listener, api));
        let file = socket_at(&path);
        Ok(Self { config: config.clone(), path, link, file, accepting })
    }

    /// Whether it listens as this configuration requires, and its socket still exists.
    pub fn is_for(&self, config: &model::Api) -> bool {
        (&self.config.socket, &self.config.group) == (&config.socket, &config.group)
            && self.socket_exists()
    }

    fn socket_exists(&self) -> bool {
        self.file.is_some() && socket_at(&self.path) == self.file
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        if self.socket_exists() {
            let _ = fs::remove_file(&self.path);
        }
        // The link has no target now, or leads to the next socket, whose server makes its own link.
        for link in self.link.iter().filter(|link| link.is_symlink()) {
            let _ = fs::remove_file(link);
        }
    }
}

/// Device and inode of the socket at `path`; `None` if there is none.
fn socket_at(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    metadata.file_type().is_socket().then(|| (metadata.dev(), metadata.ino()))
}

fn listen(path: &Path, group: Option<&str>) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // The path may have a link to the socket of a former configuration.
    let is_other_file = |file: fs::Metadata| !file.file_type().is_socket() && !file.is_symlink();
    if fs::symlink_metadata(path).is_ok_and(is_other_file) {
        let message = "the file there is not a socket: choose another path (api.socket)";
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there")),
        // Left by a daemon that was killed.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    // No client can connect before the mode is set.
    let listener = {
        let _umask = Umask::set(0o177);
        UnixListener::bind(path)?
    };
    // A system without a group database has no such group.
    let found = Group::from_name(group.unwrap_or(GROUP)).unwrap_or_default();
    if let (None, Some(name)) = (&found, group) {
        let message = format!("there is no group {name}: create it, or change api.group");
        return Err(io::Error::new(ErrorKind::NotFound, message));
    }
    if let Some(group) = found {
        chown(path, None, Some(group.gid)).map_err(io::Error::from)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    }
    Ok(listener)
}

/// Sets the process's file mode mask until dropped.
struct Umask(nix::sys::stat::Mode);

impl Umask {
    fn set(bits: u32) -> Self {
        Self(nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(bits)))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        nix::sys::stat::umask(self.0);
    }
}

async fn accept(listener: UnixListener, api: Api) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let router = routes::router(api);
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // An error such as a lack of descriptors would recur at once.
                warn!("API: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one request per connection, so that an idle client does not occupy one.
async fn serve(stream: UnixStream, router: axum::Router) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(REQUEST_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("API: {error}"),
        Err(_) => debug!("API: a client was too slow"),
    }
}
