//! The socket: its permissions, and the limits of a client.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    },
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
use nix::{
    sys::stat::{Mode, fchmod},
    unistd::{Group, chown},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{UnixListener, UnixSocket, UnixStream},
    sync::{Mutex, mpsc},
    task::JoinHandle,
};
use tracing::{debug, warn};

use super::{
    Request,
    published::Published,
    routes::{self, Api},
    socket_of,
};
use crate::{
    kernel::{datapath::Instance, private_file},
    policy::config::model,
    serve::limiter::{Limiter, Limits, Place},
};

/// Most connections at once. One user leaves a quarter of them to others.
const LIMITS: Limits = Limits { in_all: 128, of_a_peer: 96 };
/// Most connections that wait to be accepted.
const BACKLOG: u32 = 1024;
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
        published: Published,
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
        let api = Api { daemon, instance: instance.clone(), published, applying };
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
    path.parent().map_or(Ok(()), private_file::create_passable_directory)?;
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
    // The mode of the socket itself is that of its file: no client can connect before it is set.
    let socket = UnixSocket::new_stream()?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(path)?;
    let listener = socket.listen(BACKLOG)?;
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

async fn accept(listener: UnixListener, api: Api) {
    let limiter = Limiter::new(LIMITS);
    let router = routes::router(api);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(credentials) = stream.peer_cred() else { continue };
                let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
                match limiter.admit(peer.uid) {
                    Some(place) => drop(tokio::spawn(serve(stream, peer, router.clone(), place))),
                    None => debug!("API: too many connections ({peer})"),
                }
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
async fn serve(stream: UnixStream, peer: Peer, router: axum::Router, place: Place<u32>) {
    let Ok(hung_up) = HungUp::of(&stream) else { return };
    let router = router.layer(Extension(peer)).layer(Extension(place.reporter()));
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = tokio::time::timeout(REQUEST_TIMEOUT, connection) => match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("API: {error}"),
            Err(_) => debug!("API: a client was too slow"),
        },
        () = hung_up.wait() => debug!("API: a client has gone"),
        () = place.lost() => debug!("API: an idle client made room"),
    }
}

/// Notices that a client has gone: one that only closed its side waits for its answer.
struct HungUp(AsyncFd<OwnedFd>);

impl HungUp {
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let duplicate = stream.as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd owns its descriptor and always returns that one.
        let registered = unsafe { AsyncFd::register_with_interest(duplicate, Interest::WRITABLE) };
        Ok(Self(registered.map_err(|error| error.into_parts().1)?))
    }

    async fn wait(&self) {
        loop {
            let Ok(mut ready) = self.0.ready(Interest::WRITABLE).await else { return };
            if ready.ready().is_write_closed() {
                return;
            }
            ready.clear_ready();
        }
    }
}
