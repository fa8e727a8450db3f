//! Everything the demo starts, and its removal: the lab, servers and a daemon in it.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;

use super::{
    load::CLIENTS,
    scene::{self, Service},
    servers,
};
use crate::sh;

/// Prefix of the names of all demos' labs; the process id follows.
const PREFIX: &str = "demo-";
/// Set for all processes that a demo starts, to its lab's name.
const MARK: &str = "DIRECTOR_DEMO";
/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);
/// How many lines of a log are shown in errors.
const LOG_LINES: usize = 15;
/// Where objects of a demo could be left. Their names contain that of the lab.
const PLACES: [&str; 5] = [
    "/run/netns",
    "/run/director",
    "/run/director/realserver",
    "/sys/fs/bpf",
    "/sys/fs/bpf/director",
];

/// A process and its log.
struct Running {
    what: String,
    child: Child,
    log: PathBuf,
}

/// A lab with a director and servers. Everything is removed when dropped.
pub(super) struct Lab {
    binary: PathBuf,
    name: String,
    directory: PathBuf,
    children: Vec<Running>,
    up: bool,
}

impl Lab {
    /// Builds the lab and starts the servers. Labs of demos that were killed are removed first.
    pub(super) fn build(binary: PathBuf, services: &[Service]) -> Result<Self> {
        let name = format!("{PREFIX}{}", std::process::id());
        let directory = std::env::temp_dir().join(format!("director-{name}"));
        let mut lab = Self { binary, name, directory, children: Vec::new(), up: false };
        lab.remove_stale()?;
        fs::create_dir_all(&lab.directory)
            .with_context(|| format!("cannot create {}", lab.directory.display()))?;
        lab.configure(services, None)?;
        // The lab must be removed, even if its creation fails.
        lab.up = true;
        let mut up = lab.director(&["lab", "up", "--name", &lab.name]);
        up.arg("--config").arg(lab.config()).args(["--clients", &CLIENTS.to_string()]);
        for host in scene::hosts(services) {
            up.args(["--host", &host]);
        }
        sh::run_silently(&mut up)?;
        for node in scene::nodes() {
            let child = servers::start(&lab, &lab.directory, node)?;
            let log = lab.directory.join(node).join(servers::LOG);
            lab.children.push(Running { what: format!("nginx on {node}"), child, log });
        }
        Ok(lab)
    }

    /// Its name, which is the director's instance too.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The configuration file that the director follows.
    pub(super) fn config(&self) -> PathBuf {
        self.directory.join("director.yaml")
    }

    /// Replaces the configuration file atomically, as an editor does.
    pub(super) fn configure(&self, services: &[Service], without: Option<&str>) -> Result<()> {
        let (file, new) = (self.config(), self.directory.join("director.yaml.new"));
        fs::write(&new, scene::yaml(services, without))
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Starts the daemon in the director's namespace.
    pub(super) fn run_director(&mut self) -> Result<()> {
        let log = File::create(self.log_file()).context("cannot create the director's log")?;
        let mut run = self.on("director", &self.binary);
        run.args(["run", "--instance", &self.name, "--config"]).arg(self.config());
        run.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = run.spawn().context("cannot start director")?;
        let running = Running { what: "director run".to_owned(), child, log: self.log_file() };
        self.children.push(running);
        Ok(())
    }

    /// The output of `director COMMAND --output json` for this instance.
    pub(super) fn query(&self, command: &str) -> Result<Value> {
        let mut query = self.director(&[command, "--instance", &self.name, "--output", "json"]);
        parse(&mut query)
    }

    /// A command that will run on a node.
    pub(super) fn on(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.director(&["lab", "exec", "--name", &self.name, node, "--"]);
        command.arg(program);
        command
    }

    /// Whether everything that was started still runs.
    ///
    /// # Errors
    ///
    /// The process that ended, with the end of its log.
    pub(super) fn check(&mut self) -> Result<()> {
        for Running { what, child, log } in &mut self.children {
            if let Some(status) = child.try_wait().context("cannot wait for a process")? {
                bail!("{what} ended with {status}:\n{}", last_lines(log));
            }
        }
        Ok(())
    }

    /// Removes everything and returns what is left.
    pub(super) fn remove(mut self) -> Result<Vec<String>> {
        let (name, removed) = (self.name.clone(), self.end());
        drop(self);
        removed?;
        Ok(leftovers(&name))
    }

    fn end(&mut self) -> Result<()> {
        for Running { child, .. } in &self.children {
            // Not reaped yet, so the process id is still its own.
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        let deadline = Instant::now() + GRACE;
        for Running { mut child, .. } in self.children.drain(..) {
            while child.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        let mut result = Ok(());
        if std::mem::take(&mut self.up) {
            result = self.take_down(&self.name);
        }
        let _ = fs::remove_dir_all(&self.directory);
        result
    }

    /// Removes a lab, and what a director in it pinned.
    fn take_down(&self, name: &str) -> Result<()> {
        let mut result = Ok(());
        let pins = Path::new("/sys/fs/bpf/director").join(name);
        if pins.exists() {
            let args = ["lab", "exec", "--name", name, "director", "--"];
            let mut detach = self.director(&args);
            detach.arg(&self.binary).args(["detach", "--instance", name]);
            result = sh::run_silently(&mut detach);
        }
        // The namespaces must be removed in any case.
        if Path::new("/run/director").join(format!("lab-{name}.json")).exists() {
            let down = &mut self.director(&["lab", "down", "--force", "--name", name]);
            result = sh::run_silently(down).and(result);
        }
        // Without the director's namespace nothing can be detached; only files can be removed.
        let _ = fs::remove_dir_all(pins);
        let _ = fs::remove_dir_all(Path::new("/run/director").join(name));
        result
    }

    /// Removes the labs of demos that were killed.
    fn remove_stale(&self) -> Result<()> {
        for name in stale() {
            eprintln!("removing what is left of an earlier demo: {name}");
            self.take_down(&name)?;
            let _ = fs::remove_dir_all(std::env::temp_dir().join(format!("director-{name}")));
        }
        Ok(())
    }

    /// The end of the director's log.
    pub(super) fn log(&self) -> String {
        last_lines(&self.log_file())
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("director.log")
    }

    /// A `director` command, in a separate process group: Ctrl-C reaches only this process, which
    /// then ends the others in order. If this process is killed, they get a signal.
    fn director(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).env(MARK, &self.name).process_group(0);
        // SAFETY: between fork and exec the closure only calls prctl(2), which is
        // async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGTERM).map_err(Into::into));
        }
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("cannot remove all of the lab {}: {error:#}", self.name);
        }
    }
}

fn parse(command: &mut Command) -> Result<Value> {
    let text = sh::read(command)?;
    serde_json::from_str(&text).with_context(|| format!("{}: not JSON", sh::show(command)))
}

/// The names of labs of demos whose process no longer exists.
fn stale() -> Vec<String> {
    let files = entries("/run/director").into_iter();
    let names =
        files.filter_map(|file| Some(file.strip_prefix("lab-")?.strip_suffix(".json")?.to_owned()));
    let dead = |name: &String| {
        let pid = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    names.filter(dead).collect()
}

/// Namespaces, pins, files and processes of the lab `name`.
fn leftovers(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let belongs = |entry: &str| {
        entry.match_indices(name).any(|(at, _)| {
            // Not demo-1 in demo-12.
            !entry[at + name.len()..].starts_with(|c: char| c.is_ascii_digit())
        })
    };
    let temporary = std::env::temp_dir();
    let places = PLACES.iter().map(Path::new).chain([temporary.as_path()]);
    for place in places {
        let found_here = entries(place).into_iter().filter(|entry| belongs(entry));
        found.extend(found_here.map(|entry| place.join(entry).display().to_string()));
    }
    let mark = format!("{MARK}={name}");
    for pid in entries("/proc").into_iter().filter(|pid| pid.parse::<u32>().is_ok()) {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes()) {
            found.push(format!("process {pid}"));
        }
    }
    found
}

fn entries(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn last_lines(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
