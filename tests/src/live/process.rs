//! The `director` program as a process.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::TIMEOUT;

/// How long a command may take. One that waits for an unresponsive neighbour takes 1.5 s.
const COMMAND: Duration = Duration::from_secs(20);

/// A build of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The shipped build.
    Director,
    /// The build to upgrade to, with another XDP program.
    Next,
    /// The build that logs what the slow path decides.
    Verbose,
}

impl Program {
    /// Where cargo built it: beside the directory of the running test.
    ///
    /// # Panics
    /// If it does not exist.
    pub fn path(self) -> PathBuf {
        let test = std::env::current_exe().expect("known");
        let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
        let (name, build) = match self {
            Self::Director => ("director", ""),
            Self::Next => ("director-next", " --features next --bin director-next"),
            Self::Verbose => ("director-verbose", " --features verbose --bin director-verbose"),
        };
        let path = profile.join(name);
        assert!(path.exists(), "no {}: cargo build -p director-userspace{build}", path.display());
        path
    }

    /// The command with these arguments, empty stdin, and output without colour.
    pub fn command(self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path());
        command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }
}

/// Where cargo built `director`.
///
/// # Panics
/// If it does not exist.
pub fn binary() -> PathBuf {
    Program::Director.path()
}

/// `director` with these arguments, empty stdin, and output without colour.
pub fn command(arguments: &[&str]) -> Command {
    Program::Director.command(arguments)
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be run, or takes too long.
pub fn finish(mut command: Command) -> Finished {
    let line = format!("{command:?}");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{line}: {error}"));
    let pid = Pid::from_raw(child.id() as i32);
    let (sender, receiver) = std::sync::mpsc::channel();
    // Reads both pipes, so that neither fills.
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(COMMAND) {
        Ok(output) => Finished::new(line, output.expect("waited for")),
        Err(_) => {
            // The process is not reaped yet: the reading thread waits for it.
            let _ = kill(pid, Signal::SIGKILL);
            panic!("{line}: not done within {COMMAND:?}");
        }
    }
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command.
    pub line: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    fn new(line: String, output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let Output { status, stdout, stderr } = output;
        Self { line, code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Returns itself if the exit code is 0.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}{}", self.line, self.stdout, self.stderr);
        self
    }

    /// Returns itself if the exit code is `code`, stdout is empty, and stderr has exactly one
    /// error.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn refused(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}{}", self.line, self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "{}", self.line);
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{}\n{}", self.line, self.stderr);
        self
    }

    /// Returns itself if stderr contains all of these words.
    ///
    /// # Panics
    /// If one is missing.
    #[track_caller]
    pub fn reports(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{}: no {word:?} in\n{}", self.line, self.stderr);
        }
        self
    }

    /// Returns itself if stdout contains all of these words.
    ///
    /// # Panics
    /// If one is missing.
    #[track_caller]
    pub fn prints(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stdout.contains(word), "{}: no {word:?} in\n{}", self.line, self.stdout);
        }
        self
    }

    /// Standard output, as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.line, self.stdout))
    }
}

/// A `director run` in the background. Killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; its log goes to a file in `directory`.
    pub(super) fn spawn(mut command: Command, directory: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = directory.join(format!("log{number}"));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = command.stdout(Stdio::null()).stderr(file).spawn().expect("runs");
        Self { child, log }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, KiB.
    ///
    /// # Panics
    /// If it does not run.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The log so far.
    ///
    /// # Panics
    /// If the log is gone.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Clears the log.
    ///
    /// # Panics
    /// If the log is gone.
    pub fn clear_log(&self) {
        File::options().write(true).open(&self.log).and_then(|f| f.set_len(0)).expect("a log");
    }

    /// Waits until the log contains `words` and returns how long that took.
    ///
    /// # Panics
    /// If it does not within `at_most`, or ends.
    #[track_caller]
    pub fn wait_for(&self, words: &str, at_most: Duration) -> Duration {
        let began = Instant::now();
        while !self.log().contains(words) {
            assert!(began.elapsed() < at_most, "no {words:?} within {at_most:?}:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        began.elapsed()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If that cannot be sent.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the process exists");
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn ended(mut self) -> ExitStatus {
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waited for") {
                return status;
            }
            assert!(began.elapsed() < TIMEOUT, "still running:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
