//! Errors of a part stay with the part: an interface that cannot be attached to or comes late, a
//! refused change, pins and links that another process took, each while the rest goes on.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixDatagram, UnixStream},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use director_tests::live::{
    Daemon, Finished, Host, Live, TIMEOUT, VIPS, binary, finish, pass_everything, wait_until,
};
use director_userspace::{
    kernel::datapath::{self, Datapath, Instance},
    serve::api::socket_of,
    setup::lab::DEFAULT_CONFIG,
};
use nix::sys::signal::Signal;

/// A change of the host or the maps is followed within this time, on a busy host.
const FOLLOWED: Duration = Duration::from_secs(10);
/// What another process changed is repaired within this time.
const REPAIRED: Duration = Duration::from_secs(10);
/// The heartbeat's age is never above this.
const HEART: Duration = Duration::from_millis(500);
/// A pause of the whole process, because others run, is not the daemon's doing.
const SCHEDULED: Duration = Duration::from_millis(250);

fn with_eth1() -> String {
    DEFAULT_CONFIG.replace("  - name: eth0", "  - name: eth0\n  - name: eth1")
}

fn ip(live: &Live, arguments: &str) -> Finished {
    let mut ip = Command::new("ip");
    ip.args(arguments.split(' '));
    live.node("director").place(&mut ip).expect("placed");
    finish(ip).succeeded()
}

/// CPU time that a process has used.
fn cpu(daemon: &Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// The oldest that the heartbeat became while `run` ran.
fn heart_during<T>(instance: &Instance, run: impl FnOnce() -> T) -> (T, Duration) {
    let datapath = Datapath::open(instance).expect("attached");
    let (ends, oldest) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                // Without one: very old.
                let age = datapath.heartbeat_age_ns().map_or(Duration::MAX, Duration::from_nanos);
                let mut oldest = oldest.lock().expect("not poisoned");
                *oldest = age.max(*oldest);
                drop(oldest);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        ends.store(true, Ordering::Relaxed);
        match result {
            Ok(result) => (result, *oldest.lock().expect("not poisoned")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Changes a backend's MAC address and announces it.
async fn move_backends(live: &Live, byte: u8) {
    for node in ["b1", "b2", "b3"] {
        let netlink = live.netlink(node);
        let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
        let mut mac = eth0.mac;
        mac[1] = byte;
        netlink.set_mac(eth0.index, mac).await.expect("another MAC");
        for &own in live.node(node).addresses() {
            netlink.announce(eth0.index, own).await.expect("announced");
        }
    }
}

fn answers(live: &Live) -> bool {
    VIPS.iter().all(|vip| (0..6).all(|_| live.get(vip).is_ok()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_with_a_foreign_program_is_a_warning_and_tried_again() {
    let live = Live::new("foreign1").await;
    let far = Host::new("foreign1");
    live.second_network(&far.netns).await;
    live.write(&with_eth1());
    let daemon = live.run();
    let netlink = live.netlink("director");
    let eth1 = netlink.link_by_name("eth1").await.expect("eth1").index;
    netlink.delete_link(eth1).await.expect("removed");
    daemon.wait_for("interface eth1 does not exist", FOLLOWED);
    // Made anew, and another program is on it before the daemon's.
    daemon.signal(Signal::SIGSTOP);
    live.second_network(&far.netns).await;
    pass_everything(&netlink, "eth1").await;
    let foreign = netlink.link_by_name("eth1").await.expect("eth1").xdp.expect("a program");
    daemon.signal(Signal::SIGCONT);
    daemon.wait_for("eth1 already carries the XDP program pass", FOLLOWED);
    let before = cpu(&daemon);
    let (took, oldest) = heart_during(live.instance(), || {
        thread::sleep(Duration::from_secs(5));
        cpu(&daemon) - before
    });
    assert!(took < Duration::from_secs(2), "{took:?} of CPU time in 5 s");
    assert!(oldest < HEART + SCHEDULED, "the heartbeat stopped for {oldest:?}");
    let log = daemon.log();
    assert_eq!(log.matches("already carries").count(), 1, "said once: {log}");
    live.director("status").succeeded().prints(&["eth1 already carries the XDP program"]);
    // The others are followed.
    move_backends(&live, 0xc1).await;
    wait_until("the other interface is followed", FOLLOWED, || answers(&live));
    assert_eq!(netlink.link_by_name("eth1").await.expect("eth1").xdp, Some(foreign));
    // And changes come into effect, which the other program does not prevent.
    live.write(&with_eth1().replace("weight: 3", "weight: 30"));
    daemon.wait_for("weight 3 -> 30", FOLLOWED);
    // Once the program is gone, Director's takes its place.
    ip(&live, "link set dev eth1 xdp off");
    daemon.wait_for("attached to eth1 at last", Duration::from_secs(40));
    assert_eq!(live.bpf().await.links.len(), 2);
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
}

async fn eth1_index(live: &Live) -> u32 {
    live.netlink("director").link_by_name("eth1").await.expect("eth1").index
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_is_late_is_waited_for() {
    let live = Live::new("late").await;
    let far = Host::new("late");
    live.write(&with_eth1());
    live.director("attach -c director.yaml").refused(1).reports(&["eth1 does not exist"]);
    let daemon = live.spawn_run();
    daemon.wait_for("interface eth1 does not exist on this host", TIMEOUT);
    daemon.wait_for("ready", TIMEOUT);
    wait_until("the other interface is served", FOLLOWED, || answers(&live));
    live.director("status").succeeded().prints(&["interface eth1 does not exist"]);
    live.second_network(&far.netns).await;
    wait_until("attached", FOLLOWED, || {
        live.director("status").stdout.contains("eth0 (native, up), eth1 (native, up)")
    });
    daemon.end(Signal::SIGTERM);
    // None at all is there: the daemon waits, and comes up with the first.
    live.detach();
    let netlink = live.netlink("director");
    netlink.delete_link(eth1_index(&live).await).await.expect("removed");
    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: eth1"));
    let daemon = live.spawn_run();
    daemon.wait_for("ready", TIMEOUT);
    live.second_network(&far.netns).await;
    wait_until("attached", FOLLOWED, || {
        live.director("status").stdout.contains("attached   eth1 (native, up)")
    });
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
}

/// What was in effect before a refused change stays, and is followed and repaired.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_refused_change_everything_goes_on() {
    let live = Live::new("refused2").await;
    let far = Host::new("refused2");
    live.second_network(&far.netns).await;
    let netlink = live.netlink("director");
    pass_everything(&netlink, "eth1").await;
    let daemon = live.run();
    let own = live.node("director").ipv4().expect("has one").to_string();
    let refused = [
        // A program is in the way, and the change would have tracked clients and a hash key.
        (format!("flows: {{clients: true}}\n{}", with_eth1()), "already carries"),
        (format!("hash_key: 000102030405060708090a0b0c0d0e0f\n{}", with_eth1()), "already carries"),
        (DEFAULT_CONFIG.replace("name: eth0", "name: eth7"), "eth7 does not exist"),
        (DEFAULT_CONFIG.replace("10.0.0.13", &own), "is an address of this host"),
        ("services: 7".to_owned(), "line 1"),
    ];
    let maps = || live.instance().pins().join("maps");
    let flow_keys = fs::metadata(maps().join("FLOW_KEYS")).expect("pinned").len();
    for (round, (yaml, why)) in (0u8..).zip(refused) {
        let other = live.directory().join("refused.yaml");
        fs::write(&other, &yaml).expect("written");
        let code = if why == "line 1" { 2 } else { 1 };
        let applied = live.director("apply -f refused.yaml");
        assert_eq!(applied.code, Some(code), "{applied:?}");
        assert!(applied.stderr.contains(why) || why == "line 1", "{applied:?}");
        // The host is followed.
        move_backends(&live, 0xd0 + round).await;
        wait_until("the neighbours are followed", FOLLOWED, || answers(&live));
        // The maps are repaired.
        daemon.clear_log();
        fs::remove_file(maps().join("SERVICES")).expect("removed");
        daemon.wait_for("repaired", REPAIRED);
        // Operators and health act.
        let weight = 50 + round;
        live.director(&format!("weight web 10.0.0.12 {weight}"))
            .succeeded()
            .prints(&[&format!("has weight {weight}")]);
        // Nothing of the refused configuration stays.
        assert_eq!(live.json("conns")["clients"], false, "{why}");
        assert_eq!(fs::metadata(maps().join("FLOW_KEYS")).expect("pinned").len(), flow_keys);
        assert_eq!(live.bpf().await.links.len(), 1);
    }
    // The part of the first that was not refused comes into effect by itself.
    live.write(&format!("flows: {{clients: true}}\n{DEFAULT_CONFIG}"));
    daemon.wait_for("configuration applied", FOLLOWED);
    let mut open = live.connect(VIPS[0]);
    open.request().expect("answers");
    let conns = live.json("conns");
    assert_eq!(conns["clients"], true);
    let listed = conns["connections"].as_array().expect("a list");
    assert!(listed.iter().any(|conn| !conn["client"].is_null()), "{conns:#}");
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_interfaces_that_are_gone_are_made_anew() {
    let live = Live::new("severed").await;
    let far = Host::new("severed");
    live.second_network(&far.netns).await;
    live.write(&with_eth1());
    live.attach();
    // The same name and index, as in a container that is made anew.
    let netlink = live.netlink("director");
    let index = eth1_index(&live).await;
    netlink.delete_link(index).await.expect("removed");
    ip(&live, &format!("link add name eth1 index {index} type veth peer name plug"));
    ip(&live, "link set eth1 up");
    ip(&live, "link set plug up");
    assert_eq!(eth1_index(&live).await, index, "the premise");
    live.attach().prints(&["attached to eth0, eth1"]);
    let program = netlink.link_by_name("eth1").await.expect("eth1").xdp;
    assert!(program.is_some(), "a program is on the new eth1");
    assert_eq!(live.bpf().await.links.len(), 2);
    // The same under a daemon.
    let daemon = live.run();
    netlink.delete_link(index).await.expect("removed");
    ip(&live, &format!("link add name eth1 index {index} type veth peer name plug"));
    ip(&live, "link set eth1 up");
    let has_program = || ip(&live, "link show eth1").stdout.contains("xdp");
    wait_until("attached to the new one", FOLLOWED, has_program);
    // And a program that another process takes off is attached again.
    ip(&live, "link set eth1 down");
    ip(&live, "link set eth1 up");
    wait_until("still attached", FOLLOWED, has_program);
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_interfaces_in_the_file_does_not_matter() {
    let live = Live::new("order").await;
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    netlink.create_macvlan("mac0", eth0).await.expect("a macvlan");
    let above_first = "  - name: mac0\n    mode: generic\n  - name: eth0\n";
    live.write(&DEFAULT_CONFIG.replace("  - name: eth0\n", above_first));
    live.attach().prints(&["attached to mac0, eth0"]);
    live.detach();
    live.write(DEFAULT_CONFIG);
    let daemon = live.run();
    live.write(&DEFAULT_CONFIG.replace("  - name: eth0\n", above_first));
    daemon.wait_for("configuration applied", FOLLOWED);
    wait_until("both", FOLLOWED, || answers(&live));
    assert_eq!(live.bpf().await.links.len(), 2);
    // eth0 loses its link, and gets it back although mac0 is above it.
    let netlink_index = netlink.link_by_name("eth0").await.expect("eth0").index;
    assert_eq!(netlink_index, eth0);
    let pin = format!("eth0:{eth0}:native");
    fs::remove_file(live.instance().pins().join("links").join(&pin)).expect("removed");
    daemon.wait_for("repaired", REPAIRED);
    daemon.end(Signal::SIGTERM);
    // Without the pin and without a daemon that holds it, the program is gone, and mac0's is there.
    fs::remove_file(live.instance().pins().join("links").join(&pin)).expect("removed");
    wait_until("gone", TIMEOUT, || !ip(&live, "link show eth0").stdout.contains(" xdp "));
    live.attach().prints(&["attached to mac0, eth0"]);
    assert_eq!(live.bpf().await.links.len(), 2);
    wait_until("forwards", FOLLOWED, || answers(&live));
    live.detach();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_resumes_and_follows_what_it_missed() {
    let live = Live::new("stopped").await;
    let daemon = live.run();
    assert!(answers(&live));
    daemon.signal(Signal::SIGSTOP);
    move_backends(&live, 0xe1).await;
    thread::sleep(Duration::from_secs(10));
    daemon.signal(Signal::SIGCONT);
    wait_until("followed", FOLLOWED, || answers(&live));
    let (_, oldest) = heart_during(live.instance(), || thread::sleep(Duration::from_secs(2)));
    assert!(oldest < HEART + SCHEDULED, "{oldest:?}");
    daemon.end(Signal::SIGTERM);
}

/// Services that share the backends of the lab, many more than one step brings right.
fn many_services(services: u32, health: &str) -> String {
    let mut yaml = DEFAULT_CONFIG.to_owned();
    for n in 0..services {
        let (high, low) = (n / 250, n % 250 + 1);
        let _ = write!(
            yaml,
            "\n  - {{name: s{n}, address: 198.18.{high}.{low}, protocol: tcp, port: 80, forward: \
             tunnel, scheduler: maglev, {health} backends: [{{address: 10.0.0.11}}, {{address: \
             10.0.0.12}}, {{address: 10.0.0.13}}]}}"
        );
    }
    yaml
}

/// A backend that 6,000 services share goes down: the heartbeat goes on, the API answers, other changes
/// come into effect meanwhile, and then all services have left it.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_services_that_change_at_once_silence_nothing() {
    const SERVICES: u32 = 6000;
    let mut live = Live::new("many").await;
    let health = "health: {type: tcp, port: 80, interval: 1s, timeout: 500ms, fall: 2, rise: 1},";
    live.write(&many_services(SERVICES, health));
    let at = live.directory().join("notify");
    let supervisor = UnixDatagram::bind(&at).expect("a socket");
    let daemon = live.spawn_run_notifying(&at);
    let watch = thread::spawn(move || longest_silence(&supervisor));
    daemon.wait_for("ready", Duration::from_secs(240));
    let began = Instant::now();
    let instance = live.instance().clone();
    let ((slowest, took), oldest) = heart_during(&instance, || {
        live.end_server("b1");
        let mut slowest = Duration::ZERO;
        let left = |live: &Live| {
            let datapath = Datapath::open(live.instance()).expect("attached");
            let observed = datapath::observe(&datapath.tables);
            let b1: std::net::IpAddr = "10.0.0.11".parse().expect("an address");
            observed
                .backends
                .values()
                .filter(|backend| backend.address == b1 && backend.weight > 0)
                .count()
        };
        while left(&live) > 1 {
            let asked = Instant::now();
            let answer = ask(&live, "/v1/history");
            slowest = slowest.max(asked.elapsed());
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(began.elapsed() < Duration::from_secs(120), "{} left", left(&live));
            thread::sleep(Duration::from_millis(200));
        }
        (slowest, began.elapsed())
    });
    println!("all in {took:?}, the slowest answer after {slowest:?}, heart {oldest:?}");
    // Other changes come into effect meanwhile, and afterwards.
    live.director("weight web 10.0.0.12 7").succeeded();
    assert!(oldest < HEART + SCHEDULED, "the heartbeat stopped for {oldest:?}");
    assert!(slowest < Duration::from_secs(1) + SCHEDULED, "an answer took {slowest:?}");
    daemon.end(Signal::SIGTERM);
    let silence = watch.join().expect("watched");
    assert!(silence < HEART + SCHEDULED, "the watchdog heard nothing for {silence:?}");
}

/// The longest time between two notifications of the watchdog, until the daemon stops.
fn longest_silence(supervisor: &UnixDatagram) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, None);
    let mut text = [0; 4096];
    loop {
        let length = supervisor.recv(&mut text).expect("received");
        let text = String::from_utf8_lossy(&text[..length]);
        if text.contains("WATCHDOG=1") {
            let now = Instant::now();
            longest = longest.max(last.map_or(Duration::ZERO, |last| now - last));
            last = Some(now);
        }
        if text.contains("STOPPING=1") {
            return longest;
        }
    }
}

/// Asks the API by its socket.
fn ask(live: &Live, path: &str) -> String {
    let mut stream = UnixStream::connect(socket_of(live.instance())).expect("listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: director\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// The BPF file system goes away under a daemon, in a mount namespace of its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_unmounted_bpf_file_system_is_mounted_again() {
    let live = Live::new("unmounted").await;
    let daemon = live.spawn_run_in_own_mounts();
    daemon.wait_for("ready", TIMEOUT);
    let target = daemon.pid().to_string();
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &target]).args(arguments);
        command.current_dir(live.directory());
        live.node("director").place(&mut command).expect("placed");
        finish(command)
    };
    inside(&["umount", "-l", "/sys/fs/bpf"]).succeeded();
    daemon.wait_for("repaired", REPAIRED);
    let binary = binary();
    let binary = binary.to_str().expect("text");
    let status = [binary, "status", "--instance", live.instance().name()];
    inside(&status).succeeded().prints(&["attached   eth0 (native, up)"]);
    assert!(answers(&live));
    // What is pinned there is what runs: the next process takes it over.
    let detach = [binary, "detach", "--instance", live.instance().name()];
    inside(&detach).succeeded().prints(&["detached from eth0"]);
    assert!(!ip(&live, "link show eth0").stdout.contains(" xdp "));
    daemon.end(Signal::SIGTERM);
}

/// One of fifteen interfaces is made anew again and again: the others keep their programs.
#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_flaps_affects_itself_only() {
    let live = Live::new("flaps15").await;
    let names: Vec<String> = (1..14).map(|n| format!("e{n}")).collect();
    for name in &names {
        ip(&live, &format!("link add name {name} type veth peer name p{name}"));
        ip(&live, &format!("link set {name} up"));
    }
    let listed: String = names.iter().map(|name| format!("\n  - name: {name}")).collect();
    live.write(&DEFAULT_CONFIG.replace("  - name: eth0", &format!("  - name: eth0{listed}")));
    let daemon = live.spawn_run();
    daemon.wait_for("ready", Duration::from_secs(60));
    let before = live.bpf().await.links;
    assert_eq!(before.len(), 14);
    let instance = live.instance().clone();
    let (slowest, oldest) = heart_during(&instance, || {
        let mut slowest = Duration::ZERO;
        for _ in 0..8 {
            ip(&live, "link del e7");
            ip(&live, "link add name e7 type veth peer name pe7");
            ip(&live, "link set e7 up");
            let asked = Instant::now();
            assert!(ask(&live, "/v1/history").starts_with("HTTP/1.1 200"));
            slowest = slowest.max(asked.elapsed());
            thread::sleep(Duration::from_millis(300));
        }
        slowest
    });
    println!("the slowest answer after {slowest:?}, heartbeat {oldest:?}");
    assert!(oldest < HEART + SCHEDULED, "the heartbeat stopped for {oldest:?}");
    assert!(slowest < Duration::from_secs(1) + SCHEDULED, "an answer took {slowest:?}");
    wait_until("attached again", FOLLOWED, || ip(&live, "link show e7").stdout.contains(" xdp "));
    let after = live.bpf().await.links;
    assert_eq!(after.len(), 14);
    let kept = before.iter().filter(|link| after.contains(link)).count();
    assert_eq!(kept, 13, "the other links stay: {before:?}, {after:?}");
    assert!(answers(&live));
    daemon.end(Signal::SIGTERM);
    live.detach();
}
