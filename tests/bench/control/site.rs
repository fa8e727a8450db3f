//! The namespaces of a director and of a sender, connected by a veth pair.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use director_tests::live::pass_everything;
use director_userspace::kernel::{
    datapath::{self, Instance},
    net::{LinkEnd, NetNs, Netlink, NewRoute},
};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
            sockopt,
        },
        time::TimeVal,
    },
    unistd::Pid,
};

/// How long a director may take to start or stop.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Packets sent by all probes.
static SENT: AtomicU32 = AtomicU32::new(0);
/// After this long without a packet, in microseconds, none is in flight.
const QUIET_US: i64 = 30_000;
/// Interval between packets for a service.
const PAUSE: Duration = Duration::from_micros(200);
const DIRECTOR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 2, 0, 1], [2, 0, 0, 2, 0, 2]];
/// The service of the small configuration.
pub(super) const SMALL_VIP: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);
/// Its backends.
const SMALL_BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 127, 0, 1), Ipv4Addr::new(10, 127, 0, 2)];
const SMALL_WEIGHTS: [u16; 2] = [0, 65_535];

/// A configuration of one service; its second backend gets no flows, or nearly all.
pub(super) fn small(heavy: bool) -> String {
    format!(
        "interfaces:\n  - name: eth0\nservices:\n  - name: small\n    address: {SMALL_VIP}\n    \
         protocol: udp\n    port: any\n    forward: tunnel\n    backends:\n      - {{address: {}, \
         weight: 1}}\n      - {{address: {}, weight: {}}}\n",
        SMALL_BACKENDS[0],
        SMALL_BACKENDS[1],
        SMALL_WEIGHTS[usize::from(heavy)]
    )
}

/// The backend that gets the flows of the small configuration.
pub(super) fn selected(heavy: bool) -> Ipv4Addr {
    SMALL_BACKENDS[usize::from(heavy)]
}

/// The two namespaces. Everything is removed when dropped.
pub(super) struct Site {
    director: NetNs,
    far: NetNs,
    names: [String; 2],
    instance: Instance,
    directory: PathBuf,
    program: PathBuf,
}

impl Site {
    /// Builds it for the `director` at `program`.
    pub(super) async fn new(program: &Path) -> Result<Self> {
        let name = format!("bench{}", std::process::id());
        let names = [format!("{name}-director"), format!("{name}-far")];
        let director = NetNs::create(&names[0])?;
        let far = NetNs::create(&names[1]).inspect_err(|_| drop(NetNs::delete(&names[0])))?;
        let instance = Instance::new(&name).map_err(anyhow::Error::msg)?;
        let directory = std::env::temp_dir().join(&name);
        // From here on, dropping it removes what exists.
        let site = Self { director, far, names, instance, directory, program: program.into() };
        fs::create_dir_all(&site.directory)?;
        site.wire().await?;
        Ok(site)
    }

    async fn wire(&self) -> Result<()> {
        let [near, there] = MACS;
        let ends = [
            LinkEnd { name: "eth0", netns: Some(&self.director), mac: Some(near) },
            LinkEnd { name: "far", netns: Some(&self.far), mac: Some(there) },
        ];
        let [a, b] = ends;
        Netlink::connect()?.create_veth(a, b).await?;
        let any = |address: [u8; 4]| IpAddr::from(address);
        for (netns, name, own, other, mac, destination, prefix_len) in [
            (&self.director, "eth0", DIRECTOR, FAR, there, any([10, 0, 0, 0]), 9),
            (&self.far, "far", FAR, DIRECTOR, near, any([198, 18, 0, 0]), 15),
        ] {
            let netlink = Netlink::connect_in(netns)?;
            let index = netlink.link_by_name(name).await?.index;
            netlink.set_mtu(index, 1600).await?;
            netlink.add_address(index, own.into(), 24).await?;
            netlink.set_up(index, true).await?;
            // Frames must arrive as they are sent.
            for features in ["tx-checksum-", "tx-generic-segmentation", "tx-udp-"] {
                netlink.set_features(name, features, false)?;
            }
            netlink.set_neighbour(index, other.into(), mac).await?;
            let gateway = Some(other.into());
            let route = NewRoute {
                destination,
                prefix_len,
                gateway,
                link_index: index,
                onlink: false,
                source: None,
            };
            netlink.add_route(route).await?;
        }
        // Frames sent by XDP arrive only at an end with an XDP program.
        pass_everything(&Netlink::connect_in(&self.far)?, "far").await;
        Ok(())
    }

    /// The director's instance.
    pub(super) fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Moves the calling thread into the director's namespace.
    pub(super) fn enter(&self) -> Result<()> {
        Ok(self.director.enter()?)
    }

    fn file(&self) -> PathBuf {
        self.directory.join("director.yaml")
    }

    /// Writes the configuration, while no director runs.
    pub(super) fn write(&self, yaml: &str) -> Result<()> {
        fs::write(self.file(), yaml).context("writing the configuration")
    }

    /// Renames a new configuration over the old one and returns when that began.
    pub(super) fn replace(&self, yaml: &str) -> Result<Instant> {
        let new = self.directory.join("new");
        fs::write(&new, yaml).context("writing the configuration")?;
        let began = Instant::now();
        fs::rename(&new, self.file()).context("renaming the configuration")?;
        Ok(began)
    }

    /// Starts `director run` and waits until it runs.
    pub(super) fn start(&self) -> Result<Daemon> {
        let log = self.directory.join("log");
        let mut command = self.director.command(&self.program.to_string_lossy())?;
        command.args(["run", "-c"]).arg(self.file());
        command.args(["--instance", self.instance.name()]);
        let mut daemon = Daemon::spawn(command, &log)?;
        let began = Instant::now();
        while !fs::read_to_string(&log)?.contains("running with") {
            if began.elapsed() > TIMEOUT || daemon.child.try_wait()?.is_some() {
                bail!("director does not start:\n{}", fs::read_to_string(&log)?);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// Stops forwarding and removes the pins.
    pub(super) fn detach(&self) {
        let _ = datapath::detach(&self.instance, &[]);
    }

    /// Starts sending packets for `vip` and receiving those forwarded in a tunnel, to `backend` if
    /// given.
    pub(super) fn probe(&self, vip: Ipv4Addr, backend: Option<Ipv4Addr>) -> Result<Probe> {
        Probe::start(&self.far, vip, backend)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.detach();
        for name in &self.names {
            if let Err(error) = NetNs::delete(name) {
                eprintln!("{error}");
            }
        }
        let _ = fs::remove_dir_all(self.instance.run_dir());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A `director run`; killed when dropped.
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log).context("a log file")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).env_remove("RUST_LOG");
        Ok(Self { child: command.spawn().context("starting director")? })
    }

    /// Stops it; its data plane stays attached.
    pub(super) fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > TIMEOUT {
                bail!("director does not stop");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sender of packets, and a receiver of forwarded ones.
pub(super) struct Probe {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    receiver: OwnedFd,
    vip: Ipv4Addr,
    backend: Option<Ipv4Addr>,
}

impl Probe {
    fn start(far: &NetNs, vip: Ipv4Addr, backend: Option<Ipv4Addr>) -> Result<Self> {
        let receiver = far.run(|| {
            let receiver = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            setsockopt(&receiver, sockopt::ReceiveTimeout, &TimeVal::new(0, QUIET_US))?;
            Ok::<_, anyhow::Error>(receiver)
        })?;
        // Packets in flight would be mistaken for packets forwarded after the change.
        let (began, mut frame) = (Instant::now(), [0; 64]);
        while recv(receiver.as_raw_fd(), &mut frame, MsgFlags::empty()).is_ok() {
            if began.elapsed() > TIMEOUT {
                bail!("unexpected packets keep arriving");
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, netns) = (Arc::clone(&stop), NetNs::open(far.label())?);
        let sender = thread::spawn(move || {
            if netns.enter().is_err() {
                return;
            }
            while !ended.load(Ordering::Relaxed) {
                // Each packet has a new pair of ports, so its flow is untracked. Packets that
                // cannot be sent are skipped.
                let number = SENT.fetch_add(1, Ordering::Relaxed);
                if let Ok(socket) = UdpSocket::bind((FAR, 0)) {
                    let _ = socket.send_to(b"?", (vip, number as u16 | 1));
                }
                thread::sleep(PAUSE);
            }
        });
        Ok(Self { stop, sender: Some(sender), receiver, vip, backend })
    }

    /// Waits for such a packet and returns how long after `began` it arrived, in ms.
    pub(super) fn first(self, began: Instant, at_most: Duration) -> Result<f64> {
        let mut frame = [0; 2048];
        while began.elapsed() < at_most {
            match recv(self.receiver.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) if self.is_it(&frame[..length]) => {
                    return Ok(began.elapsed().as_secs_f64() * 1e3);
                }
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("receiving"),
            }
        }
        bail!("no packet for {} came back to {:?} within {at_most:?}", self.vip, self.backend)
    }

    /// Whether a frame is an IPv4 packet for the VIP in one for the backend.
    fn is_it(&self, frame: &[u8]) -> bool {
        const OUTER: usize = 14;
        const INNER: usize = OUTER + 20;
        let address = |at: usize| {
            let bytes: Option<[u8; 4]> = frame.get(at..at + 4)?.try_into().ok();
            bytes.map(Ipv4Addr::from)
        };
        frame.get(12..14) == Some(&[8, 0])
            && frame.get(OUTER + 9) == Some(&4)
            && address(INNER + 16) == Some(self.vip)
            && self.backend.is_none_or(|backend| address(OUTER + 16) == Some(backend))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}
