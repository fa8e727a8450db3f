//! Damage to the maps of a live director, by another process: every bit of every kind of published
//! word, one at a time, under traffic. Packets are right again within ten seconds, the daemon lives,
//! and its log names what was repaired. Without a daemon, the next start repairs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use director_common::{abi::map, backend::BackendState, service::RING_CHUNKS};
use director_tests::live::{Daemon, Live, TIMEOUT, address};
use director_userspace::{
    kernel::datapath::{Datapath, Tables, observe},
    policy::plan::{Damaged, Observed, ObservedRing},
};
use nix::sys::signal::Signal;

/// How soon everything must be right again.
const REPAIRED: Duration = Duration::from_secs(10);
const SERVICES: u32 = 32;
/// Backends of each service.
const BACKENDS: [&str; 2] = ["10.0.0.11", "10.0.0.12"];

fn vip(service: u32) -> String {
    format!("192.0.2.{}:80", service + 1)
}

/// Services by tunnels and directly, in turn.
fn yaml(weight: u16) -> String {
    let mut yaml = "interfaces: [{name: eth0}]\nflows: {size: 64Ki}\n\
                    defaults: {protocol: tcp, port: 80, drain_timeout: 5m}\nservices:\n"
        .to_owned();
    for service in 0..SERVICES {
        let forward = if service % 2 == 0 { "tunnel" } else { "direct" };
        let [a, b] = BACKENDS;
        let address = vip(service).replace(":80", "");
        yaml += &format!(
            "  - {{name: s{service}, address: {address}, forward: {forward}, backends: [{{address: \
             {a}, weight: 1}}, {{address: {b}, weight: {weight}}}]}}\n"
        );
    }
    yaml
}

async fn with_services(test: &str) -> Live {
    let mut live = Live::with(test, &yaml(1)).await;
    live.serve(&["b1", "b2"]);
    live
}

fn started(live: &Live) -> Daemon {
    let daemon = live.spawn_run();
    daemon.wait_for("running with", Duration::from_secs(60));
    daemon
}

/// The maps, as another privileged process opens them.
fn tables(live: &Live) -> Tables {
    Datapath::open(live.instance()).expect("there are maps").tables
}

/// Why packets, or the maps, are not right.
fn wrong(live: &Live, tables: &Tables) -> Option<String> {
    let observed = observe(tables);
    if observed.damaged != Damaged::default() || !observed.stray_keys.is_empty() {
        return Some(format!("{:?} {:?}", observed.damaged, observed.stray_keys));
    }
    if observed.services.len() != SERVICES as usize {
        return Some(format!("{} services", observed.services.len()));
    }
    for (slot, service) in &observed.services {
        let of = |text: String| Some(format!("{}: {text}", service.name));
        let backends: Vec<_> = observed.backends_of(*slot).map(|(_, backend)| backend).collect();
        let addresses: Vec<IpAddr> = backends.iter().map(|backend| backend.address).collect();
        let mut expected = BACKENDS.map(|address| address.parse().expect("an address"));
        expected.sort();
        if addresses.iter().collect::<BTreeSet<_>>() != expected.iter().collect()
            || backends.len() != BACKENDS.len()
            || backends.iter().any(|backend| backend.state != BackendState::Active)
        {
            return of(format!("{backends:?}"));
        }
        if !service.is_shown || !matches!(service.ring, ObservedRing::Whole(_)) {
            return of(format!("{service:?}"));
        }
        let (ring, references) = (tables.ring(*slot), backends.iter().map(|b| b.reference));
        let references: BTreeSet<u32> = references.map(|reference| reference.0).collect();
        if ring.iter().any(|reference| !references.contains(&reference.0)) {
            return of("its ring names others".to_owned());
        }
    }
    unanswered(live)
}

/// A service that does not answer.
fn unanswered(live: &Live) -> Option<String> {
    (0..SERVICES).find_map(|service| {
        let answer = live.get(&vip(service));
        answer.err().map(|error| format!("{}: {error}", vip(service)))
    })
}

/// Steps by which the daemon gave up a service or a backend.
fn given_up(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    log.lines().filter(|line| line.starts_with("- ")).map(ToOwned::to_owned).collect()
}

/// Ends the traffic, also if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connects to all services in turn until stopped: packets meet the damage. Returns how often that
/// succeeded, which proves nothing.
fn traffic(live: &Live, stop: &AtomicBool) -> u64 {
    let connect = || {
        let mut answered = 0;
        for service in (0..SERVICES).cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let limit = Duration::from_millis(50);
            let connected = TcpStream::connect_timeout(&address(&vip(service)), limit);
            answered += u64::from(connected.is_ok());
            thread::sleep(Duration::from_millis(5));
        }
        answered
    };
    live.node("client1").run(connect).expect("enters")
}

/// Waits until everything is right; returns how long that took.
#[track_caller]
fn right_again(live: &Live, tables: &Tables, daemon: &Daemon, what: &str) -> Duration {
    let began = Instant::now();
    while let Some(why) = wrong(live, tables) {
        assert!(began.elapsed() < REPAIRED, "{what}: {why}\n{}", daemon.log());
        thread::sleep(Duration::from_millis(50));
    }
    began.elapsed()
}

/// A bit to flip: the array, the entry, the word and the bit, and what the log must name.
struct Flip {
    name: &'static str,
    entry: u32,
    word: usize,
    bit: u32,
    logged: String,
}

/// The slots of what is in the maps, in the configuration's order.
struct Places {
    services: Vec<u32>,
    /// Slot, and the words that name it.
    backends: Vec<(u32, String)>,
    rings: Vec<u32>,
    filter: BTreeSet<u32>,
}

impl Places {
    fn of(tables: &Tables) -> Self {
        let observed: Observed = observe(tables);
        let mut services: Vec<_> = observed.services.iter().collect();
        services.sort_by_key(|(_, s)| s.name[1..].parse::<u32>().expect("s and a number"));
        let backends = services.iter().flat_map(|(slot, service)| {
            let named =
                |(at, backend): (u32, &director_userspace::policy::plan::ObservedBackend)| {
                    (at, format!("backend {} of service {}:", backend.address, service.name))
                };
            observed.backends_of(**slot).map(named)
        });
        let filter = (0..1024).filter(|word| tables.present(map::VIP_FILTER, *word) != [0]);
        Self {
            backends: backends.collect(),
            rings: services.iter().filter_map(|(_, service)| service.ring.number()).collect(),
            filter: filter.collect(),
            services: services.into_iter().map(|(slot, _)| *slot).collect(),
        }
    }

    /// The bits of round `round` of 64: over all of them, each bit of one used and of one unused
    /// entry of each array, in entries of different services.
    fn flips(&self, round: u32) -> Vec<Flip> {
        let mut flips = Vec::new();
        let mut all = |name, entry: &dyn Fn(u32) -> (u32, String), words: u32| {
            for word in 0..words {
                let (entry, logged) = entry(word);
                flips.push(Flip { name, entry, word: word as usize, bit: round, logged });
            }
        };
        let service = |n: u32| {
            let n = (n + round) % SERVICES;
            (self.services[n as usize], format!("service s{n}: "))
        };
        let backend = |n: u32| {
            let (slot, named) = &self.backends[(n + round) as usize % self.backends.len()];
            (*slot, named.clone())
        };
        let ring = |n: u32| {
            let n = (n + round + 16) % SERVICES;
            let chunk = self.rings[n as usize] * RING_CHUNKS + (97 * round + n) % RING_CHUNKS;
            (chunk, format!("ring of service s{n}: "))
        };
        let unused = |first: u32, map: &'static str| {
            move |n: u32| (first + n, format!("unused entry {} of {map}: ", first + n))
        };
        let used_word = *self.filter.iter().nth(round as usize % 8).expect("a word");
        let free_word = (0..1024).find(|word| !self.filter.contains(word)).expect("a word");
        let filter = |word: u32| move |_| (word, format!("word {word} of the filter"));
        all(map::SERVICES, &service, 8);
        all(map::SERVICE_META, &|n| service(n + 8), 16);
        all(map::BACKENDS, &backend, 8);
        all(map::BACKEND_META, &|n| backend(n + 8), 2);
        all(map::RINGS, &ring, 8);
        all(map::SERVICES, &unused(1000, "services"), 8);
        all(map::SERVICE_META, &unused(2000, "services"), 16);
        all(map::BACKENDS, &unused(1000, "backends"), 8);
        all(map::BACKEND_META, &unused(2000, "backends"), 2);
        all(map::VIP_FILTER, &filter(used_word), 1);
        all(map::VIP_FILTER, &filter(free_word), 1);
        all(map::INTERFACES, &|_| (1, "interface slot 1: ".into()), 8);
        all(map::INTERFACES, &|_| (9, "interface slot 9: ".into()), 8);
        all(map::META, &|_| (0, "metadata of the maps: ".into()), 12);
        // The heartbeat is written with each beat, and tracing processes write two words.
        let tunables = [
            "",
            "unused bits",
            "flow timeouts",
            "flow timeouts",
            "",
            "",
            "unused bits",
            "unused bits",
        ];
        all(map::TUNABLES, &|n| (0, tunables[n as usize].to_owned()), 8);
        flips
    }
}

/// The words of TUNABLES that other processes, or each heartbeat, write.
fn is_repaired(flip: &Flip) -> bool {
    flip.name != map::TUNABLES || ![0, 4, 5].contains(&flip.word)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bit_of_every_kind_of_published_word() {
    let live = with_services("bits").await;
    let daemon = started(&live);
    let mut tables = tables(&live);
    right_again(&live, &tables, &daemon, "before");
    let places = Places::of(&tables);
    let (mut longest, mut flipped) = (Duration::ZERO, 0);
    let stop = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        let worker = scope.spawn(|| traffic(&live, &stop));
        let stopped = Stop(&stop);
        let log_before = daemon.log();
        assert!(!log_before.contains("repaired"), "{log_before}");
        for round in 0..64 {
            daemon.clear_log();
            let flips = places.flips(round);
            let words = |tables: &Tables| {
                let all = flips.iter().filter(|flip| is_repaired(flip));
                all.map(|flip| tables.present(flip.name, flip.entry)[flip.word]).collect::<Vec<_>>()
            };
            let (before, keys) = (words(&tables), tables.present_keys());
            for flip in &flips {
                tables.flip(flip.name, flip.entry, flip.word, 1 << flip.bit);
            }
            // A bit of the slot that a key leads to, and of a key, which then is another.
            let nth = |n: u32| keys.iter().nth(n as usize % keys.len()).expect("a key");
            let (key, slot) = nth(round);
            tables.divert(*key, Some(slot ^ 1 << (round % 32))).expect("written");
            let (key, slot) = nth(round + 1);
            for bit in (round..192).step_by(64) {
                let mut stray = *key;
                match bit {
                    0..64 => stray.address.first ^= 1 << bit,
                    64..128 => stray.address.second ^= 1 << (bit - 64),
                    128..144 => stray.port[(bit as usize - 128) / 8] ^= 1 << (bit % 8),
                    144..152 => stray.protocol ^= 1 << (bit % 8),
                    152..160 => stray.family ^= 1 << (bit % 8),
                    _ => stray._pad[(bit as usize - 160) / 8] ^= 1 << (bit % 8),
                }
                // Some keys with one other bit are keys, too.
                if !keys.contains_key(&stray) {
                    tables.divert(stray, Some(*slot)).expect("written");
                }
            }
            tables.divert(*key, None).expect("removed");
            flipped += flips.len() + 4;
            let began = Instant::now();
            while words(&tables) != before || tables.present_keys() != keys {
                assert!(began.elapsed() < REPAIRED, "round {round}\n{}", daemon.log());
                thread::sleep(Duration::from_millis(20));
            }
            while let Some(why) = unanswered(&live) {
                assert!(began.elapsed() < REPAIRED, "round {round}: {why}\n{}", daemon.log());
            }
            longest = longest.max(began.elapsed());
            let log = daemon.log();
            let unnamed =
                flips.iter().find(|flip| is_repaired(flip) && !log.contains(&flip.logged));
            if let Some(Flip { name, entry, word, bit, logged }) = unnamed {
                panic!("{name}[{entry}] word {word} bit {bit}: no {logged:?} in\n{log}");
            }
            assert!(log.contains("~ key tcp ") || log.contains("~ shared key "), "{log}");
        }
        drop(stopped);
        worker.join().expect("no panic")
    });
    println!("{flipped} bits, {answered} connections meanwhile, longest {longest:?}");
    // Nothing is left to do, and nothing was given up meanwhile.
    daemon.clear_log();
    live.write(&yaml(2));
    daemon.wait_for("weight 1 -> 2", TIMEOUT);
    assert_eq!(given_up(&daemon), [] as [String; 0]);
    right_again(&live, &tables, &daemon, "a change afterwards");
    daemon.end(Signal::SIGTERM);
}

/// Flips of one restart: array, word, bit by number of the entry, and how many entries.
type Rows = [(&'static str, usize, u32)];

/// Damage while no daemon runs: the next start compares everything with the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_repairs_what_was_damaged_without_a_daemon() {
    let live = with_services("adopted").await;
    let daemon = started(&live);
    right_again(&live, &tables(&live), &daemon, "before");
    let places = Places::of(&tables(&live));
    daemon.end(Signal::SIGTERM);
    // Array, word, and the bit of the first entry: each further entry has the next bit flipped.
    let restarts: [&Rows; 5] = [
        &[(map::SERVICES, 0, 0)],
        &[(map::SERVICES, 0, 32)],
        &[(map::BACKENDS, 0, 0)],
        &[(map::BACKENDS, 2, 0), (map::SERVICE_META, 12, 0)],
        &[(map::BACKENDS, 1, 0), (map::BACKEND_META, 1, 0), (map::SERVICES, 5, 0)],
    ];
    for (number, rows) in restarts.into_iter().enumerate() {
        let tables = tables(&live);
        for (name, word, first) in rows {
            let entries: Vec<u32> = match *name {
                map::SERVICES | map::SERVICE_META => places_now(&tables).services,
                _ => places_now(&tables).backends.into_iter().map(|(slot, _)| slot).collect(),
            };
            for (n, entry) in (0..).zip(entries) {
                tables.flip(name, entry, *word, 1 << ((first + n) % 64));
            }
        }
        repaired_by_a_start(&live, &format!("restart {number}"));
    }
    // An entry of all ones; a service that no map has room for; garbage in a free slot; a ring that
    // another service has; two services' slots with one key; filter, interface and sizes.
    let tables = tables(&live);
    let now = places_now(&tables);
    for word in 0..8 {
        let present = tables.present(map::BACKENDS, now.backends[0].0)[word];
        tables.flip(map::BACKENDS, now.backends[0].0, word, !present);
        tables.flip(map::BACKENDS, 3000, word, 0x5bd1_e995_9e37_79b9 << word);
        tables.flip(map::SERVICES, 3000, word, 0xdead_beef_1234_5678 << word);
        tables.flip(map::INTERFACES, 1, word, 3 << 20);
        tables.flip(map::INTERFACES, 7, word, 3 << 20);
    }
    let present = tables.present(map::BACKENDS, now.backends[2].0)[0];
    tables.flip(map::BACKENDS, now.backends[2].0, 0, !present & 0xffff << 32);
    let of = |n: usize, word: usize| tables.present(map::SERVICES, now.services[n])[word];
    tables.flip(map::SERVICES, now.services[8], 0, of(8, 0) ^ of(9, 0));
    for word in 1..4 {
        tables.flip(map::SERVICES, now.services[10], word, of(10, word) ^ of(11, word));
    }
    for word in 0..1024 {
        tables.flip(map::VIP_FILTER, word, 0, 0x1111_1111_1111_1111);
    }
    tables.flip(map::META, 0, 0, 1 << 34);
    drop(places);
    repaired_by_a_start(&live, "garbage");
}

fn places_now(tables: &Tables) -> Places {
    Places::of(tables)
}

#[track_caller]
fn repaired_by_a_start(live: &Live, what: &str) {
    let daemon = started(live);
    let took = right_again(live, &tables(live), &daemon, what);
    println!("{what}: right after {took:?}");
    let is_drain = |line: &String| line.ends_with(" drains");
    assert!(!given_up(&daemon).iter().any(is_drain), "{what}: {}", daemon.log());
    daemon.end(Signal::SIGTERM);
}

/// A third of each ring, without a daemon: the fingerprint beside it says nothing about it.
#[tokio::test(flavor = "multi_thread")]
async fn rings_damaged_without_a_daemon_are_built_again() {
    let live = with_services("rings").await;
    started(&live).end(Signal::SIGTERM);
    let tables = tables(&live);
    for ring in places_now(&tables).rings {
        for chunk in (ring * RING_CHUNKS..(ring + 1) * RING_CHUNKS).step_by(3) {
            for (word, present) in tables.present(map::RINGS, chunk).into_iter().enumerate() {
                tables.flip(map::RINGS, chunk, word, present);
            }
        }
    }
    assert!(wrong(&live, &tables).is_some());
    let daemon = started(&live);
    let took = right_again(&live, &tables, &daemon, "rings");
    println!("right after {took:?}");
    let log = daemon.log();
    for service in 0..SERVICES {
        assert!(log.contains(&format!("ring of service s{service}: ")), "s{service}: {log}");
    }
    daemon.end(Signal::SIGTERM);
}

/// While the entry of one service is gone, another is changed: the change takes nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_beside_a_damaged_service_takes_none_of_its_slots() {
    let live = with_services("partial").await;
    let daemon = started(&live);
    let tables = tables(&live);
    right_again(&live, &tables, &daemon, "before");
    let places = Places::of(&tables);
    for round in 0..6 {
        let slot = places.services[round];
        let entry = tables.present(map::SERVICES, slot);
        let (slot_of_backend, _) = places.backends[2 * round];
        let backend = tables.present(map::BACKENDS, slot_of_backend);
        // As often as it is written back, until the change was made.
        let change = thread::scope(|scope| {
            let change =
                scope.spawn(|| live.director(&format!("weight s20 10.0.0.11 {}", 10 + round)));
            while !change.is_finished() {
                for (word, there) in entry.iter().enumerate() {
                    let present = tables.present(map::SERVICES, slot)[word];
                    tables.flip(map::SERVICES, slot, word, present & there);
                }
                let present = tables.present(map::BACKENDS, slot_of_backend)[0];
                tables.flip(map::BACKENDS, slot_of_backend, 0, present & backend[0]);
                thread::sleep(Duration::from_millis(1));
            }
            change.join().expect("ran")
        });
        change.succeeded();
        right_again(&live, &tables, &daemon, &format!("round {round}"));
        assert_eq!(tables.present(map::SERVICES, slot), entry);
        assert_eq!(tables.present(map::BACKENDS, slot_of_backend), backend);
    }
    daemon.end(Signal::SIGTERM);
}

/// A backend whose address another process changed is not one that the operator removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_address_does_not_drain() {
    let live = with_services("address").await;
    let mut daemon = started(&live);
    let tables = tables(&live);
    for with_daemon in ["running", "stopped"] {
        let places = places_now(&tables);
        if with_daemon == "stopped" {
            daemon.end(Signal::SIGTERM);
            for (slot, _) in &places.backends {
                tables.flip(map::BACKENDS, *slot, 2, 1 << 24);
            }
            daemon = started(&live);
        } else {
            for (slot, _) in &places.backends {
                tables.flip(map::BACKENDS, *slot, 2, 1 << 24);
            }
        }
        right_again(&live, &tables, &daemon, with_daemon);
        for service in [0, 17] {
            let listed = live.json(&format!("backends s{service}"));
            let states: Vec<_> = listed.as_array().expect("a list").iter().collect();
            assert_eq!(states.len(), BACKENDS.len(), "{listed}");
        }
        let is_drain = |line: &String| line.ends_with(" drains");
        assert!(!given_up(&daemon).iter().any(is_drain), "{}", daemon.log());
    }
    daemon.end(Signal::SIGTERM);
}
