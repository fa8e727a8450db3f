//! Real HTTP servers on the backends: nginx, each in a directory of its own.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, DirBuilder},
    net::{SocketAddr, TcpStream},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{LabError, Node};

/// How long a server may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A running HTTP server. It is stopped when this is dropped.
#[derive(Debug)]
pub struct HttpServer {
    child: Child,
    directory: PathBuf,
    node: String,
    listen: Vec<SocketAddr>,
}

impl HttpServer {
    /// Starts a server on a node that answers every request with `200` and the node's name as the
    /// body, and waits until it does.
    pub(super) fn start(lab: &str, node: &Node, listen: &[SocketAddr]) -> Result<Self, LabError> {
        let directory = std::env::temp_dir().join(format!(
            "director-lab-{lab}-{}-{}",
            node.name(),
            std::process::id()
        ));
        let system = |doing: &str| {
            let doing = format!("{doing} {}", directory.display());
            move |error| LabError::system(doing, error)
        };
        // Others can guess the name, and create files in /tmp: what is there already is not used.
        let _ = fs::remove_dir_all(&directory);
        DirBuilder::new().mode(0o700).create(&directory).map_err(system("create"))?;
        fs::create_dir(directory.join("temp")).map_err(system("create"))?;
        // Also at its own addresses, as a server does: health checks connect there.
        let ports: BTreeSet<u16> = listen.iter().map(SocketAddr::port).collect();
        let own = node.addresses().iter();
        let own = own.flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port)));
        let everywhere: Vec<_> = listen.iter().copied().chain(own).collect();
        fs::write(directory.join("nginx.conf"), configuration(node.name(), &everywhere))
            .map_err(system("write nginx.conf in"))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&directory).args(["-c", "nginx.conf", "-e", "error.log"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = node.spawn(command).map_err(|error| {
            let _ = fs::remove_dir_all(&directory);
            if error.kind() == std::io::ErrorKind::NotFound {
                LabError::NotInstalled { program: "nginx", package: "nginx-light" }
            } else {
                LabError::system("start nginx", error)
            }
        })?;
        let listen = listen.to_vec();
        let mut server = Self { child, directory, node: node.name().to_owned(), listen };
        server.wait_until_ready(node)?;
        Ok(server)
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Where it listens.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self, node: &Node) -> Result<(), LabError> {
        let deadline = Instant::now() + START_TIMEOUT;
        for address in self.listen.clone() {
            loop {
                let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
                let connected = node.run(connect);
                if connected.is_ok_and(|stream| stream.is_ok()) {
                    break;
                }
                let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
                if ended || Instant::now() > deadline {
                    let log = fs::read_to_string(self.directory.join("error.log"));
                    let log = log.unwrap_or_default();
                    let tail = log.lines().rev().take(5).collect::<Vec<_>>();
                    let log = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                    return Err(LabError::ServerFailed { node: self.node.clone(), log });
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // Not reaped yet, so the PID is still its own.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// One process (so that one signal ends it all), and nothing outside its directory.
fn configuration(node: &str, listen: &[SocketAddr]) -> String {
    let mut text = String::from(
        "daemon off;\nmaster_process off;\nuser root;\npid nginx.pid;\n\
         events { worker_connections 4096; }\n\
         http {\n  access_log off;\n  default_type text/plain;\n",
    );
    for module in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {module}_temp_path temp/{module};");
    }
    text.push_str("  server {\n");
    for address in listen {
        let _ = writeln!(text, "    listen {address} backlog=4096;");
    }
    let _ = write!(text, "    location / {{ return 200 \"{node}\\n\"; }}\n  }}\n}}\n");
    text
}
