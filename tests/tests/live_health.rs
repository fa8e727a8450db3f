//! Health under traffic: backends that fail and recover, drains, admin weights, agents, and what a
//! restart restores.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use director_tests::live::{Live, Load, TIMEOUT, VIPS, address, finish, wait_until};
use director_userspace::setup::lab::DEFAULT_CONFIG;
use nix::sys::signal::Signal;
use serde_json::Value;

const INTERVAL: Duration = Duration::from_millis(400);
const CHECK_TIMEOUT: Duration = Duration::from_millis(300);
/// Time from the detection of a change to its application, on a busy machine.
const APPLY_TIME: Duration = Duration::from_millis(300);

/// The built-in configuration with these defaults for its services.
fn with(defaults: &str) -> String {
    DEFAULT_CONFIG.replace("services:", &format!("defaults: {{{defaults}}}\nservices:"))
}

/// Checked every 400 ms, down after two failures, up after two successes.
fn checked(more: &str) -> String {
    with(&format!(
        "health: {{type: http, interval: 400ms, timeout: 300ms, rise: 2, fall: 2, jitter: 0%}}{more}"
    ))
}

/// The daemon's report on a backend of the first service.
fn backend(live: &Live, last: u8) -> Value {
    let services = live.json("services");
    let web = services.as_array().expect("a list").iter().find(|s| s["name"] == "web");
    let address = format!("10.0.0.{last}");
    let backends = web.expect("there")["backends"].as_array().expect("a list").clone();
    backends.into_iter().find(|b| b["address"] == address.as_str()).expect("there")
}

fn state(live: &Live, last: u8) -> String {
    backend(live, last)["status"]["state"].as_str().expect("a daemon").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_under_load_is_removed_in_time_and_restored() {
    let mut live = Live::new("dies").await;
    live.write(&checked(""));
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    let load = Load::start(live.node("client1"), address(VIPS[0]));
    wait_until("requests are running", TIMEOUT, || load.so_far().answered() > 50);
    live.end_server("b3");
    let removed = wait_until("it is down", 2 * INTERVAL + CHECK_TIMEOUT + APPLY_TIME, || {
        state(&live, 13) == "down"
    });
    // One request may be in progress.
    thread::sleep(Duration::from_millis(50));
    let before = load.so_far();
    thread::sleep(Duration::from_secs(1));
    let after = load.so_far();
    assert_eq!(after.errors[before.errors.len()..], [] as [String; 0], "none failed after that");
    assert_eq!(after.answers["b3"], before.answers["b3"]);
    assert!(after.answered() > before.answered() + 20);
    daemon.clear_log();
    let back = Instant::now();
    live.serve(&["b3"]);
    wait_until("it is back", 3 * INTERVAL + APPLY_TIME, || state(&live, 13) != "down");
    println!("removed after {removed:?}, restored after {:?}", back.elapsed());
    wait_until("it answers", TIMEOUT, || load.so_far().answers["b3"] > after.answers["b3"]);
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_restores_which_backends_are_down_or_drained() {
    let mut live = Live::new("remembers").await;
    live.write(&checked(""));
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    live.end_server("b3");
    wait_until("it is down", 4 * INTERVAL + APPLY_TIME, || state(&live, 13) == "down");
    live.director("drain web 10.0.0.11").succeeded();
    live.director("weight web-v6 2001:db8:1::12 7").succeeded();
    daemon.end(Signal::SIGKILL);
    // Without a daemon, as before.
    let alone = live.spread(VIPS[0], 200);
    assert_eq!(alone.keys().collect::<Vec<_>>(), ["b2"], "{alone:?}");
    // Every connection from the first on, while the next daemon starts.
    let daemon = live.spawn_run();
    let restarted = live.spread(VIPS[0], 2000);
    assert_eq!(restarted.keys().collect::<Vec<_>>(), ["b2"], "{restarted:?}");
    daemon.wait_for("started: nothing to change", TIMEOUT);
    let weights: Vec<_> = live
        .json("backends web-v6")
        .as_array()
        .expect("a list")
        .iter()
        .map(|b| b["weight"].clone())
        .collect();
    assert!(weights.contains(&Value::from(7)), "{weights:?}");
    live.director("undrain --all 10.0.0.11").succeeded();
    live.director("weight web-v6 2001:db8:1::12 reset").succeeded();
    live.serve(&["b3"]);
    wait_until("all are back", TIMEOUT, || live.spread(VIPS[0], 60).len() == 3);
    daemon.end(Signal::SIGTERM);
}

/// The daemon is dead, and the network continues to change.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_down_backends_stay_excluded_and_moved_next_hops_are_found() {
    let mut live = Live::new("nobody").await;
    let netlink = live.netlink("director");
    netlink.set_sysctl("net/ipv4/ip_forward", "1").expect("sysctl");
    live.write(&checked(""));
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    live.end_server("b3");
    wait_until("it is down", 4 * INTERVAL + APPLY_TIME, || state(&live, 13) == "down");
    live.director("drain web 10.0.0.12").succeeded();
    daemon.end(Signal::SIGKILL);
    assert_eq!(live.spread(VIPS[0], 50).keys().collect::<Vec<_>>(), ["b1"]);
    // The remaining backend gets another MAC address and announces it.
    let b1 = live.netlink("b1");
    let eth0 = b1.link_by_name("eth0").await.expect("eth0");
    let mut mac = eth0.mac;
    mac[1] = 0xee;
    b1.set_mac(eth0.index, mac).await.expect("another MAC");
    for &own in live.node("b1").addresses() {
        b1.announce(eth0.index, own).await.expect("announced");
    }
    // Shorter than the retransmission timeout of a SYN, which would be measured otherwise.
    let connects = || TcpStream::connect_timeout(&address(VIPS[0]), Duration::from_millis(100));
    let took = wait_until("recovered", Duration::from_secs(2), || {
        live.node("client1").run(connects).expect("enters").is_ok()
    });
    println!("recovered within {took:?}");
    assert_eq!(live.spread(VIPS[0], 200).keys().collect::<Vec<_>>(), ["b1"]);
    let daemon = live.spawn_run();
    // Neither the down nor the drained backend gets any connection, from the first on.
    let spread = live.spread(VIPS[0], 2000);
    assert_eq!(spread.keys().collect::<Vec<_>>(), ["b1"], "{spread:?}");
    daemon.wait_for("ready", TIMEOUT);
    assert_eq!(state(&live, 12), "draining");
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_keeps_connections_and_waits_for_them() {
    let live = Live::new("drains").await;
    let daemon = live.run();
    let mut connection = live.connect(VIPS[0]);
    let name = connection.request().expect("answers");
    let backend = format!("10.0.0.1{}", name.trim_start_matches('b'));
    // The drain lasts while the connection exists; at the deadline, its flow is rescheduled.
    let waited = Instant::now();
    let drained = live.director(&format!("drain web {backend} --wait --deadline 2s")).succeeded();
    drained.prints(&["1 connections left", "the deadline is over"]);
    assert!(waited.elapsed() >= Duration::from_secs(2));
    assert!(!live.spread(VIPS[0], 100).contains_key(&name));
    wait_until("the remaining flow is rescheduled", TIMEOUT, || connection.request().is_err());
    live.director(&format!("undrain web {backend}")).succeeded();
    assert!(live.spread(VIPS[0], 100).contains_key(&name));
    for (line, why) in [
        ("drain nobody 10.0.0.11", "there is no service \"nobody\""),
        ("drain web 10.9.9.9", "10.9.9.9 is not a backend of web"),
        ("drain web somewhere", "is not an IP address"),
    ] {
        live.director(line).refused(1).reports(&[why]);
    }
    live.director("drain web").refused(2).reports(&["name the service too, or use --all"]);
    live.director("weight web 10.0.0.11 heavy").refused(2).reports(&["write 0 to 65535, or reset"]);
    daemon.end(Signal::SIGTERM);
    live.director("drain web 10.0.0.11").refused(1).reports(&["is `director run` running?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_share_is_applied_within_two_intervals() {
    let live = Live::new("agent").await;
    let more = DEFAULT_CONFIG.replace("weight: 2", "weight: 1").replace("weight: 3", "weight: 1");
    let yaml = more.replace(
        "services:",
        "defaults: {agent: {type: agent, port: 7777, interval: 500ms, timeout: 300ms}}\nservices:",
    );
    live.write(&yaml);
    let reply = Arc::new(Mutex::new("100%".to_owned()));
    let ended = Arc::new(AtomicBool::new(false));
    for (node, last) in [("b1", 11u8), ("b2", 12), ("b3", 13)] {
        let listener = live.node(node).run(|| TcpListener::bind((format!("10.0.0.{last}"), 7777)));
        let listener = listener.expect("enters").expect("listens");
        listener.set_nonblocking(true).expect("set");
        let (reply, ended) = (reply.clone(), ended.clone());
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if let Ok((mut stream, _)) = listener.accept() {
                    let word =
                        if last == 11 { reply.lock().expect("ok").clone() } else { "100%".into() };
                    let _ = writeln!(stream, "{word}");
                    let _ = BufReader::new(stream).read_line(&mut String::new());
                } else {
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
    }
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    *reply.lock().expect("ok") = "25%".into();
    let began = Instant::now();
    wait_until("a quarter", 2 * Duration::from_millis(500) + APPLY_TIME, || {
        let b1 = backend(&live, 11)["share"].as_f64().expect("a number");
        // 25 of 25 + 100 + 100.
        (b1 - 11.1).abs() < 0.3
    });
    println!("a quarter after {:?}", began.elapsed());
    let spread = live.spread(VIPS[0], 600);
    let b1 = spread["b1"];
    assert!((40..100).contains(&b1), "{spread:?}");
    *reply.lock().expect("ok") = "down #maintenance".into();
    wait_until("down", 3 * INTERVAL + APPLY_TIME, || state(&live, 11) == "down");
    *reply.lock().expect("ok") = "up 100%".into();
    wait_until("up", 3 * INTERVAL + APPLY_TIME, || state(&live, 11) != "down");
    ended.store(true, Ordering::Relaxed);
    daemon.end(Signal::SIGTERM);
}

/// The backend's own address always answers, unlike the VIP that clients use.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_via_path_detects_a_missing_vip() {
    let live = Live::new("viapath").await;
    let yaml = checked("").replace("type: http,", "type: http, via: path,");
    live.write(&yaml);
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    for last in [11, 12, 13] {
        wait_until("up", TIMEOUT, || state(&live, last) == "up");
    }
    // Without the filters, probes would go directly to backends, which answer.
    let mut tc = Command::new("tc");
    tc.args(["qdisc", "del", "dev", "eth0", "clsact"]);
    live.node("director").place(&mut tc).expect("placed");
    finish(tc).succeeded();
    daemon.wait_for("removed the filters of checks via path on eth0; restored", 2 * TIMEOUT);
    let b2 = live.netlink("b2");
    let lo = b2.link_by_name("lo").await.expect("lo").index;
    let vip = address(VIPS[0]).ip();
    b2.remove_address(lo, vip, 32).await.expect("removed");
    wait_until("down", 3 * INTERVAL + CHECK_TIMEOUT + APPLY_TIME, || state(&live, 12) == "down");
    let reason = backend(&live, 12)["status"]["reason"].to_string();
    assert!(reason.contains("http via path: "), "{reason}");
    assert!(!live.spread(VIPS[0], 100).contains_key("b2"));
    b2.add_address(lo, vip, 32).await.expect("added");
    wait_until("up again", 4 * INTERVAL + APPLY_TIME, || state(&live, 12) == "up");
    // A restart restores which backends were up, and continues to probe.
    daemon.end(Signal::SIGKILL);
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
    daemon.end(Signal::SIGTERM);
    live.detach();
}

/// A new check has no result yet, so the last result of the previous one counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_check_keeps_down_backends_down() {
    let mut live = Live::new("recheck").await;
    live.write(&checked(""));
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    live.end_server("b3");
    wait_until("down", 4 * INTERVAL + APPLY_TIME, || state(&live, 13) == "down");
    let load = Load::start(live.node("client1"), address(VIPS[0]));
    for (text, another) in
        [("type: http,", "type: http, path: /other,"), ("type: http,", "type: tcp,")]
    {
        daemon.clear_log();
        live.write(&checked("").replace(text, another));
        daemon.wait_for("configuration applied", TIMEOUT);
        assert_eq!(state(&live, 13), "down");
        thread::sleep(2 * INTERVAL);
    }
    let totals = load.stop();
    assert_eq!(totals.errors, Vec::<String>::new());
    // A backend that recovers is used again.
    live.serve(&["b3"]);
    wait_until("up", TIMEOUT, || state(&live, 13) == "up");
    daemon.end(Signal::SIGTERM);
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sorry_backend_serves_while_all_others_are_down() {
    let mut live = Live::new("sorry").await;
    let yaml = checked(", sorry: {address: 10.0.0.13}, panic: never")
        .replace("      - {address: 10.0.0.13, weight: 3}\n", "");
    // The second service has backends of the other family.
    let end = yaml.find("  - name: web-v6").expect("there");
    live.write(&yaml[..end]);
    let daemon = live.run();
    daemon.wait_for("ready", TIMEOUT);
    assert_eq!(live.spread(VIPS[0], 40).keys().collect::<Vec<_>>(), ["b1", "b2"]);
    live.end_server("b1");
    live.end_server("b2");
    wait_until("sorry", 4 * INTERVAL + APPLY_TIME, || {
        live.get(VIPS[0]).is_ok_and(|name| name == "b3")
    });
    live.serve(&["b1", "b2"]);
    wait_until("back", 6 * INTERVAL + APPLY_TIME, || !live.spread(VIPS[0], 20).contains_key("b3"));
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_backends_fail_at_once_all_are_kept() {
    let mut live = Live::new("panic").await;
    let wrong = checked(", panic: 50%").replace("type: http,", "type: http, status: 500,");
    live.write(&wrong);
    let daemon = live.run();
    daemon.wait_for("the checks are more likely wrong, so all are kept", 4 * INTERVAL + TIMEOUT);
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
    // The cost: a single backend that is really down is not detected then.
    live.end_server("b1");
    live.serve(&["b1"]);
    live.write(&checked(", panic: 50%"));
    wait_until("up", TIMEOUT, || state(&live, 11) == "up");
    daemon.end(Signal::SIGTERM);
}
