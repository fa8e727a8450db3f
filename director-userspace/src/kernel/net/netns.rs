//! Network namespaces: open, enter, create and remove them.
//!
//! Only the network namespace is entered, with setns(2). `ip netns exec` also mounts a private
//! /sys, in which BPF pins would disappear with the process that made them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{
            fs::{MetadataExt, OpenOptionsExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::{NetError, failed};

/// Where named namespaces are kept, as by `ip netns`.
pub const NETNS_DIR: &str = "/run/netns";

/// An open network namespace. It lives at least as long as this value, even when its name is
/// removed meanwhile.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    label: String,
}

impl NetNs {
    /// Opens a namespace by its name (as in `ip netns`) or, if there is a `/` in it, by the path
    /// of a namespace file such as `/proc/1/ns/net`.
    ///
    /// # Errors
    /// [`NetError::NoSuchNamespace`] if there is none, [`NetError::System`] if it can't be opened.
    pub fn open(name_or_path: &str) -> Result<Self, NetError> {
        let path = if name_or_path.contains('/') {
            PathBuf::from(name_or_path)
        } else {
            Path::new(NETNS_DIR).join(name_or_path)
        };
        match File::open(&path) {
            Ok(file) => Ok(Self { file, label: name_or_path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(NetError::NoSuchNamespace { name: name_or_path.to_owned() })
            }
            Err(error) => Err(failed(format!("open the namespace {}", path.display()), error)),
        }
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// [`NetError::System`] if /proc is not mounted.
    pub fn current() -> Result<Self, NetError> {
        let path = "/proc/thread-self/ns/net";
        let file = File::open(path)
            .map_err(|e| failed(format!("open {path}, this thread's namespace"), e))?;
        Ok(Self { file, label: "the current namespace".to_owned() })
    }

    /// Creates a namespace with a name that `ip netns` lists too. Its loopback is down.
    ///
    /// # Errors
    /// [`NetError::NamespaceExists`] if the name is taken, [`NetError::BadNamespaceName`], or
    /// [`NetError::System`] (CAP_SYS_ADMIN is needed).
    pub fn create(name: &str) -> Result<Self, NetError> {
        check_name(name)?;
        share_netns_dir()?;
        let path = Path::new(NETNS_DIR).join(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(|error| {
                if error.kind() == io::ErrorKind::AlreadyExists {
                    NetError::NamespaceExists { name: name.to_owned() }
                } else {
                    failed(format!("create {}", path.display()), error)
                }
            })?;
        let made = on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| failed("make a network namespace (CAP_SYS_ADMIN is needed)", e))?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|e| failed(format!("mount the namespace on {}", path.display()), e))
        });
        if let Err(error) = made {
            // Ours and empty: the name must not stay taken. The first error is the one to report.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Self::open(name)
    }

    /// Removes a namespace's name. The namespace itself ends with its last process, open file and
    /// virtual device.
    ///
    /// # Errors
    /// [`NetError::NoSuchNamespace`], [`NetError::BadNamespaceName`], or [`NetError::System`].
    pub fn delete(name: &str) -> Result<(), NetError> {
        check_name(name)?;
        let path = Path::new(NETNS_DIR).join(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: a name left behind whose mount is gone already, after a crash.
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(nix::Error::ENOENT) => {
                return Err(NetError::NoSuchNamespace { name: name.to_owned() });
            }
            Err(error) => return Err(failed(format!("unmount {}", path.display()), error)),
        }
        fs::remove_file(&path).map_err(|e| failed(format!("remove {}", path.display()), e))
    }

    /// The names of the namespaces that exist, sorted.
    ///
    /// # Errors
    /// [`NetError::System`] if the directory can't be read.
    pub fn names() -> Result<Vec<String>, NetError> {
        let entries = match fs::read_dir(NETNS_DIR) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(format!("list {NETNS_DIR}"), error)),
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The name or path that this namespace was opened by.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Device and inode number: equal for two values exactly if they are the same namespace.
    ///
    /// # Errors
    /// [`NetError::System`] if the open file can't be examined.
    pub fn id(&self) -> Result<(u64, u64), NetError> {
        let meta = self.file.metadata().map_err(|e| failed("examine a namespace", e))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Moves the calling thread into this namespace for good. Sockets it opened before stay where
    /// they were. Prefer [`NetNs::run`], which leaves the thread where it is.
    ///
    /// # Errors
    /// [`NetError::System`] (CAP_SYS_ADMIN is needed).
    pub fn enter(&self) -> Result<(), NetError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| failed(format!("enter the network namespace {}", self.label), e))
    }

    /// Runs a closure inside this namespace, on a thread made for it, and waits. No other thread
    /// changes its namespace. Inside, /proc/sys/net is this namespace's.
    ///
    /// # Errors
    /// The closure's own, or [`NetError::System`] if the namespace can't be entered.
    pub fn run<T, E>(&self, work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E>
    where
        T: Send,
        E: From<NetError> + Send,
    {
        on_fresh_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// A command that will run inside this namespace. The mount namespace, and with it bpffs, is
    /// the caller's.
    ///
    /// # Errors
    /// [`NetError::System`] if the namespace's file can't be duplicated.
    pub fn command(&self, program: &str) -> Result<Command, NetError> {
        let file = self.file.try_clone().map_err(|e| failed("duplicate a namespace's file", e))?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure only calls setns(2), which is
        // async-signal-safe and allocates nothing; the file lives inside the closure.
        unsafe {
            command
                .pre_exec(move || setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(command)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for NetNs {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

/// Runs a closure on a thread of its own and hands its result (or panic) to the caller.
fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn check_name(name: &str) -> Result<(), NetError> {
    if name.is_empty() || name.len() > 255 || name.contains('/') || name == "." || name == ".." {
        return Err(NetError::BadNamespaceName { name: name.to_owned() });
    }
    Ok(())
}

/// Makes NETNS_DIR a shared mount, as `ip netns add` does, so that a namespace unmounted in one
/// mount namespace goes away in the others too.
fn share_netns_dir() -> Result<(), NetError> {
    let none = None::<&str>;
    fs::create_dir_all(NETNS_DIR).map_err(|e| failed(format!("create {NETNS_DIR}"), e))?;
    let share = || mount(none, NETNS_DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        Ok(()) => Ok(()),
        Err(nix::Error::EINVAL) => {
            mount(Some(NETNS_DIR), NETNS_DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .and_then(|()| share())
                .map_err(|e| failed(format!("make {NETNS_DIR} a mount point"), e))
        }
        Err(error) => Err(failed(format!("share {NETNS_DIR}"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc/passwd", &"x".repeat(256)] {
            let refused = NetNs::create(name);
            assert!(matches!(refused, Err(NetError::BadNamespaceName { .. })), "{name:?}");
            assert!(matches!(NetNs::delete(name), Err(NetError::BadNamespaceName { .. })));
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let error = NetNs::open("director-no-such-namespace").expect_err("does not exist");
        assert!(error.to_string().contains("director-no-such-namespace"), "{error}");
    }

    #[test]
    fn the_current_namespace_is_the_same_twice() {
        let (a, b) = (NetNs::current().expect("proc"), NetNs::current().expect("proc"));
        assert_eq!(a.id().expect("stat"), b.id().expect("stat"));
    }
}
