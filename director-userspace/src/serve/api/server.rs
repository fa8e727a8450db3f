//! The socket: who may use it, and how much one of them can take.

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

/// Connections at once; whoever comes then waits for one to end.
const CONNECTIONS: usize = 128;
/// How long a client may take for a request's head.
const HEAD: Duration = Duration::from_secs(5);
/// How long one request may take in all: its body, the daemon, and reading the answer.
const WHOLE: Duration = Duration::from_secs(90);
/// The group that may use the socket, if it exists and no other is named.
const GROUP: &str = "director";

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    uid: u32,
    pid: Option<i32>,
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
    /// What it was made for: another configuration takes another.
    config: model::Api,
    path: PathBuf,
    link: Option<PathBuf>,
    /// The socket's device and inode: another's in its place is not ours to remove.
    file: Option<(u64, u64)>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens where the configuration says; commands go to `daemon`.
    ///
    /// # Errors
    ///
    /// If another daemon listens there, or the socket cannot be made or given to its group; with
    /// the path, and what to do.
    pub fn start(
        config: &model::Api,
        instance: &Instance,
        daemon: mpsc::Sender<Request>,
    ) -> Result<Self, String> {
        let usual = socket_of(instance);
        let path = config.socket.clone().unwrap_or_else(|| usual.clone());
        let listener = listen(&path, config.group.as_deref())
            .map_err(|error| format!("the API's socket {}: {error}", path.display()))?;
        let link = (path != usual).then_some(usual);
        if let Some(link) = &link {
            // Only a convenience: commands can be told where the socket is.
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

    /// Whether it listens as this configuration wants, where it can be found.
    pub fn is_for(&self, config: &model::Api) -> bool {
        (&self.config.socket, &self.config.group) == (&config.socket, &config.group)
            && self.is_there()
    }

    fn is_there(&self) -> bool {
        self.file.is_some() && socket_at(&self.path) == self.file
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
        // A link to where nobody listens, or to the next socket, which makes its own.
        for link in self.link.iter().filter(|link| link.is_symlink()) {
            let _ = fs::remove_file(link);
        }
    }
}

/// Device and inode of the socket at `path`; `None` if there is none.
fn socket_at(path: &Path) -> Option<(u64, u64)> {
    let there = fs::symlink_metadata(path).ok()?;
    there.file_type().is_socket().then(|| (there.dev(), there.ino()))
}

fn listen(path: &Path, group: Option<&str>) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // A link that another configuration's socket was found by may stand there.
    let is_another = |file: fs::Metadata| !file.file_type().is_socket() && !file.is_symlink();
    if fs::symlink_metadata(path).is_ok_and(is_another) {
        let message = "there is a file that is no socket: choose another path (api.socket)";
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(ErrorKind::AddrInUse, "somebody listens there")),
        // Left by a daemon that was killed.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    // Nobody connects before the mode is right.
    let listener = {
        let _mask = Mask::set(0o177);
        UnixListener::bind(path)?
    };
    // A system without a list of groups has no such group.
    let found = Group::from_name(group.unwrap_or(GROUP)).unwrap_or_default();
    if let (None, Some(name)) = (&found, group) {
        let message = format!("there is no group {name}: make it, or change api.group");
        return Err(io::Error::new(ErrorKind::NotFound, message));
    }
    if let Some(group) = found {
        chown(path, None, Some(group.gid)).map_err(io::Error::from)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    }
    Ok(listener)
}

/// The process's file mode mask, for a moment.
struct Mask(nix::sys::stat::Mode);

impl Mask {
    fn set(bits: u32) -> Self {
        Self(nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(bits)))
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        nix::sys::stat::umask(self.0);
    }
}

async fn accept(listener: UnixListener, api: Api) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let router = routes::router(api);
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, say: it would come back at once.
                warn!("API: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection, one request: nobody keeps a place without asking.
async fn serve(stream: UnixStream, router: axum::Router) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(WHOLE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("API: {error}"),
        Err(_) => debug!("API: a client was too slow"),
    }
}
