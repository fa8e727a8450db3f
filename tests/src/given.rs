//! Directors under test: a configuration, the paths to its backends, and the program loaded for
//! them.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::{Deref, DerefMut},
    sync::Mutex,
    time::Duration,
};

use director_common::{backend::NextHop, decision::Connection, verdict::Verdict};
use director_userspace::{
    kernel::datapath::{Counters, Simulation, counters, observe},
    policy::{
        config::{self, model::Config},
        plan::{Desired, Path, PathKey, Paths},
    },
};

/// Source of IPv4 tunnels.
pub const TUNNEL_V4: &str = "10.255.0.1";
/// Source of IPv6 tunnels.
pub const TUNNEL_V6: &str = "2001:db8:ffff::1";

/// Services of every kind. A name consists of the letter of the mode, the family of the VIP and the
/// family of the backends.
pub const EVERYTHING: &str = r#"
flows: {size: 64Ki, tcp: 2h, tcp_closing: 1m, udp: 5m}
services:
  - {name: t44, address: 192.0.2.1, protocol: [tcp, udp], port: 80, forward: tunnel,
     backends: [{address: 10.0.0.1}, {address: 10.0.0.2}, {address: 10.0.0.3}]}
  - {name: t46, address: 192.0.2.2, protocol: [tcp, udp], port: 80, forward: tunnel,
     backends: [{address: "2001:db8:b::1"}, {address: "2001:db8:b::2"}]}
  - {name: t64, address: "2001:db8::1", protocol: [tcp, udp], port: 80, forward: tunnel,
     backends: [{address: 10.0.1.1}, {address: 10.0.1.2}]}
  - {name: t66, address: "2001:db8::2", protocol: [tcp, udp], port: 80, forward: tunnel,
     backends: [{address: "2001:db8:c::1"}, {address: "2001:db8:c::2"}, {address: "2001:db8:c::3"}]}
  - {name: d4, address: 192.0.2.4, protocol: [tcp, udp], port: 80, forward: direct,
     backends: [{address: 10.0.2.1}, {address: 10.0.2.2}]}
  - {name: d6, address: "2001:db8::4", protocol: [tcp, udp], port: 80, forward: direct,
     backends: [{address: "2001:db8:d::1"}, {address: "2001:db8:d::2"}]}
  - {name: any, address: 192.0.2.5, protocol: tcp, port: any, forward: direct,
     backends: [{address: 10.0.3.1}]}
  - {name: exact, address: 192.0.2.5, protocol: tcp, port: 443, forward: direct,
     backends: [{address: 10.0.3.2}]}
  - {name: dns, address: 192.0.2.6, protocol: udp, port: 53, forward: direct,
     backends: [{address: 10.0.4.1}]}
  - {name: reject4, address: 192.0.2.7, protocol: [tcp, udp], port: 80, forward: direct, backends: []}
  - {name: reject6, address: "2001:db8::7", protocol: [tcp, udp], port: 80, forward: direct, backends: []}
  - {name: drop4, address: 192.0.2.8, protocol: tcp, port: 80, forward: direct, when_empty: drop,
     backends: [{address: 10.0.5.1, weight: 0}]}
  - {name: pass4, address: 192.0.2.9, protocol: tcp, port: 80, forward: direct, when_empty: pass,
     backends: []}
  - {name: weights, address: 192.0.2.10, protocol: tcp, port: 80, forward: tunnel,
     backends: [{address: 10.0.6.1, weight: 0}, {address: 10.0.6.2}]}
  - {name: fixed, address: 192.0.2.11, protocol: tcp, port: 80, forward: direct,
     backends: [{address: 10.0.7.1, mac: "02:00:5e:10:00:01"}]}
"#;

/// What a director is built from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Given {
    /// The configuration file.
    pub yaml: String,
    /// MTU towards backends, bytes; 0: unknown.
    pub mtu: u16,
    /// VLAN of the backends.
    pub vlan: u16,
    /// Slot of the interface towards the backends; packets arrive on 1.
    pub interface: u8,
}

impl Given {
    /// This configuration, with backends on the interface that packets arrive on.
    pub fn new(yaml: &str) -> Self {
        Self { yaml: yaml.into(), mtu: 0, vlan: 0, interface: 1 }
    }

    /// [`EVERYTHING`].
    pub fn everything() -> Self {
        Self::new(EVERYTHING)
    }

    /// Sets the MTU towards backends, bytes.
    #[must_use]
    pub fn mtu(mut self, bytes: u16) -> Self {
        self.mtu = bytes;
        self
    }

    /// Sets the VLAN of the backends.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan = id;
        self
    }

    /// Sets the slot of the interface towards the backends.
    #[must_use]
    pub fn interface(mut self, slot: u8) -> Self {
        self.interface = slot;
        self
    }

    /// The parsed file.
    ///
    /// # Panics
    ///
    /// If the file is invalid.
    pub fn config(&self) -> Config {
        match config::parse("given.yaml", &self.yaml) {
            Ok(loaded) => loaded.config,
            Err(errors) => panic!("{errors}"),
        }
    }

    /// What the maps should hold.
    pub fn desired(&self, config: &Config) -> Desired {
        let mut paths = Paths::default();
        for service in &config.services {
            for backend in &service.backends {
                let next_hop = NextHop::new(mac_of(backend.address), self.vlan, self.interface);
                let source = if backend.address.is_ipv4() { TUNNEL_V4 } else { TUNNEL_V6 };
                let path = Path { next_hop, source: source.parse().ok(), mtu: self.mtu };
                paths.insert(PathKey::of(service, backend), path);
            }
        }
        Desired::new(config, &paths)
    }
}

/// MAC address of the next hop to a backend, different for each backend.
pub fn mac_of(backend: IpAddr) -> [u8; 6] {
    let tail: [u8; 4] = match backend {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            [octets[5], octets[4], octets[14], octets[15]]
        }
    };
    [0x02, if backend.is_ipv4() { 4 } else { 6 }, tail[0], tail[1], tail[2], tail[3]]
}

/// The result for a packet.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The program's verdict.
    pub verdict: Verdict,
    /// Name of the service.
    pub service: Option<String>,
    /// Address of the backend.
    pub backend: Option<IpAddr>,
    /// Whether the flow was tracked.
    pub connection: Connection,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// What the program logged: nothing without the feature `verbose`.
    pub log: Vec<String>,
}

/// The program, loaded for a [`Given`], and a clock.
pub struct Director {
    /// What it was built from, or last changed to.
    pub given: Given,
    /// The parsed configuration.
    pub config: Config,
    /// The program and its maps.
    pub simulation: Simulation,
    /// The clock, nanoseconds.
    pub now_ns: u64,
    services: BTreeMap<u32, String>,
    backends: BTreeMap<u32, IpAddr>,
}

impl Director {
    /// Loads the program.
    ///
    /// # Panics
    ///
    /// If that fails: these tests need root.
    pub fn new(given: Given) -> Self {
        let config = given.config();
        let desired = given.desired(&config);
        let simulation = Simulation::new(&config, &desired).expect("root can load the program");
        let (services, backends) = (BTreeMap::new(), BTreeMap::new());
        let now_ns = 1_700_000_000_000_000_000;
        let mut director = Self { given, config, simulation, now_ns, services, backends };
        director.read_names();
        director
    }

    fn read_names(&mut self) {
        let observed = observe(&self.simulation.tables);
        self.services = observed.services.into_iter().map(|(slot, s)| (slot, s.name)).collect();
        self.backends = observed.backends.into_iter().map(|(slot, b)| (slot, b.address)).collect();
    }

    /// Changes the configuration, as `apply` would.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn change(&mut self, yaml: &str) {
        self.given.yaml = yaml.into();
        self.config = self.given.config();
        let desired = self.given.desired(&self.config);
        self.simulation.reconcile(&desired, self.now_ns).expect("maps can be written");
        self.read_names();
    }

    /// Advances the clock.
    pub fn after(&mut self, time: Duration) -> &mut Self {
        self.now_ns += u64::try_from(time.as_nanos()).expect("fits 64 bits");
        self
    }

    /// Runs the program over a frame.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn run(&mut self, frame: &[u8]) -> Seen {
        let outcome = match self.simulation.run(frame, self.now_ns) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{error}"),
        };
        let service = outcome.service.map(|slot| match self.services.get(&slot) {
            Some(name) => name.clone(),
            None => panic!("the program reports service slot {slot}, which is empty"),
        });
        let backend = outcome.backend.map(|slot| match self.backends.get(&slot) {
            Some(address) => *address,
            None => panic!("the program reports backend slot {slot}, which is empty"),
        });
        Seen {
            verdict: outcome.verdict,
            service,
            backend,
            connection: outcome.connection,
            frame: outcome.frame,
            log: self.simulation.log(),
        }
    }

    /// All counters.
    ///
    /// # Panics
    ///
    /// If they cannot be read.
    pub fn counters(&self) -> Counters {
        let tables = &self.simulation.tables;
        counters(tables, &observe(tables)).expect("counters can be read")
    }
}

/// Loading takes half a second, so directors are pooled: each is lent to one test at a time.
static POOL: Mutex<Option<HashMap<Given, Vec<Director>>>> = Mutex::new(None);

/// Longer than the lifetime of an earlier borrower's flow; no divisor of the flow table's 834 days.
const BETWEEN_TESTS: Duration = Duration::from_secs(41 * 24 * 3600);

/// A borrowed director; do not change its configuration.
pub struct Lent(Option<Director>);

/// Borrows a director in which all earlier flows have expired.
pub fn lend(given: &Given) -> Lent {
    let idle = {
        let mut pool = POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pool.get_or_insert_default().get_mut(given).and_then(Vec::pop)
    };
    let mut director = idle.unwrap_or_else(|| Director::new(given.clone()));
    director.after(BETWEEN_TESTS);
    Lent(Some(director))
}

impl Deref for Lent {
    type Target = Director;

    fn deref(&self) -> &Director {
        self.0.as_ref().expect("present until dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Director {
        self.0.as_mut().expect("present until dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(director), false) = (self.0.take(), std::thread::panicking()) {
            let mut pool = POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            pool.get_or_insert_default().entry(director.given.clone()).or_default().push(director);
        }
    }
}
