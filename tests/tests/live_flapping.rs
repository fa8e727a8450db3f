//! Thousands of backends that go down and up continuously: the daemon answers requests, files are
//! reloaded, and packets are forwarded.

use std::{
    fmt::Write as _,
    net::TcpListener,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use director_tests::live::{Daemon, Live, Load, VIPS, address, finish, wait_until};
use director_userspace::{kernel::datapath::Datapath, setup::lab::DEFAULT_CONFIG};
use nix::sys::{
    signal::Signal,
    socket::{Backlog, listen},
};

const SERVICES: u32 = 20;
const BACKENDS: u32 = 100;
/// How long the server is up, and how long it is down.
const PHASE: Duration = Duration::from_millis(1700);
/// Total duration.
const WHOLE: Duration = Duration::from_secs(15);
/// How long an answer may take, with an unoptimised program on a busy host.
const ANSWER: Duration = Duration::from_secs(5);
/// With an older heartbeat, packets would be looked up in the kernel: `HEARTBEAT_STALE_NS`.
const HEARTBEAT: Duration = Duration::from_millis(1500);

fn config(weight: u32) -> String {
    let mut yaml = DEFAULT_CONFIG.replace("weight: 3", &format!("weight: {weight}"));
    for service in 0..SERVICES {
        let _ = write!(
            yaml,
            "\n  - name: flaps{service}\n    address: 203.0.113.{}\n    protocol: tcp\n    port: 80\n    \
             forward: tunnel\n    panic: never\n    health: {{type: tcp, port: 8000, interval: 500ms, \
             timeout: 400ms, rise: 1, fall: 1}}\n    backends:\n",
            service + 1
        );
        for backend in 0..BACKENDS {
            let _ = writeln!(yaml, "      - {{address: 10.9.{service}.{}}}", backend + 1);
        }
    }
    yaml
}

fn ip(live: &Live, node: &str, arguments: &str) {
    let mut ip = Command::new("ip");
    ip.args(arguments.split(' '));
    live.node(node).place(&mut ip).expect("placed");
    finish(ip).succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_flapping_backends_do_not_delay_the_daemon() {
    let live = Live::new("flapping").await;
    // All backends are one host, which goes up and down.
    ip(&live, "b1", "route add local 10.9.0.0/16 dev lo");
    ip(&live, "director", "route add 10.9.0.0/16 via 10.0.0.11");
    live.write(&config(3));
    let daemon = live.spawn_run();
    daemon.wait_for("ready", Duration::from_secs(60));
    let (ends, phases) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let ends = Ends(&ends);
        scope.spawn(|| flap(&live, ends.0, &phases));
        query_and_change(&live, &daemon, &phases);
    });
    daemon.end(Signal::SIGTERM);
    live.detach();
}

/// Ends the flapping when dropped, also if the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Alternately starts and stops the server.
fn flap(live: &Live, ends: &AtomicBool, phases: &AtomicU32) {
    while !ends.load(Ordering::Relaxed) {
        let listener = live.node("b1").run(|| TcpListener::bind("0.0.0.0:8000"));
        let listener = listener.expect("enters").expect("a free port");
        listen(&listener, Backlog::new(4096).expect("a number")).expect("listens");
        listener.set_nonblocking(true).expect("set");
        let until = Instant::now() + PHASE;
        while Instant::now() < until {
            while listener.accept().is_ok() {}
            thread::sleep(Duration::from_millis(5));
        }
        drop(listener);
        thread::sleep(PHASE);
        phases.fetch_add(2, Ordering::Relaxed);
    }
}

fn query_and_change(live: &Live, daemon: &Daemon, phases: &AtomicU32) {
    let up = || {
        let services = live.json("services");
        let services = services.as_array().expect("a list").clone();
        let flaps = services.iter().filter(|s| s["name"].as_str().unwrap_or("").contains("flaps"));
        let backends = flaps.flat_map(|s| s["backends"].as_array().expect("a list").clone());
        backends.filter(|b| b["state"] != "down").count() as u32
    };
    wait_until("they are up", Duration::from_secs(10), || up() == SERVICES * BACKENDS);
    wait_until("they are down", Duration::from_secs(10), || up() == 0);

    let load = Load::start(live.node("client1"), address(VIPS[0]));
    let datapath = Datapath::open(live.instance()).expect("attached");
    let memory = daemon.resident();
    let (mut rounds, mut slowest, mut oldest) = (0, Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    while began.elapsed() < WHOLE {
        rounds += 1;
        let weight = 3 + rounds;
        let mut took = |what: &str, run: &dyn Fn()| {
            let began = Instant::now();
            run();
            slowest = slowest.max(began.elapsed());
            assert!(began.elapsed() < ANSWER, "{what} took {:?}", began.elapsed());
        };
        took("status", &|| drop(live.director("status").succeeded()));
        took("weight", &|| {
            live.director(&format!("weight web 10.0.0.11 {weight}")).succeeded();
        });
        daemon.clear_log();
        live.replace(&config(weight));
        took("the file", &|| _ = daemon.wait_for("configuration applied", ANSWER));
        for _ in 0..20 {
            let age = Duration::from_nanos(datapath.heartbeat_age_ns().expect("written"));
            oldest = oldest.max(age);
            thread::sleep(Duration::from_millis(20));
        }
    }
    let totals = load.stop();
    let phases = phases.load(Ordering::Relaxed);
    println!(
        "{phases} changes of {} backends: {rounds} rounds, the slowest answer {slowest:?}, the oldest \
         heartbeat {oldest:?}, {} requests",
        SERVICES * BACKENDS,
        totals.answered()
    );
    assert!(phases >= 6 && rounds >= 3);
    assert_eq!(totals.errors, Vec::<String>::new());
    assert!(oldest < HEARTBEAT, "{oldest:?}");
    let grown = daemon.resident().saturating_sub(memory);
    assert!(grown < 64 << 10, "{grown} KiB more");
}
