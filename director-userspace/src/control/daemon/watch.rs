//! Inotify events of the configuration file.

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
    // Also the events of swapped symbolic links in it, as configuration managers do.
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
pub(super) enum FileEvent {
    /// It does not concern the file.
    Other,
    /// The file may have been replaced.
    MaybeReplaced,
    /// The file was written to, and is still open.
    Writing,
    /// The file was written and closed, or another was renamed over it.
    Complete,
}

/// Waits for events of the directory.
pub(super) async fn next_file_event(inotify: &AsyncFd<Watch>, file_name: &OsString) -> FileEvent {
    let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
    match ready.try_io(|inner| inner.get_ref().0.read_events().map_err(Into::into)) {
        Ok(Ok(events)) => {
            let kinds = events.iter().map(|event| {
                let complete = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
                let links = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
                let lost = AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_IGNORED;
                let is_named = event.name.as_ref() == Some(file_name);
                if is_named && event.mask.intersects(complete) {
                    FileEvent::Complete
                } else if is_named && event.mask.contains(AddWatchFlags::IN_MODIFY) {
                    FileEvent::Writing
                } else if is_named || event.mask.intersects(links | lost) {
                    FileEvent::MaybeReplaced
                } else {
                    FileEvent::Other
                }
            });
            kinds.fold(FileEvent::Other, |before, now| match now {
                FileEvent::Other => before,
                FileEvent::MaybeReplaced if before != FileEvent::Other => before,
                now => now,
            })
        }
        Ok(Err(error)) => {
            warn!("cannot read events of the configuration file: {error}");
            FileEvent::MaybeReplaced
        }
        Err(_would_block) => FileEvent::Other,
    }
}
