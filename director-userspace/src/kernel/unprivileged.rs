//! Runs programs of the operator as an unprivileged user: health checks, agents, alarms.
//!
//! Such a program gets no capability and no privilege by setuid files, none of the daemon's file
//! descriptors, a session and process group of its own, `/` as its directory, and no environment
//! but `PATH` and the job's variables. When it ends, or its time is up, its whole group is killed,
//! so that nothing that it started stays in it. What it prints is kept up to [`KEPT_BYTES`].

use std::{
    ffi::CString,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Gid, Group, Pid, Uid, geteuid, getgrouplist},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Interest, unix::AsyncFd},
    process::{Child, Command},
    time::timeout,
};

/// What is kept of a program's standard output, and of its standard error. Bytes.
pub const KEPT_BYTES: usize = 4096;
/// More than this is not even read: the program waits on its pipe until its time is up. Bytes.
const READ_BYTES: usize = 1 << 20;
/// The user that runs programs where no other is named.
pub const DEFAULT_USER: &str = "nobody";
/// The only variable that every program gets.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Timeout of a user's lookup by name services.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to read a program's output after its end: others may hold its pipe.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a killed program may take to be reaped.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// The user that runs a program: never root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl User {
    /// The user of this name, and all of its groups. Uses the system's name services, so this may
    /// take a while: at configuration time, not for every run.
    ///
    /// # Errors
    /// If there is none, if it is root or has root's group, or if the lookup takes longer than 5 s.
    pub async fn find(name: &str) -> Result<Self, UserError> {
        let owned = name.to_owned();
        let lookup = tokio::task::spawn_blocking(move || Self::look_up(&owned));
        match timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => Err(UserError::LookupTimeout { name: name.to_owned() }),
        }
    }

    fn look_up(name: &str) -> Result<Self, UserError> {
        let system = |error: nix::Error| UserError::System { name: name.into(), error };
        let by_name = nix::unistd::User::from_name(name).map_err(system)?;
        // A number is a name first, as for chown(1).
        let user = match (by_name, name.parse().map(Uid::from_raw)) {
            (None, Ok(uid)) => nix::unistd::User::from_uid(uid).map_err(system)?,
            (found, _) => found,
        };
        let user = user.ok_or_else(|| UserError::Unknown { name: name.into() })?;
        let c_name = CString::new(user.name.as_str())
            .map_err(|_| UserError::Unknown { name: name.into() })?;
        let groups = getgrouplist(&c_name, user.gid).map_err(system)?;
        if user.uid.is_root() {
            return Err(UserError::Root { name: name.into() });
        }
        let root = Gid::from_raw(0);
        if user.gid == root || groups.contains(&root) {
            let group = Group::from_gid(root).ok().flatten();
            let group = group.map_or_else(|| "0".to_owned(), |group| group.name);
            return Err(UserError::RootsGroup { name: name.into(), group });
        }
        Ok(Self { name: name.into(), uid: user.uid, gid: user.gid, groups })
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why programs cannot be run as the user of this name.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is none.
    #[error("there is no user {name:?} on this host; create one (`useradd --system {name}`)")]
    Unknown {
        /// The user's name.
        name: String,
    },
    /// It is root.
    #[error("{name:?} is root: programs are run as an unprivileged user, such as nobody")]
    Root {
        /// The user's name.
        name: String,
    },
    /// It may do what root's group may do.
    #[error("{name:?} is in root's group {group}: name a user that is not")]
    RootsGroup {
        /// The user's name.
        name: String,
        /// The name of the group with number 0.
        group: String,
    },
    /// Name services do not answer in time.
    #[error("the lookup of the user {name:?} took longer than 5 s; see nsswitch.conf(5)")]
    LookupTimeout {
        /// The user's name.
        name: String,
    },
    /// The system failed.
    #[error("cannot look up the user {name:?}: {error}")]
    System {
        /// The user's name.
        name: String,
        /// The system's error.
        error: nix::Error,
    },
}

/// A program to be run.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The program's absolute path, and its arguments.
    pub command: &'a [String],
    /// The user that runs it.
    pub user: &'a User,
    /// Its environment, beside `PATH`.
    pub environment: &'a [(&'a str, &'a str)],
    /// Its standard input, which it need not read.
    pub input: &'a [u8],
    /// How long it may take.
    pub timeout: Duration,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status, or the signal that ended it.
    pub status: ExitStatus,
    /// The first [`KEPT_BYTES`] of what it printed.
    pub stdout: Vec<u8>,
    /// The first [`KEPT_BYTES`] of what it printed on standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// How it ended, in words: `status 1: no such host`, with its last line on standard error.
    pub fn describe(&self) -> String {
        let status = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("status {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        let stderr = String::from_utf8_lossy(&self.stderr);
        match stderr.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
            Some(line) => {
                let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
                format!("{status}: {line}")
            }
            None => status,
        }
    }
}

/// Why a program has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No absolute path.
    #[error("{program:?} is not an absolute path")]
    Relative {
        /// The program.
        program: String,
    },
    /// It did not start.
    #[error("cannot run {program} as {user}: {error}")]
    Start {
        /// The program.
        program: String,
        /// The user that should run it.
        user: String,
        /// The system's error.
        error: io::Error,
    },
    /// It took too long, and was killed.
    #[error("{program} took longer than {after:?} and was killed")]
    TimedOut {
        /// The program.
        program: String,
        /// Its timeout.
        after: Duration,
    },
}

/// Runs a program to its end, or to its timeout. Dropping the future kills it.
///
/// # Errors
/// If it cannot be started, or takes too long.
pub async fn run(job: &Job<'_>) -> Result<Outcome, RunError> {
    let program = job.command.first().map_or("", String::as_str);
    if !program.starts_with('/') {
        return Err(RunError::Relative { program: program.to_owned() });
    }
    let failed =
        |error| RunError::Start { program: program.to_owned(), user: job.user.name.clone(), error };
    let (mut child, ended, mut group) = start(job).map_err(failed)?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let exchange = async {
        let feed = async {
            if let Some(mut pipe) = pipes.0 {
                // A program that does not read its input closes the pipe, or its end does.
                let _ = pipe.write_all(job.input).await;
            }
        };
        tokio::join!(feed, keep(pipes.1, &mut stdout), keep(pipes.2, &mut stderr));
    };
    let in_time = timeout(job.timeout, async {
        let mut exchange = pin!(exchange);
        let exchanged = tokio::select! {
            () = &mut exchange => { let _ = ended.readable().await; true }
            _ = ended.readable() => false,
        };
        // The child is a zombie now, so its group's number is not reused.
        group.kill();
        if !exchanged {
            let _ = timeout(OUTPUT_TIMEOUT, exchange).await;
        }
    })
    .await;
    group.kill();
    // A program that waits for a disk that does not answer outlives even this; the runtime reaps it
    // later.
    let status = timeout(REAP_TIMEOUT, child.wait()).await;
    match (in_time, status) {
        (Ok(()), Ok(status)) => Ok(Outcome { status: status.map_err(failed)?, stdout, stderr }),
        _ => Err(RunError::TimedOut { program: program.to_owned(), after: job.timeout }),
    }
}

/// Starts it; returns the child, a descriptor that becomes readable at its end (before it is
/// reaped), and its group.
fn start(job: &Job<'_>) -> io::Result<(Child, AsyncFd<OwnedFd>, ProcessGroup)> {
    let mut command = Command::new(&job.command[0]);
    command.args(&job.command[1..]).current_dir("/").env_clear().env("PATH", PATH);
    command.envs(job.environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (uid, gid) = (job.user.uid.as_raw(), job.user.gid.as_raw());
    let groups: Vec<libc::gid_t> = job.user.groups.iter().map(|group| group.as_raw()).collect();
    // An unprivileged user can run programs as the same user only.
    let becomes = job.user.uid != geteuid();
    // SAFETY: between fork and exec, `drop_privileges` only makes system calls: it does not
    // allocate, take locks or panic.
    unsafe {
        command.pre_exec(move || drop_privileges(becomes.then_some((uid, gid, &groups))));
    }
    let child = command.spawn().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{error}; the daemon needs CAP_SETUID, CAP_SETGID and CAP_KILL for this"),
        ),
        _ => error,
    })?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.ok_or_else(|| io::Error::other("it has no process id"))?;
    // A new session's leader leads the group of the same number.
    let group = ProcessGroup(Some(Pid::from_raw(pid)));
    // SAFETY: a system call without pointers; the descriptor that it returns has no other owner.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK);
        let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0);
        OwnedFd::from_raw_fd(fd.ok_or_else(io::Error::last_os_error)?)
    };
    // SAFETY: an `OwnedFd` names the same descriptor, open, as long as it lives.
    let ended = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    Ok((child, ended, group))
}

/// In the child, before exec: becomes the user, and drops all privileges.
fn drop_privileges(user: Option<(libc::uid_t, libc::gid_t, &Vec<libc::gid_t>)>) -> io::Result<()> {
    let check = |result: libc::c_int| match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: system calls; the pointers are to a slice of the length given, and to a struct of the
    // right type.
    unsafe {
        check(libc::setsid())?;
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core))?;
        if let Some((uid, gid, groups)) = user {
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(gid, gid, gid))?;
            check(libc::setresuid(uid, uid, uid))?;
        }
        check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // exec closes all of the daemon's anyway; this is for what a library left open. Kernels
        // without it refuse.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    Ok(())
}

/// A process group, killed when dropped. Once only: afterwards its number may be reused.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // It may be empty.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a pipe: keeps the beginning, and drops what follows.
async fn keep(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    let mut read = 0;
    while read < READ_BYTES {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                read += n;
                kept.extend_from_slice(&buffer[..n.min(KEPT_BYTES - kept.len())]);
            }
        }
    }
    // Held open: closing it would kill a program that prints more.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests;
