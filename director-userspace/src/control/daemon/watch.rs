//! StateChange of the configuration file.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Watches the file's directory: editors rename over the file, and a watch on the file itself would
/// follow the old one.
pub(super) fn watch_file(path: &Path) -> io::Result<AsyncFd<Watch>> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
    // Also what symbolic links in it are swapped by, as configuration managers do.
    let others = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY;
    inotify.add_watch(directory, changes | others)?;
    // SAFETY: the Watch owns the descriptor and always returns that one.
    unsafe { AsyncFd::register(Watch(inotify)) }.map_err(|error| error.into_parts().1)
}

/// An inotify instance that tokio can wait for.
pub(super) struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// What happened in the directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Touched {
    /// Nothing to do with the file.
    Other,
    /// The file may be another now.
    Maybe,
    /// The file was written to, and is still open.
    Writing,
    /// The file was written and closed, or another was renamed over it.
    File,
}

/// Waits for news from the directory.
pub(super) async fn touched(inotify: &AsyncFd<Watch>, file_name: &OsString) -> Touched {
    let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
    match ready.try_io(|inner| inner.get_ref().0.read_events().map_err(Into::into)) {
        Ok(Ok(events)) => {
            let about = events.iter().map(|event| {
                let complete = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
                let links = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
                let lost = AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_IGNORED;
                let is_named = event.name.as_ref() == Some(file_name);
                if is_named && event.mask.intersects(complete) {
                    Touched::File
                } else if is_named && event.mask.contains(AddWatchFlags::IN_MODIFY) {
                    Touched::Writing
                } else if is_named || event.mask.intersects(links | lost) {
                    Touched::Maybe
                } else {
                    Touched::Other
                }
            });
            about.fold(Touched::Other, |before, now| match now {
                Touched::Other => before,
                Touched::Maybe if before != Touched::Other => before,
                now => now,
            })
        }
        Ok(Err(error)) => {
            warn!("watching the configuration file: {error}");
            Touched::Maybe
        }
        Err(_would_block) => Touched::Other,
    }
}
