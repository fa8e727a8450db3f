//! Inotify events of the configuration file, and of everything on the way to it: directories and
//! symbolic links that are replaced, moved away or created later.

use std::{
    collections::{HashMap, VecDeque},
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::{
        fd::{AsFd as _, AsRawFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    path::{Component, Path, PathBuf},
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};
use tracing::warn;

/// Most symbolic links on the way, as with the kernel.
const MAX_LINKS: usize = 40;
/// How often it is checked that the watched directories are still those on the way: mounting another
/// over one causes no event.
const VERIFIED: Duration = Duration::from_secs(5);

/// What happened on the way to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Watches a file.
pub(super) struct Watch {
    path: PathBuf,
    inotify: AsyncFd<Descriptor>,
    /// What is on the way, by the watch of its directory.
    places: HashMap<WatchDescriptor, Place>,
    verify_at: Instant,
    /// Whether it was logged that the file cannot be watched.
    is_reported: bool,
}

/// A watched directory.
#[derive(Default)]
struct Place {
    directory: PathBuf,
    /// Its device and inode.
    is: Option<(u64, u64)>,
    /// Entries that lead to the file: directories and links.
    on_the_way: Vec<OsString>,
    /// The entry that is the file.
    file: Option<OsString>,
}

/// An inotify instance that tokio can wait for.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Watches the file at `path`, which need not exist yet.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let (inotify, places) = arm(&path)?;
        let verify_at = Instant::now() + VERIFIED;
        Ok(Self { path, inotify, places, verify_at, is_reported: false })
    }

    /// Waits for an event. May be cancelled.
    pub(super) async fn next(&mut self) -> FileEvent {
        let ready = tokio::select! {
            ready = self.inotify.readable() => ready,
            () = sleep_until(self.verify_at) => {
                self.verify_at = Instant::now() + VERIFIED;
                if self.places.values().all(Place::is_there) {
                    return FileEvent::Other;
                }
                return self.rearm();
            }
        };
        let Ok(mut ready) = ready else { return std::future::pending().await };
        match ready.try_io(|inner| inner.get_ref().0.read_events().map_err(Into::into)) {
            Ok(Ok(events)) => {
                let found = events.iter().map(|event| self.meaning(event));
                let (found, must_rearm) = found.fold((FileEvent::Other, false), combined);
                // What happened before the new watches were there is not known.
                if must_rearm { stronger(self.rearm(), found) } else { found }
            }
            Ok(Err(error)) => {
                warn!("cannot read events of the configuration file: {error}");
                FileEvent::MaybeReplaced
            }
            Err(_would_block) => FileEvent::Other,
        }
    }

    /// What an event means for the file, and whether the way to it may be another now.
    fn meaning(&self, event: &InotifyEvent) -> (FileEvent, bool) {
        let complete = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
        let lost = AddWatchFlags::IN_Q_OVERFLOW
            | AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        if event.mask.intersects(lost) {
            return (FileEvent::Other, true);
        }
        let Some(place) = self.places.get(&event.wd) else { return (FileEvent::Other, false) };
        let changed = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        let is_named = |name: &OsString| event.name.as_ref() == Some(name);
        if place.on_the_way.iter().any(is_named) && event.mask.intersects(changed) {
            return (FileEvent::Other, true);
        }
        if !place.file.as_ref().is_some_and(is_named) {
            return (FileEvent::Other, false);
        }
        // A file may be replaced by a link.
        let is_other = event.mask.intersects(changed);
        let gone = AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_DELETE;
        if event.mask.intersects(complete) {
            (FileEvent::Complete, is_other)
        } else if event.mask.contains(AddWatchFlags::IN_MODIFY) {
            (FileEvent::Writing, is_other)
        } else if event.mask.intersects(gone) {
            (FileEvent::Other, is_other)
        } else {
            (FileEvent::MaybeReplaced, is_other)
        }
    }

    /// Watches what is on the way now. Where no file is, there is nothing to read.
    fn rearm(&mut self) -> FileEvent {
        match arm(&self.path) {
            Ok((inotify, places)) => {
                (self.inotify, self.places) = (inotify, places);
                self.is_reported = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_reported, true) {
                    let path = self.path.display();
                    warn!("cannot watch {path}: {error}; it is checked every five seconds");
                }
                // Tried again when it is verified next.
                self.places.values_mut().for_each(|place| place.is = None);
            }
        }
        if self.path.exists() { FileEvent::MaybeReplaced } else { FileEvent::Other }
    }
}

fn combined(before: (FileEvent, bool), now: (FileEvent, bool)) -> (FileEvent, bool) {
    (stronger(before.0, now.0), before.1 | now.1)
}

/// The later of two events, unless it says less.
fn stronger(before: FileEvent, now: FileEvent) -> FileEvent {
    match now {
        FileEvent::Other => before,
        FileEvent::MaybeReplaced if before != FileEvent::Other => before,
        now => now,
    }
}

impl Place {
    /// Whether its directory is still the watched one.
    fn is_there(&self) -> bool {
        self.is.is_some() && fs::metadata(&self.directory).ok().as_ref().map(identity) == self.is
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Watches each directory on the way to a file, as far as there is one.
fn arm(path: &Path) -> io::Result<(AsyncFd<Descriptor>, HashMap<WatchDescriptor, Place>)> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let mut places = HashMap::new();
    let mut directory = PathBuf::from("/");
    let mut left: VecDeque<OsString> = names(path).map(OsStr::to_owned).collect();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            directory.pop();
            continue;
        }
        let is_last = left.is_empty();
        // First the watch, then the look: what changes in between causes an event.
        if !watch(&inotify, &mut places, &directory, &name, is_last)? {
            break;
        }
        let entry = directory.join(&name);
        match fs::symlink_metadata(&entry) {
            Ok(found) if found.is_symlink() && links < MAX_LINKS => {
                links += 1;
                let Ok(target) = fs::read_link(&entry) else { break };
                if target.is_absolute() {
                    directory = PathBuf::from("/");
                }
                for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                    left.push_front(name.to_owned());
                }
            }
            Ok(found) if found.is_dir() => directory = entry,
            // The file, or nothing yet.
            _ => break,
        }
    }
    // SAFETY: the Descriptor owns the descriptor and always returns that one.
    let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) };
    Ok((inotify.map_err(|error| error.into_parts().1)?, places))
}

/// The names in a path, without those that lead nowhere.
fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Watches an entry of a directory; returns whether the directory is there.
fn watch(
    inotify: &Inotify,
    places: &mut HashMap<WatchDescriptor, Place>,
    directory: &Path,
    name: &OsStr,
    is_last: bool,
) -> io::Result<bool> {
    let mut events = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    if is_last {
        events |= AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MODIFY;
    }
    // What another name in it needs stays.
    let how = AddWatchFlags::IN_ONLYDIR | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
    let watched = match inotify.add_watch(directory, events | how) {
        Ok(watched) => watched,
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Ok(false),
        // A directory above that may be passed but not read.
        Err(nix::Error::EACCES) if !is_last => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let place: &mut Place = places.entry(watched).or_default();
    place.directory = directory.to_path_buf();
    place.is = fs::metadata(directory).ok().as_ref().map(identity);
    if is_last {
        place.file = Some(name.to_owned());
    } else {
        place.on_the_way.push(name.to_owned());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("director-watch-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("created");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Waits until the file is reported as perhaps replaced, or as written.
    async fn seen(watch: &mut Watch) -> bool {
        let seen = async { while watch.next().await == FileEvent::Other {} };
        tokio::time::timeout(Duration::from_secs(2), seen).await.is_ok()
    }

    /// Takes the events that are there.
    async fn settle(watch: &mut Watch) {
        let soon = Duration::from_millis(30);
        while tokio::time::timeout(soon, watch.next()).await.is_ok() {}
    }

    type Change = fn(&Path);

    #[tokio::test]
    async fn every_change_of_the_way_is_seen_and_the_file_is_watched_after_it() {
        let write = |path: PathBuf, text: &str| fs::write(path, text).expect("written");
        let rows: &[(&str, Change)] = &[
            ("written", |at| fs::write(at.join("a/etc/d.yaml"), "1").expect("written")),
            ("renamed over", |at| {
                fs::write(at.join("a/etc/.new"), "1").expect("written");
                fs::rename(at.join("a/etc/.new"), at.join("a/etc/d.yaml")).expect("renamed");
            }),
            ("its directory replaced", |at| {
                fs::create_dir(at.join("a/etc.new")).expect("made");
                fs::write(at.join("a/etc.new/d.yaml"), "1").expect("written");
                fs::rename(at.join("a/etc"), at.join("a/etc.old")).expect("moved");
                fs::rename(at.join("a/etc.new"), at.join("a/etc")).expect("moved");
            }),
            ("its directory removed and made again", |at| {
                fs::remove_dir_all(at.join("a/etc")).expect("removed");
                fs::create_dir(at.join("a/etc")).expect("made");
                fs::write(at.join("a/etc/d.yaml"), "1").expect("written");
            }),
            ("a directory above moved away and another made", |at| {
                fs::rename(at.join("a"), at.join("b")).expect("moved");
                fs::create_dir_all(at.join("a/etc")).expect("made");
                fs::write(at.join("a/etc/d.yaml"), "1").expect("written");
            }),
            ("a directory above becomes a link", |at| {
                fs::rename(at.join("a"), at.join("b")).expect("moved");
                symlink("b", at.join("a")).expect("linked");
            }),
            ("the file becomes a link", |at| {
                fs::create_dir(at.join("other")).expect("made");
                fs::write(at.join("other/real.yaml"), "1").expect("written");
                fs::remove_file(at.join("a/etc/d.yaml")).expect("removed");
                symlink("../../other/real.yaml", at.join("a/etc/d.yaml")).expect("linked");
            }),
            (
                "as Kubernetes does: ..data is a link that is swapped, and its target removed",
                |at| {
                    let etc = at.join("a/etc");
                    fs::create_dir(etc.join("..1")).expect("made");
                    fs::write(etc.join("..1/d.yaml"), "1").expect("written");
                    fs::remove_file(etc.join("d.yaml")).expect("removed");
                    symlink("..1", etc.join("..data")).expect("linked");
                    symlink("..data/d.yaml", etc.join("d.yaml")).expect("linked");
                    fs::create_dir(etc.join("..2")).expect("made");
                    fs::write(etc.join("..2/d.yaml"), "2").expect("written");
                    symlink("..2", etc.join("..data_tmp")).expect("linked");
                    fs::rename(etc.join("..data_tmp"), etc.join("..data")).expect("swapped");
                    fs::remove_dir_all(etc.join("..1")).expect("removed");
                },
            ),
        ];
        for (number, (name, change)) in rows.iter().enumerate() {
            let scratch = Scratch::new(&number.to_string());
            fs::create_dir_all(scratch.0.join("a/etc")).expect("made");
            let file = scratch.0.join("a/etc/d.yaml");
            write(file.clone(), "0");
            let mut watch = Watch::new(&file).expect("watched");
            change(&scratch.0);
            assert!(seen(&mut watch).await, "{name}");
            settle(&mut watch).await;
            write(file.clone(), "2");
            assert!(seen(&mut watch).await, "{name}: the next change");
            settle(&mut watch).await;
            // Its neighbours do not matter.
            write(file.with_file_name("other.yaml"), "x");
            let none = tokio::time::timeout(Duration::from_millis(100), async {
                while watch.next().await == FileEvent::Other {}
            });
            assert!(none.await.is_err(), "{name}: a neighbour");
        }
    }

    #[tokio::test]
    async fn a_file_whose_directory_comes_later_is_seen() {
        let scratch = Scratch::new("later");
        let file = scratch.0.join("x/y/z/d.yaml");
        let mut watch = Watch::new(&file).expect("watched");
        fs::create_dir_all(scratch.0.join("x/y")).expect("made");
        settle(&mut watch).await;
        fs::create_dir(scratch.0.join("x/y/z")).expect("made");
        settle(&mut watch).await;
        fs::write(&file, "1").expect("written");
        assert!(seen(&mut watch).await);
    }
}
