//! Nothing is lost: configurations change, the daemon is stopped, killed and upgraded, files are
//! written slowly, a change is interrupted at each of its steps; and every byte of every transfer,
//! every numbered datagram and every new connection is answered by the right backend.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use director_tests::live::{
    Daemon, Echo, Flow, FlowTotals, Live, Program, RequestTotals, Requests, Steady, TIMEOUT,
    Transport, address, finish, wait_until,
};
use nix::sys::signal::Signal;

/// How soon a change of the file is in effect.
const SOON: Duration = Duration::from_secs(1);
/// Time limit of a change of many services, with rings built by an unoptimised program.
const LARGE: Duration = Duration::from_secs(60);

/// Every forwarding mode: name, VIP, `forward`, and prefix of the backends' addresses.
const MODES: [(&str, &str, &str, &str); 6] = [
    ("4in4", "192.0.2.44", "tunnel", "10.0.0."),
    ("6in6", "2001:db8::66", "tunnel", "2001:db8:1::"),
    ("4in6", "192.0.2.46", "tunnel", "2001:db8:1::"),
    ("6in4", "2001:db8::64", "tunnel", "10.0.0."),
    ("direct4", "192.0.2.4", "direct", "10.0.0."),
    ("direct6", "2001:db8::6", "direct", "2001:db8:1::"),
];
const PORT: u16 = 7;
/// Flows of each transport in each mode.
const FLOWS: usize = 3;

/// Parameters of the file, the same for all modes.
#[derive(Clone, Debug)]
struct Shape {
    /// Weights of the backends that serve the measured flows.
    weights: [u16; 3],
    /// Whether there is a fourth backend.
    spare: bool,
    /// Whether there is another service.
    other: bool,
    drain_timeout: &'static str,
    flows: &'static str,
}

impl Shape {
    const BASE: Self = Self {
        weights: [1, 2, 3],
        spare: false,
        other: false,
        drain_timeout: "1m",
        flows: "{size: 64Ki}",
    };

    fn yaml(&self) -> String {
        let Self { weights, spare, other, drain_timeout, flows } = self;
        let mut yaml = format!(
            "interfaces: [{{name: eth0}}]\nflows: {flows}\n\
             defaults: {{drain_timeout: {drain_timeout}, protocol: [tcp, udp], port: {PORT}}}\n\
             services:\n"
        );
        for (name, vip, forward, prefix) in MODES {
            let _ = write!(
                yaml,
                "  - name: m{name}\n    address: \"{vip}\"\n    forward: {forward}\n    backends:\n"
            );
            for (n, weight) in (11..).zip(weights) {
                let _ = writeln!(yaml, "      - {{address: \"{prefix}{n}\", weight: {weight}}}");
            }
            if *spare {
                let _ = writeln!(yaml, "      - {{address: \"{prefix}14\", weight: 2}}");
            }
        }
        if *other {
            yaml += "  - name: other\n    address: 192.0.2.99\n    forward: tunnel\n    backends: \
                     [{address: 10.0.0.11}, {address: 10.0.0.14}]\n";
        }
        yaml
    }

    /// Makes the `n`th of many changes. Every fifth changes only weights.
    fn change(&mut self, n: usize) {
        let weight = |n: usize| u16::try_from(n % 7).expect("small");
        // Sometimes one of the three gets no new flows, and keeps its existing ones.
        self.weights = [1 + weight(n), weight(3 * n), 1 + weight(n / 2)];
        match n % 5 {
            0 => self.spare = !self.spare,
            1 => self.other = !self.other,
            2 => self.drain_timeout = ["1m", "10s", "5m"][n % 3],
            3 => self.flows = ["{size: 64Ki, udp: 2m}", "{size: 64Ki, tcp: 1h}"][n % 2],
            _ => {}
        }
    }
}

/// The losses that the other tests count are detected: a backend removed without a drain, and a
/// detached director.
#[tokio::test(flavor = "multi_thread")]
async fn losses_are_detected() {
    let (live, servers) = with_five_backends("noticed").await;
    let daemon = live.run();
    let mut flows = flows_on_remaining_backends();
    flows.iter_mut().for_each(|flow| flow.on = vec!["b3".to_owned()]);
    let steady = Steady::start(live.node("client1"), flows);
    live.replace(&NEW.replace("drain_timeout: 5m", "drain_timeout: 0s"));
    daemon.wait_for("configuration applied", TIMEOUT);
    thread::sleep(Duration::from_millis(300));
    for flow in steady.stop() {
        assert!(!flow.is_whole(), "{flow}");
        match flow.label.split(' ').next() {
            Some("Tcp") => assert!(!flow.errors.is_empty(), "a reset: {flow}"),
            _ => assert!(!flow.elsewhere.is_empty(), "another backend's answers: {flow}"),
        }
    }
    let steady = Steady::start(live.node("client1"), flows_on_remaining_backends());
    let requests = Requests::start(live.node("client1"), address("192.0.2.44:7"), 100);
    daemon.end(Signal::SIGTERM);
    live.detach();
    thread::sleep(Duration::from_millis(300));
    assert!(!requests.stop().errors.is_empty(), "nothing forwards");
    for flow in steady.stop() {
        assert!(!flow.is_whole(), "{flow}");
        if flow.label.starts_with("Udp") {
            assert!(!flow.lost.is_empty(), "no answers: {flow}");
        }
    }
    drop(servers);
}

/// Servers on all backends, at every VIP.
fn serve(live: &Live) -> Vec<Echo> {
    let backends = live.lab.nodes().iter().filter(|node| node.is_backend());
    backends.map(|node| Echo::start(node, node.listen())).collect()
}

fn socket(vip: &str) -> String {
    if vip.contains(':') { format!("[{vip}]:{PORT}") } else { format!("{vip}:{PORT}") }
}

/// Flows of both transports in every mode.
fn flows_of_every_mode() -> Vec<Flow> {
    let mut flows = Vec::new();
    for (name, vip, ..) in MODES {
        for transport in [Transport::Tcp, Transport::Udp] {
            for n in 0..FLOWS {
                let label = format!("{name} {transport:?} {n}");
                let address = address(&socket(vip));
                flows.push(Flow { label, transport, address, on: Vec::new() });
            }
        }
    }
    flows
}

/// Fails unless every flow is whole; returns a summary by transport.
#[track_caller]
fn nothing_lost(totals: &[FlowTotals]) -> String {
    let broken: Vec<String> =
        totals.iter().filter(|flow| !flow.is_whole()).map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{} flows are not whole:\n{}", broken.len(), broken.join("\n"));
    assert!(totals.iter().all(|flow| flow.answered > 10), "{totals:?}");
    let sum = |transport: &str| {
        let flows: Vec<_> = totals.iter().filter(|flow| flow.label.contains(transport)).collect();
        let longest = flows.iter().map(|flow| flow.longest).max().unwrap_or_default();
        let sent: u64 = flows.iter().map(|flow| flow.sent).sum();
        (flows.len(), sent, longest)
    };
    let ((tcp, blocks, slow), (udp, datagrams, late)) = (sum("Tcp"), sum("Udp"));
    format!(
        "{tcp} connections, {blocks} blocks of 2 KiB, 0 resets, longest answer {slow:?}; {udp} UDP \
         flows, {datagrams} datagrams, 0 lost, 0 elsewhere, longest answer {late:?}"
    )
}

/// Fails unless every request was answered, and by one of these.
#[track_caller]
fn all_answered(totals: &RequestTotals, by: &[&str]) {
    assert_eq!(totals.errors, Vec::<String>::new(), "{:?}", totals.answers);
    let unexpected = totals.answers.keys().find(|name| !by.contains(&name.as_str()));
    assert_eq!(unexpected, None, "{:?}", totals.answers);
}

/// The tag of the program on the director's interface, which identifies programs.
async fn program_tag(live: &Live) -> u64 {
    let ids = live.bpf().await.programs;
    let mut tags = loaded_programs().filter_map(Result::ok).filter(|p| ids.contains(&p.id()));
    tags.next().expect("attached").tag()
}

/// Asserts that the maps match the file.
#[track_caller]
fn nothing_to_change(live: &Live) {
    let plan = live.json("plan -c director.yaml");
    assert_eq!(plan["changes"], false, "{plan:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_restarts_kills_and_upgrades_lose_nothing() {
    const CHANGES: usize = 50;
    let whole = Shape { spare: true, other: true, ..Shape::BASE };
    let live = Live::with("noloss", &whole.yaml()).await;
    let servers = serve(&live);
    let mut shape = Shape::BASE;
    live.write(&shape.yaml());
    let mut daemon = live.run();
    let began = Instant::now();
    let client = live.node("client1");
    let steady = Steady::start(client, flows_of_every_mode());
    let requests = Requests::start(client, address(&socket(MODES[0].1)), 40);
    let links = live.bpf().await.links;

    let (mut restarts, mut kills, mut upgrades) = (0, 0, 0);
    let mut program = Program::Director;
    for n in 0..CHANGES {
        daemon.clear_log();
        shape.change(n);
        live.replace(&shape.yaml());
        daemon.wait_for("configuration applied", TIMEOUT);
        if n % 5 == 4 {
            assert_eq!(daemon.end(Signal::SIGTERM).code(), Some(0));
            daemon = live.run_as(program);
            restarts += 1;
        }
        if n % 10 == 7 {
            daemon.end(Signal::SIGKILL);
            daemon = live.run_as(program);
            kills += 1;
        }
        if n == CHANGES / 3 || n == 2 * CHANGES / 3 {
            let before = program_tag(&live).await;
            daemon.end(Signal::SIGTERM);
            program = if program == Program::Director { Program::Next } else { Program::Director };
            daemon = live.run_as(program);
            assert_ne!(program_tag(&live).await, before, "the other build's program");
            assert_eq!(live.bpf().await.links, links, "replaced through its link");
            upgrades += 1;
        }
        if n % 10 == 9 {
            nothing_to_change(&live);
        }
        let before = steady.answered();
        wait_until("traffic goes on", TIMEOUT, || steady.answered() > before + 30);
    }
    assert_eq!((restarts, kills, upgrades), (10, 5, 2));
    let connections = requests.stop();
    let totals = nothing_lost(&steady.stop());
    println!(
        "{CHANGES} changes, {restarts} restarts, {kills} kills, {upgrades} upgrades in {:?}: {totals}; \
         {} new connections",
        began.elapsed(),
        connections.answers.values().sum::<usize>()
    );
    all_answered(&connections, &["b1", "b2", "b3", "b4"]);
    let verdicts = live.verdicts();
    assert!(!verdicts.keys().any(|verdict| verdict.starts_with("drop/")), "{verdicts:?}");
    daemon.end(Signal::SIGTERM);
    drop(servers);
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_writer_breaks_nothing() {
    const RATE: u32 = 500;
    let yaml = |weight: u16| Shape { weights: [1, 2, weight], ..Shape::BASE }.yaml();
    let live = Live::with("slowfile", &yaml(3)).await;
    let servers = serve(&live);
    let daemon = live.run();
    let began = Instant::now();
    let requests = Requests::start(live.node("client1"), address(&socket(MODES[0].1)), RATE);
    // A daemon that has just started reads the file once more.
    let warm = RATE as usize / 2;
    wait_until("requests are answered", TIMEOUT, || {
        requests.so_far().answers.values().sum::<usize>() > warm
    });

    // Half of a file, a pause, the rest: an incomplete file is not read.
    let text = yaml(30);
    let (first, rest) = text.split_at(text.len() / 2);
    let mut file = File::create(live.file()).expect("writable");
    daemon.clear_log();
    file.write_all(first.as_bytes()).expect("written");
    file.sync_all().expect("written");
    thread::sleep(Duration::from_millis(1000));
    // Also when another file is created beside it.
    let other = live.file().with_extension("other");
    fs::write(&other, "").expect("written");
    fs::rename(&other, other.with_extension("renamed")).expect("renamed");
    thread::sleep(Duration::from_millis(1000));
    assert_eq!(daemon.log(), "", "it waits for the writer");
    file.write_all(rest.as_bytes()).expect("written");
    drop(file);
    daemon.wait_for("weight 3 -> 30", SOON);

    // The same by a writer that closes the file in between: half a file is refused.
    daemon.clear_log();
    let text = yaml(31);
    fs::write(live.file(), &text[..text.len() / 2 + 3]).expect("written");
    daemon.wait_for("refused, the configuration in effect stays", SOON);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(live.json("services").as_array().expect("a list").len(), 2 * MODES.len());
    let mut file = File::options().append(true).open(live.file()).expect("is there");
    file.write_all(&text.as_bytes()[text.len() / 2 + 3..]).expect("written");
    drop(file);
    daemon.wait_for("weight 30 -> 31", SOON);

    // An empty file is refused, and reported as empty.
    daemon.clear_log();
    live.write("");
    daemon.wait_for("refused, the configuration in effect stays", SOON);
    assert!(daemon.log().contains("there is nothing in the file"), "{}", daemon.log());

    // A file renamed over it is applied.
    daemon.clear_log();
    live.replace(&yaml(32));
    let applied = daemon.wait_for("weight 31 -> 32", SOON);
    thread::sleep(Duration::from_millis(300));

    let totals = requests.stop();
    println!(
        "{} connections in {:?} ({:.0}/s), {} failed; the rename was applied after {applied:?}",
        totals.answers.values().sum::<usize>(),
        began.elapsed(),
        totals.rate(),
        totals.errors.len()
    );
    all_answered(&totals, &["b1", "b2", "b3"]);
    assert!(totals.rate() > 0.9 * f64::from(RATE), "only {:.0}/s", totals.rate());
    daemon.end(Signal::SIGTERM);
    drop(servers);
    live.detach();
}

/// Services whose change needs steps of every kind. No client uses `gone`, `fresh` and `idle`,
/// which have a backend that `web` does not have: if slots were mixed up, it would answer.
const OLD: &str = r#"
interfaces: [{name: eth0}]
flows: {size: 64Ki}
defaults: {protocol: [tcp, udp], port: 7, forward: tunnel}
services:
  - name: web
    address: 192.0.2.44
    drain_timeout: 5m
    backends: [{address: 10.0.0.11}, {address: 10.0.0.12, weight: 2}, {address: 10.0.0.13}]
  - {name: gone, address: 192.0.2.45, protocol: udp, when_empty: drop, backends: [{address: 10.0.0.15}]}
  - name: idle
    address: 192.0.2.47
    protocol: tcp
    drain_timeout: 0s
    backends: [{address: 10.0.0.11}, {address: 10.0.0.15}]
"#;
const NEW: &str = r#"
interfaces: [{name: eth0}]
flows: {size: 64Ki}
defaults: {protocol: [tcp, udp], port: 7, forward: tunnel}
services:
  - {name: fresh, address: 192.0.2.46, protocol: tcp, backends: [{address: 10.0.0.15}]}
  - name: web
    address: 192.0.2.44
    drain_timeout: 5m
    backends: [{address: 10.0.0.14, weight: 3}, {address: 10.0.0.11, weight: 4}, {address: 10.0.0.12}]
  - {name: renamed, address: 192.0.2.47, protocol: tcp, drain_timeout: 0s, backends: [{address: 10.0.0.11}]}
"#;

/// Applies the first steps of the change to the file in a process that is then killed; returns the
/// number of steps of the whole change.
fn apply_and_die(live: &Live, steps: usize) -> usize {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apply-and-die"));
    command.arg(live.file()).arg(live.instance().name()).arg(steps.to_string());
    live.node("director").place(&mut command).expect("placed");
    let finished = finish(command);
    assert_eq!(finished.code, None, "killed: {}{}", finished.stdout, finished.stderr);
    finished.stdout.trim().parse().expect("a number")
}

/// Flows on backends that both configurations have.
fn flows_on_remaining_backends() -> Vec<Flow> {
    let on = ["b1", "b2"].map(String::from).to_vec();
    let flow = |n: usize| {
        let transport = if n.is_multiple_of(2) { Transport::Tcp } else { Transport::Udp };
        let address = address("192.0.2.44:7");
        Flow { label: format!("{transport:?} {n}"), transport, address, on: on.clone() }
    };
    (0..12).map(flow).collect()
}

/// A lab with five backends, all of which have all VIPs.
async fn with_five_backends(test: &str) -> (Live, Vec<Echo>) {
    let vips = ["192.0.2.44", "192.0.2.45", "192.0.2.46", "192.0.2.47"];
    let backends: Vec<String> = (11..=15).map(|n| format!("{{address: 10.0.0.{n}}}")).collect();
    let mut yaml = "interfaces: [{name: eth0}]\nservices:\n".to_owned();
    for (n, vip) in vips.iter().enumerate() {
        let _ = writeln!(
            yaml,
            "  - {{name: s{n}, address: {vip}, protocol: [tcp, udp], port: {PORT}, forward: tunnel, \
             backends: [{}]}}",
            backends.join(", ")
        );
    }
    let live = Live::with(test, &yaml).await;
    let servers = serve(&live);
    live.write(OLD);
    (live, servers)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_of_a_change_no_flow_is_misdirected() {
    let (live, servers) = with_five_backends("steps").await;
    let mut daemon = live.run();
    let steady = Steady::start(live.node("client1"), flows_on_remaining_backends());
    let requests = Requests::start(live.node("client1"), address("192.0.2.44:7"), 100);
    let mut lengths = BTreeSet::new();
    let mut step = 0;
    loop {
        let mut longest = 0;
        for file in [NEW, OLD] {
            daemon.end(Signal::SIGKILL);
            live.write(file);
            let length = apply_and_die(&live, step);
            longest = longest.max(length);
            lengths.insert(length);
            // Packets are forwarded by the partial state, which is not repaired yet.
            let before = steady.answered();
            wait_until("traffic goes on", TIMEOUT, || steady.answered() > before + 24);
            daemon = live.run();
            let is_complete = daemon.log().contains("started: nothing to change");
            assert_eq!(is_complete, step >= length, "{step} of {length}:\n{}", daemon.log());
            nothing_to_change(&live);
        }
        if step >= longest {
            break;
        }
        step += 1;
    }
    assert!(step >= 8, "changes of {lengths:?} steps are too short");
    let connections = requests.stop();
    let totals = nothing_lost(&steady.stop());
    println!(
        "killed after each of {lengths:?} steps: {totals}; {} new connections",
        connections.answers.values().sum::<usize>()
    );
    all_answered(&connections, &["b1", "b2", "b3", "b4"]);
    daemon.end(Signal::SIGTERM);
    drop(servers);
    live.detach();
}

/// `OLD` or `NEW` with many more services.
fn with_many(yaml: &str, services: usize) -> String {
    let mut yaml = yaml.to_owned();
    for n in 0..services {
        let _ = writeln!(
            yaml,
            "  - {{name: many{n}, address: 192.0.2.45, protocol: tcp, port: {}, backends: \
             [{{address: 10.0.0.11}}, {{address: 10.0.0.15, weight: {}}}]}}",
            1000 + n,
            1 + n % 5
        );
    }
    yaml
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_large_changes_no_flow_is_misdirected() {
    const ROUNDS: usize = 6;
    let (live, servers) = with_five_backends("largekill").await;
    let mut daemon: Daemon = live.run();
    let steady = Steady::start(live.node("client1"), flows_on_remaining_backends());
    let requests = Requests::start(live.node("client1"), address("192.0.2.44:7"), 100);
    let seed = fastrand::u64(..);
    println!("seed {seed:#x}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        let (yaml, services) = if round % 2 == 0 { (NEW, 120) } else { (OLD, 60) };
        daemon.clear_log();
        live.replace(&with_many(yaml, services));
        thread::sleep(Duration::from_millis(rng.u64(..400)));
        daemon.signal(Signal::SIGKILL);
        unfinished += usize::from(!daemon.log().contains("configuration applied"));
        daemon.ended();
        let before = steady.answered();
        wait_until("traffic goes on", TIMEOUT, || steady.answered() > before + 24);
        daemon = live.spawn_run();
        daemon.wait_for("running with", LARGE);
        nothing_to_change(&live);
    }
    let connections = requests.stop();
    let totals = nothing_lost(&steady.stop());
    println!(
        "killed {ROUNDS} times, {unfinished} of them in a large change: {totals}; {} new connections",
        connections.answers.values().sum::<usize>()
    );
    all_answered(&connections, &["b1", "b2", "b3", "b4"]);
    daemon.end(Signal::SIGTERM);
    drop(servers);
    live.detach();
}
