//! A lab with the real program: `director` runs as a process in the director's namespace, and
//! clients send requests to real web servers through its VIPs.
//!
//! - [`Live`]: the lab, the servers, the configuration file, and their clean-up
//! - [`Finished`], [`Daemon`]: the program, run to its end or in the background
//! - [`get`], [`Connection`], [`Load`]: clients
//! - [`Echo`], [`Steady`], [`Requests`]: servers and clients that detect every loss
//! - [`Capture`]: frames on an interface
//! - [`BpfObjects`]: what an instance has in the kernel, to check that it is removed

mod capture;
mod client;
mod echo;
mod kernel;
mod process;
mod steady;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::programs::Xdp;
use director_userspace::{
    kernel::{
        datapath::{self, Instance},
        net::{LinkEnd, NetNs, Netlink},
    },
    policy::config,
    setup::{
        lab::{DEFAULT_CONFIG, HttpServer, Lab, Node},
        realserver,
    },
};

pub use self::{
    capture::Capture,
    client::{Connection, Load, TIMEOUT, Totals, get},
    echo::Echo,
    kernel::BpfObjects,
    process::{Daemon, Finished, Program, binary, command, finish},
    steady::{Flow, FlowTotals, RequestTotals, Requests, Steady, Transport},
};

/// How long a start may take on a busy machine: the kernel verifies three programs per interface.
const START: Duration = Duration::from_secs(20);
/// The built-in configuration's VIPs: the first is reached by tunnels, the second directly.
pub const VIPS: [&str; 2] = ["192.0.2.10:80", "[2001:db8::10]:80"];

/// A lab, its servers and a director's configuration; all removed when dropped.
pub struct Live {
    /// The lab.
    pub lab: Lab,
    instance: Instance,
    directory: PathBuf,
    servers: Vec<HttpServer>,
}

impl Live {
    /// A lab with the built-in configuration and a web server on each of its three backends.
    pub async fn new(test: &str) -> Self {
        let mut live = Self::with(test, DEFAULT_CONFIG).await;
        live.serve(&["b1", "b2", "b3"]);
        live
    }

    /// A lab for a configuration, without servers. Addresses that end like the built-in
    /// configuration's backends belong to dual-stack hosts.
    ///
    /// # Panics
    /// If the configuration is invalid, or the lab cannot be built.
    pub async fn with(test: &str, yaml: &str) -> Self {
        let parsed = config::parse("test", yaml).expect("a valid configuration").config;
        let name = format!("live{}-{test}", std::process::id());
        let mut builder = Lab::builder().name(&name).config(&parsed);
        for n in 11..=15 {
            let low = u16::from(n) + 6;
            let v6 = IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, low]);
            builder = builder.host(&[IpAddr::from([10, 0, 0, n]), v6]);
        }
        let lab = builder.build().await.expect("a lab");
        // The lab removes the instance of its own name; this one has another name.
        let instance = Instance::new(&format!("t{name}")).expect("a name");
        let directory = std::env::temp_dir().join(format!("t{name}"));
        fs::create_dir_all(&directory).expect("a directory");
        let live = Self { lab, instance, directory, servers: Vec::new() };
        live.write(yaml);
        live
    }

    /// Starts web servers on these backends.
    ///
    /// # Panics
    /// If one does not start.
    pub fn serve(&mut self, nodes: &[&str]) {
        self.servers.extend(nodes.iter().map(|node| self.lab.serve_http(node).expect(node)));
    }

    /// Ends the web server on a backend.
    ///
    /// # Panics
    /// If there is none.
    pub fn end_server(&mut self, node: &str) {
        let before = self.servers.len();
        self.servers.retain(|server| server.node() != node);
        assert_eq!(self.servers.len() + 1, before, "a server on {node}");
    }

    /// The director's instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The directory for files of the test.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.directory.join("director.yaml")
    }

    /// Writes the configuration file in place.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, yaml: &str) {
        fs::write(self.file(), yaml).expect("writable");
    }

    /// Replaces the configuration file as editors do: a new file renamed over it.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn replace(&self, yaml: &str) {
        let new = self.directory.join(".director.yaml.swp");
        fs::write(&new, yaml).expect("writable");
        fs::rename(new, self.file()).expect("renamed");
    }

    /// A node of the lab.
    ///
    /// # Panics
    /// If there is no node of this name.
    pub fn node(&self, name: &str) -> &Node {
        self.lab.node(name).expect(name)
    }

    /// The kernel's network configuration on a node.
    ///
    /// # Panics
    /// If the node cannot be entered.
    pub fn netlink(&self, node: &str) -> Netlink {
        Netlink::connect_in(self.node(node).netns()).expect("connects")
    }

    /// Runs `director` to its end on the director's node: the words of `line`, then `--instance`
    /// with the test's own.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn director(&self, line: &str) -> Finished {
        self.director_on("director", line)
    }

    /// As [`Live::director`], on another node.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn director_on(&self, node: &str, line: &str) -> Finished {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = command(&words);
        command.args(["--instance", self.instance.name()]).current_dir(&self.directory);
        command.env("STATE_DIRECTORY", self.directory.join("state"));
        self.node(node).place(&mut command).expect("placed");
        finish(command)
    }

    /// `director attach` with the configuration file.
    ///
    /// # Panics
    /// If it fails.
    pub fn attach(&self) -> Finished {
        self.director("attach -c director.yaml").succeeded()
    }

    /// `director detach`.
    ///
    /// # Panics
    /// If it fails.
    pub fn detach(&self) -> Finished {
        self.director("detach").succeeded()
    }

    /// Starts `director run` and waits until it logs that it runs.
    ///
    /// # Panics
    /// If it does not.
    pub fn run(&self) -> Daemon {
        self.run_as(Program::Director)
    }

    /// As [`Live::run`], for one of the two builds.
    ///
    /// # Panics
    /// If it does not.
    pub fn run_as(&self, program: Program) -> Daemon {
        let daemon = self.spawn_run_as(program);
        daemon.wait_for("running with", START);
        daemon
    }

    /// Starts `director run`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_run(&self) -> Daemon {
        self.spawn_run_as(Program::Director)
    }

    /// As [`Live::spawn_run`], for one of the two builds.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_run_as(&self, program: Program) -> Daemon {
        self.spawn(program.command(&["run", "-c", "director.yaml"]))
    }

    /// As [`Live::spawn_run`], on a host that trusts the certificates of this file.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_run_trusting(&self, roots: &Path) -> Daemon {
        let mut command = Program::Director.command(&["run", "-c", "director.yaml"]);
        command.env("SSL_CERT_FILE", roots);
        self.spawn(command)
    }

    /// As [`Live::spawn_run`], with a supervisor that listens at this Unix datagram socket.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_run_notifying(&self, supervisor: &Path) -> Daemon {
        let mut command = Program::Director.command(&["run", "-c", "director.yaml"]);
        command.env("NOTIFY_SOCKET", supervisor);
        self.spawn(command)
    }

    /// As [`Live::spawn_run`], in a mount namespace of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_run_in_own_mounts(&self) -> Daemon {
        let mut command = Command::new("unshare");
        command.arg("--mount").arg(binary()).args(["run", "-c", "director.yaml"]);
        self.spawn(command)
    }

    fn spawn(&self, mut command: Command) -> Daemon {
        command.args(["--instance", self.instance.name()]).current_dir(&self.directory);
        command.env("STATE_DIRECTORY", self.directory.join("state"));
        self.node("director").place(&mut command).expect("placed");
        Daemon::spawn(command, &self.directory)
    }

    /// The output of a read-only command with `--output json`.
    ///
    /// # Panics
    /// If it fails or prints something else.
    pub fn json(&self, line: &str) -> serde_json::Value {
        self.director(&format!("{line} --output json")).succeeded().json()
    }

    /// Packets by verdict: `tx`, `drop/no-neighbour`, `pass/not-our-mac`, ...; zero counts are left
    /// out.
    ///
    /// # Panics
    /// If `director stats` fails.
    pub fn verdicts(&self) -> BTreeMap<String, u64> {
        verdicts_of(&self.json("stats"))
    }

    /// Sends one request through `vip` from the first client and returns the backend that answered.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn get(&self, vip: &str) -> std::io::Result<String> {
        get(self.node("client1"), address(vip))
    }

    /// `count` requests through `vip`, one after the other: answers by backend.
    ///
    /// # Panics
    /// If one fails.
    pub fn spread(&self, vip: &str, count: usize) -> BTreeMap<String, usize> {
        let vip = address(vip);
        let all = self.node("client1").run(|| {
            let mut answers = BTreeMap::new();
            for _ in 0..count {
                let answer = client::get_here(vip).map_err(|error| format!("{vip}: {error}"))?;
                *answers.entry(answer).or_default() += 1;
            }
            Ok::<_, String>(answers)
        });
        all.expect("enters").expect("answered")
    }

    /// Opens a persistent connection through `vip`.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn connect(&self, vip: &str) -> Connection {
        Connection::open(self.node("client1"), address(vip))
    }

    /// What this instance has in the kernel now, on the director's interfaces.
    pub async fn bpf(&self) -> BpfObjects {
        BpfObjects::of(&self.netlink("director"), &self.instance).await
    }

    /// Asserts that this instance has neither pins nor a program on an interface of the director.
    ///
    /// # Panics
    /// If it has.
    pub async fn assert_nothing_attached(&self) {
        assert!(!self.instance.pins().exists(), "{} exists", self.instance.pins().display());
        for link in self.netlink("director").links().await.expect("listed") {
            assert_eq!(link.xdp, None, "{} carries a program", link.name);
        }
    }

    /// Adds a second interface to the director, `eth1`, connected to `far` in a new namespace; both
    /// ends are up, and XDP works on both.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub async fn second_network(&self, far: &NetNs) {
        let here = Netlink::connect().expect("connects");
        let near = self.node("director").netns();
        here.create_veth(
            LinkEnd { name: "eth1", netns: Some(near), mac: Some([2, 0, 0, 1, 0, 1]) },
            LinkEnd { name: "far", netns: Some(far), mac: Some([2, 0, 0, 1, 0, 2]) },
        )
        .await
        .expect("a veth pair");
        for (netlink, name) in [
            (self.netlink("director"), "eth1"),
            (Netlink::connect_in(far).expect("connects"), "far"),
        ] {
            let index = netlink.link_by_name(name).await.expect(name).index;
            netlink.set_mtu(index, 1600).await.expect("an MTU");
            netlink.set_up(index, true).await.expect("up");
            // Frames sent by XDP arrive only if the receiver polls by NAPI, which GRO enables.
            netlink.set_features(name, "rx-gro", true).expect("GRO");
            for features in ["tx-checksum-", "tx-generic-segmentation", "tx-tcp-"] {
                netlink.set_features(name, features, false).expect("offloads");
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.servers.clear();
        // Daemons, created later, are dropped before; remaining processes end with the lab.
        let _ = datapath::detach(&self.instance, &[]);
        let _ = fs::remove_dir_all(self.instance.run_dir());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Puts a program that passes everything on an interface, as `ip link set dev ... xdp` would: what
/// a veth's other end sends by XDP arrives only at an end with a program of its own.
///
/// # Panics
/// If the kernel refuses.
pub async fn pass_everything(netlink: &Netlink, interface: &str) {
    let ebpf = realserver::load_pass().expect("loads");
    let index = netlink.link_by_name(interface).await.expect(interface).index;
    let program: &Xdp = ebpf.program(realserver::PASS).expect("there").try_into().expect("XDP");
    netlink.attach_xdp(index, program.fd().expect("loaded").as_fd()).await.expect("attached");
}

/// A named network namespace, removed when dropped.
pub struct Host {
    name: String,
    /// The namespace.
    pub netns: NetNs,
}

impl Host {
    /// Creates a namespace. IPv6 addresses are usable at once, without duplicate address detection
    /// or router solicitation.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn new(test: &str) -> Self {
        let name = format!("host{}-{test}", std::process::id());
        let netns = NetNs::create(&name).expect("root can create namespaces");
        let host = Self { name, netns };
        let netlink = host.netlink();
        for (setting, value) in [("accept_dad", "0"), ("router_solicitations", "0")] {
            for name in ["all", "default"] {
                let path = format!("net/ipv6/conf/{name}/{setting}");
                netlink.set_sysctl(&path, value).expect("sysctl");
            }
        }
        host
    }

    /// The kernel's network configuration there.
    ///
    /// # Panics
    /// If it cannot be entered.
    pub fn netlink(&self) -> Netlink {
        Netlink::connect_in(&self.netns).expect("connects")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = NetNs::delete(&self.name) {
            eprintln!("{error}");
        }
    }
}

/// Packets by verdict, out of what `director stats --output json` prints.
///
/// # Panics
/// If that has another form.
pub fn verdicts_of(stats: &serde_json::Value) -> BTreeMap<String, u64> {
    let mut verdicts = BTreeMap::new();
    for verdict in ["tx", "redirect"] {
        verdicts.insert(verdict.to_owned(), stats[verdict].as_u64().expect(verdict));
    }
    for verdict in ["reply", "pass", "drop"] {
        for (reason, packets) in stats[verdict].as_object().expect(verdict) {
            verdicts.insert(format!("{verdict}/{reason}"), packets.as_u64().expect("a number"));
        }
    }
    verdicts.retain(|_, packets| *packets > 0);
    verdicts
}

/// Waits until `done` and returns how long it took.
///
/// # Panics
/// If it takes longer than `at_most`.
#[track_caller]
pub fn wait_until(what: &str, at_most: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < at_most, "{what}: not within {at_most:?}");
        thread::sleep(Duration::from_millis(10));
    }
    began.elapsed()
}

/// A socket address in a test.
///
/// # Panics
/// If the text is invalid.
pub fn address(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

/// An IP address in a test.
///
/// # Panics
/// If the text is invalid.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}
