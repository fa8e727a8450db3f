//! Faults: broken files, pins, maps, disks, clients and backends. The daemon continues, reports the
//! fault, and repairs what it can; packets are forwarded throughout.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, Map, MapData};
use director_common::{
    backend::{Backend, BackendMeta},
    interface::Interface,
    service::{RingChunk, Service, ServiceKey},
};
use director_tests::live::{Daemon, Live, Load, TIMEOUT, VIPS, address, wait_until};
use director_userspace::setup::lab::DEFAULT_CONFIG;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

/// How soon a change of the file is in effect.
const SOON: Duration = Duration::from_secs(1);
/// How soon the daemon repairs maps and pins on a busy machine.
const REPAIRED: Duration = Duration::from_secs(15);

/// Starts the daemon, however long the verifier takes on a busy machine.
fn started(live: &Live) -> Daemon {
    let daemon = live.spawn_run();
    daemon.wait_for("running with", Duration::from_secs(60));
    daemon
}

/// The built-in configuration with another weight for the last backend of the first service.
fn with_weight(weight: u16) -> String {
    DEFAULT_CONFIG.replace("weight: 3", &format!("weight: {weight}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_place_of_the_file_is_refused_and_can_be_removed() {
    let live = Live::new("directory").await;
    let daemon = started(&live);
    fs::remove_file(live.file()).expect("removed");
    fs::create_dir(live.file()).expect("made");
    daemon.wait_for("refused, the configuration in effect stays", TIMEOUT);
    let log = daemon.log();
    assert!(log.contains("director.yaml") && log.contains("irectory"), "{log}");
    daemon.clear_log();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("refused, the configuration in effect stays", TIMEOUT);
    // An apply cannot replace the directory either, and reports it.
    fs::write(live.directory().join("new.yaml"), with_weight(20)).expect("written");
    let apply = live.director("apply -f new.yaml").refused(1);
    assert!(apply.stderr.contains("director.yaml"), "{}", apply.stderr);
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    fs::remove_dir(live.file()).expect("removed");
    daemon.clear_log();
    live.write(&with_weight(30));
    daemon.wait_for("-> 30", SOON);
    daemon.end(Signal::SIGTERM);
    // A daemon that starts with a directory reports the error and leaves the pins unchanged.
    fs::remove_file(live.file()).expect("removed");
    fs::create_dir(live.file()).expect("made");
    live.director("run -c director.yaml").refused(2).reports(&["director.yaml"]);
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_pins_are_restored_and_no_request_fails() {
    let live = Live::new("pins").await;
    let daemon = started(&live);
    daemon.wait_for("ready", REPAIRED);
    let before = live.bpf().await;
    let load = Load::start(live.node("client1"), address(VIPS[0]));
    wait_until("requests are running", TIMEOUT, || load.so_far().answered() > 50);
    let pins = live.instance().pins();
    let maps = pins.join("maps");
    for gone in [vec![maps.join("BACKENDS"), maps.join("SLOW_PATH")], vec![maps.clone()]] {
        daemon.clear_log();
        for path in &gone {
            if path.is_dir() {
                fs::remove_dir_all(path).expect("removed");
            } else {
                fs::remove_file(path).expect("removed");
            }
        }
        daemon.wait_for("repaired", REPAIRED);
        let log = daemon.log();
        assert!(log.contains("maps/SLOW_PATH") && log.contains("maps/BACKENDS"), "{log}");
        wait_until("all of them", REPAIRED, || gone.iter().all(|path| path.exists()));
        assert_eq!(live.json("backends web").as_array().map(Vec::len), Some(3));
    }
    // All pins, also of the links: the daemon has the links open, so the program stays attached.
    daemon.clear_log();
    fs::remove_dir_all(&pins).expect("removed");
    daemon.wait_for("repaired", REPAIRED);
    wait_until("links", REPAIRED, || pins.join("links").exists() && maps.join("META").exists());
    assert_eq!(live.bpf().await, before, "the same programs, maps and links as before");
    live.write(&with_weight(30));
    daemon.wait_for("-> 30", TIMEOUT);
    let total = load.stop();
    assert_eq!(total.errors, [] as [String; 0], "of {} requests", total.answered());
    daemon.end(Signal::SIGTERM);
    // The next daemon finds all pins.
    let daemon = started(&live);
    daemon.wait_for("started: nothing to change", TIMEOUT);
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
}

/// A pinned array, as any privileged process could change it.
fn array<const N: usize>(live: &Live, name: &str) -> Array<MapData, [u8; N]> {
    let pin = live.instance().pins().join("maps").join(name);
    let data = MapData::from_pin(pin).expect(name);
    Array::try_from(Map::Array(data)).expect("an array of such values")
}

/// Overwrites the values of an array that `wanted` selects and returns their number.
fn overwrite<const N: usize>(
    live: &Live,
    name: &str,
    wanted: impl Fn(&[u8; N]) -> bool,
    with: impl Fn(&mut [u8; N]),
) -> usize {
    let mut array = array::<N>(live, name);
    let mut changed = 0;
    for index in 0..array.len() {
        let mut value = array.get(&index, 0).expect("a value");
        if wanted(&value) {
            with(&mut value);
            array.set(index, value, 0).expect("written");
            changed += 1;
        }
    }
    changed
}

fn is_used<const N: usize>(value: &[u8; N]) -> bool {
    value.iter().any(|&byte| byte != 0)
}

/// A change of the maps by another process: its name, and a function that returns the number of
/// changed values.
type Corruption = (&'static str, fn(&Live) -> usize);

const CORRUPTIONS: [Corruption; 7] = [
    ("weights", |live| {
        // The weight is the third of four words.
        const N: usize = size_of::<BackendMeta>();
        overwrite::<N>(live, "BACKEND_META", is_used, |meta| meta[8] = meta[8].wrapping_add(50))
    }),
    ("service words", |live| {
        const N: usize = size_of::<Service>();
        overwrite::<N>(live, "SERVICES", is_used, |service| service[..8].fill(0))
    }),
    ("service keys", |live| {
        const N: usize = size_of::<ServiceKey>();
        let pin = live.instance().pins().join("maps/SERVICE_KEYS");
        let data = MapData::from_pin(pin).expect("a map");
        let mut keys: HashMap<MapData, [u8; N], u32> =
            HashMap::try_from(Map::HashMap(data)).expect("a hash map");
        let all: Vec<_> = keys.keys().filter_map(Result::ok).collect();
        for key in &all {
            keys.remove(key).expect("removed");
        }
        all.len()
    }),
    ("backends", |live| {
        const N: usize = size_of::<Backend>();
        // The whole value, including word and next hop.
        overwrite::<N>(live, "BACKENDS", is_used, |backend| backend.fill(0))
    }),
    ("VIP filter", |live| overwrite::<8>(live, "VIP_FILTER", is_used, |word| word.fill(0))),
    ("interfaces", |live| {
        const N: usize = size_of::<Interface>();
        overwrite::<N>(live, "INTERFACES", is_used, |interface| interface.fill(0))
    }),
    ("rings", |live| {
        const N: usize = size_of::<RingChunk>();
        overwrite::<N>(live, "RINGS", is_used, |chunk| chunk.fill(0))
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn maps_changed_by_another_process_are_repaired_and_logged() {
    let live = Live::new("meddling").await;
    let daemon = started(&live);
    daemon.wait_for("ready", REPAIRED);
    let mut left = Vec::new();
    for (what, corrupt) in CORRUPTIONS {
        daemon.clear_log();
        assert!(corrupt(&live) > 0, "{what}: nothing to change");
        let began = Instant::now();
        let all_is_well = || {
            // A service missing in the maps is neither listed nor reachable.
            (0..20).all(|_| live.get(VIPS[0]).is_ok())
                && live.get(VIPS[1]).is_ok()
                && live.json("backends web")[2]["weight"] == 3
        };
        while !all_is_well() && began.elapsed() < REPAIRED {
            thread::sleep(Duration::from_millis(200));
        }
        let logged = || daemon.log().contains("repaired");
        while !logged() && began.elapsed() < REPAIRED {
            thread::sleep(Duration::from_millis(100));
        }
        println!("{what}: after {:?}", began.elapsed());
        if !all_is_well() || !logged() {
            left.push(format!("{what}: works {}, logged {}", all_is_well(), logged()));
            // Restores the maps for the following cases.
            live.write(&format!("{}# {what}\n", with_weight(4)));
            daemon.signal(Signal::SIGHUP);
            daemon.wait_for("-> 4", TIMEOUT);
            live.write(&with_weight(3));
            daemon.wait_for("-> 3", TIMEOUT);
        }
    }
    assert_eq!(left, [] as [String; 0]);
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
    daemon.end(Signal::SIGTERM);
}

/// A full file system.
struct Full(PathBuf);

impl Full {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).expect("made");
        let options = Some("size=16k,mode=755");
        mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), options).expect("root may mount");
        let full = Self(at.to_path_buf());
        full.fill();
        full
    }

    /// Writes until the file system is full.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).expect("made");
        while file.write_all(&[b'x'; 512]).is_ok() {}
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_does_not_stop_the_daemon() {
    let live = Live::new("full").await;
    let full = Full::mount(&live.directory().join("state"));
    let daemon = started(&live);
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    // A change of the file is applied anyway; the failure to record it for rollback is logged.
    daemon.wait_for("No space left", TIMEOUT);
    live.write(&with_weight(30));
    daemon.wait_for("-> 30", SOON);
    // A drain that would be lost on restart is not applied partially.
    let drain = live.director("drain web 10.0.0.11");
    assert!(drain.stderr.contains("No space left"), "{drain:?}");
    let share = live.json("backends web");
    println!("{:?} {}: {}", drain.code, drain.stderr, share[0]);
    fs::remove_file(full.0.join("filler")).expect("removed");
    live.director("drain web 10.0.0.11").succeeded();
    live.director("undrain web 10.0.0.11").succeeded();
    assert_eq!(live.spread(VIPS[0], 400).len(), 3);
    full.fill();
    daemon.end(Signal::SIGTERM);
    let daemon = started(&live);
    assert_eq!(live.spread(VIPS[0], 400).len(), 3);
    daemon.end(Signal::SIGTERM);
    drop(full);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_applies_one_wins_and_the_others_are_refused() {
    let live = Live::new("at-once").await;
    let daemon = started(&live);
    let texts: Vec<String> = (0..6).map(|n| with_weight(100 + n)).collect();
    for (n, text) in texts.iter().enumerate() {
        fs::write(live.directory().join(format!("new{n}.yaml")), text).expect("written");
    }
    let outcomes: Vec<_> = thread::scope(|scope| {
        let live = &live;
        let apply = |n| {
            scope.spawn(move || live.director(&format!("apply -f new{n}.yaml --if-revision 1")))
        };
        let running: Vec<_> = (0..texts.len()).map(apply).collect();
        running.into_iter().map(|thread| thread.join().expect("ran")).collect()
    });
    let winners: Vec<usize> = (0..texts.len()).filter(|&n| outcomes[n].code == Some(0)).collect();
    let [winner] = winners.as_slice() else { panic!("{outcomes:#?}") };
    for (n, outcome) in outcomes.iter().enumerate() {
        if n != *winner {
            let refused = outcome.stderr.contains("came into effect meanwhile")
                || outcome.stderr.contains("another configuration is being applied");
            assert!(outcome.code == Some(1) && refused, "{outcome:?}");
        }
    }
    assert_eq!(fs::read_to_string(live.file()).expect("there"), texts[*winner]);
    assert_eq!(live.json("backends web")[2]["weight"], 100 + winner);
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_or_silent_clients_do_not_block_others_for_long() {
    let live = Live::new("slow").await;
    let daemon = started(&live);
    let connect =
        || UnixStream::connect(live.instance().run_dir().join("director.sock")).expect("listens");
    let silent: Vec<_> = (0..300).map(|_| connect()).collect();
    let began = Instant::now();
    assert_eq!(live.json("plan -f director.yaml")["changes"], false);
    println!("past 300 silent clients: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(17), "{:?}", began.elapsed());
    drop(silent);
    // Requests with a Content-Length beyond what is sent.
    let half: Vec<_> = (0..150)
        .map(|_| {
            let mut stream = connect();
            let head = "POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Type: application/yaml\r\n\
                        Content-Length: 1000000\r\n\r\nservices:";
            stream.write_all(head.as_bytes()).expect("sent");
            stream
        })
        .collect();
    let began = Instant::now();
    let planned = live.director("plan -f director.yaml");
    println!("past 150 incomplete requests: {:?}", began.elapsed());
    assert_eq!(planned.code, Some(0), "{planned:?}");
    drop(half);
    // The daemon's main loop was never blocked.
    live.write(&with_weight(30));
    daemon.wait_for("-> 30", SOON);
    daemon.end(Signal::SIGTERM);
}

/// A server that sends the same bytes endlessly on every connection.
struct Garbage {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Garbage {
    fn start(live: &Live, node: &str, at: &str, begin: &'static [u8], then: &'static [u8]) -> Self {
        let listener = live.node(node).run(|| TcpListener::bind(at)).expect("enters");
        let listener = listener.expect("listens");
        listener.set_nonblocking(true).expect("set");
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let serve = move |mut stream: TcpStream, end: &AtomicBool| {
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
            let _ = stream.write_all(begin);
            while !end.load(Ordering::Relaxed) && stream.write_all(then).is_ok() {}
        };
        let thread = thread::spawn(move || {
            let mut workers = Vec::new();
            while !end.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    let end = end.clone();
                    workers.push(thread::spawn(move || serve(stream, &end)));
                } else {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            for worker in workers {
                let _ = worker.join();
            }
        });
        Self { ended, thread: Some(thread) }
    }
}

impl Drop for Garbage {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_garbage_is_down_and_delays_no_other() {
    let mut live = Live::with("garbage", DEFAULT_CONFIG).await;
    let _random = Garbage::start(&live, "b1", "10.0.0.11:8000", b"", &[0x97; 4096]);
    let head = b"HTTP/1.1 200 OK\r\n";
    let _header = Garbage::start(&live, "b2", "10.0.0.12:8000", head, b"X-More: and more\r\n");
    live.serve(&["b3"]);
    let body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let _body = Garbage::start(&live, "b3", "10.0.0.13:8000", body, b"4\r\nmore\r\n");
    let health = "health: {type: http, path: /, port: 8000, body: never, interval: 400ms, timeout: \
                  300ms, rise: 2, fall: 2, jitter: 0%}";
    let tcp =
        "health: {type: tcp, interval: 400ms, timeout: 300ms, rise: 2, fall: 2}, panic: never";
    let end = DEFAULT_CONFIG.find("  - name: web-v6").expect("there");
    let web =
        DEFAULT_CONFIG[..end].replace("services:", &format!("defaults: {{{tcp}}}\nservices:"));
    // The same backends, with checks that receive garbage.
    let yaml = format!(
        "{web}  - {{name: odd, address: 192.0.2.77, protocol: tcp, port: 80, forward: tunnel, {health}, \
         backends: [{{address: 10.0.0.11}}, {{address: 10.0.0.12}}, {{address: 10.0.0.13}}]}}\n"
    );
    live.write(&yaml);
    let daemon = started(&live);
    let down = |live: &Live, service: &str| {
        let services = live.json("services");
        let service = services.as_array().expect("a list").iter().find(|s| s["name"] == service);
        let backends = service.expect("there")["backends"].as_array().expect("a list");
        backends.iter().filter(|backend| backend["state"] == "down").count()
    };
    wait_until("all three are down", REPAIRED, || down(&live, "odd") == 3);
    let before = daemon.resident();
    thread::sleep(Duration::from_secs(5));
    let after = daemon.resident();
    println!("{before} KiB, 5 s later {after} KiB");
    assert!(after < before + 8192, "{before} KiB, then {after} KiB");
    assert_eq!(down(&live, "odd"), 3);
    // Meanwhile a working backend is up, and a failing one is detected in time.
    assert_eq!(live.get(VIPS[0]).expect("answers"), "b3");
    live.end_server("b3");
    wait_until("b3 is down too", Duration::from_secs(3), || down(&live, "web") == 3);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_reach_a_hook_while_a_webhook_hangs() {
    let mut live = Live::new("alarms").await;
    // The directory is world-writable: hooks run as nobody.
    let spool = live.directory().join("spool");
    fs::create_dir(&spool).expect("made");
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o777)).expect("set");
    let hook = spool.join("hook");
    let text = format!(
        "#!/bin/sh\necho \"$(id -un) $DIRECTOR_KIND $DIRECTOR_BACKEND $DIRECTOR_FROM $DIRECTOR_TO\" \
         >>{}/received\n",
        spool.display()
    );
    fs::write(&hook, text).expect("written");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("set");
    // It accepts connections and never answers.
    let hung = live.node("director").run(|| TcpListener::bind("127.0.0.1:9009"));
    let hung = hung.expect("enters").expect("listens");
    let alarms = format!(
        "alarms: {{exec: {}, webhook: \"http://127.0.0.1:9009/\"}}\ndefaults: {{health: {{type: tcp, \
         interval: 400ms, timeout: 300ms, rise: 2, fall: 2}}}}\nservices:",
        hook.display()
    );
    live.write(&DEFAULT_CONFIG.replace("services:", &alarms));
    let daemon = started(&live);
    daemon.wait_for("ready", REPAIRED);
    live.end_server("b3");
    let received = || fs::read_to_string(spool.join("received")).unwrap_or_default();
    wait_until("the hook has run", REPAIRED, || {
        received().contains("nobody backend 10.0.0.13 up down")
    });
    daemon.wait_for("backend 10.0.0.13 of web: up -> down", TIMEOUT);
    daemon.wait_for("webhook http://127.0.0.1:9009 failed", Duration::from_secs(20));
    live.serve(&["b3"]);
    wait_until("and again", REPAIRED, || received().contains("nobody backend 10.0.0.13 down up"));
    let began = Instant::now();
    assert!(daemon.end(Signal::SIGTERM).success());
    assert!(began.elapsed() < TIMEOUT, "shutdown waits for no webhook: {:?}", began.elapsed());
    drop(hung);
}

/// Only output for people uses the wall clock; all else uses CLOCK_MONOTONIC, so a clock that jumps
/// changes no probe, drain, deadline or back-off.
#[test]
fn the_wall_clock_decides_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project");
    let mut found = Vec::new();
    let mut queue = vec![root.join("director-userspace/src")];
    while let Some(directory) = queue.pop() {
        for entry in fs::read_dir(directory).expect("listed").flatten() {
            let path = entry.path();
            if path.is_dir() {
                queue.push(path);
                continue;
            }
            let mut text = String::new();
            fs::File::open(&path).and_then(|mut f| f.read_to_string(&mut text)).expect("read");
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let waits = ["sleep", "timeout(", "interval(", "deadline", "Instant"];
                let is_used = line.contains("SystemTime") || line.contains("CLOCK_REALTIME");
                if is_used && waits.iter().any(|word| line.contains(word)) {
                    found.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    // Imports that name both.
    found.retain(|line| !line.contains("use ") && !line.contains("time::{"));
    assert_eq!(found, [] as [String; 0]);
}
