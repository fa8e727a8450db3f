//! A lock that one process holds at a time.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::kernel::private_file;

/// A lock of this process. Released when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why it was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// A process holds it: its pid, if known.
    Held { holder: String },
    /// The file cannot be opened or locked.
    Failed(io::Error),
}

impl From<io::Error> for NotTaken {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Lock {
    /// Locks the file at `path` and writes this process's pid into it. Creates the file and its
    /// directory if needed.
    pub(super) fn take(path: &Path) -> Result<Self, NotTaken> {
        if let Some(directory) = path.parent() {
            private_file::create_passable_directory(directory)?;
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Its last holder removed the file between our open and lock.
            Ok(lock) if !is_at(&lock, path) => {
                drop(lock);
                Self::take(path)
            }
            Ok(mut lock) => {
                lock.set_len(0)?;
                lock.rewind()?;
                writeln!(lock, "{}", std::process::id())?;
                Ok(Self { _file: lock })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                Err(NotTaken::Held { holder: holder.into() })
            }
            Err((_, errno)) => Err(NotTaken::Failed(errno.into())),
        }
    }
}

/// Whether an open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let numbers = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let [open, there] = [file.metadata(), fs::metadata(path)].map(|m| m.ok().map(numbers));
    open.is_some() && open == there
}
