//! Forwarded packets against stock kernels in virtual machines: real TCP sessions go through
//! tunnels of all four pairs, decapsulated by `director realserver` and then by the kernel's own
//! devices, and by direct routing. The verifiers of these kernels accept the programs.
//!
//! Every test boots a machine in which it runs itself again.

#[path = "vm/machine.rs"]
mod machine;
#[path = "vm/sessions.rs"]
mod sessions;

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use director_tests::live::{Daemon, Live, address, command, finish, verdicts_of, wait_until};
use director_userspace::{
    kernel::datapath::Simulation,
    policy::{
        config,
        plan::{Desired, Paths},
    },
};
use nix::sys::signal::Signal;
use xtask::vm::KernelVersion;

/// Time limit of steps that are fast on a real machine and slow on an emulated one.
const TIMEOUT: Duration = Duration::from_secs(120);

const CONFIG: &str = r#"
interfaces: [{name: eth0}]
defaults: {protocol: tcp, forward: tunnel}
services:
  - {name: 4in4, address: 192.0.2.10, port: 44, backends: [{address: 10.0.0.11}]}
  - {name: 4in6, address: 192.0.2.10, port: 46, backends: [{address: "2001:db8:1::11"}]}
  - {name: 6in4, address: "2001:db8::10", port: 64, backends: [{address: 10.0.0.11}]}
  - {name: 6in6, address: "2001:db8::10", port: 66, backends: [{address: "2001:db8:1::11"}]}
  - {name: direct4, address: 192.0.2.10, port: 4, forward: direct, backends: [{address: 10.0.0.11}]}
  - name: direct6
    address: "2001:db8::10"
    port: 6
    forward: direct
    backends: [{address: "2001:db8:1::11"}]
"#;
const VIPS: &str = "192.0.2.10,2001:db8::10";

/// `BPF_COMPLEXITY_LIMIT_INSNS`: how many instructions the verifier processes before it refuses a
/// program.
const VERIFIER_STEPS: u32 = 1_000_000;

/// The backend kernel's tunnel devices: for IPv4 in IPv4, IPv6 in IPv4, and both in IPv6.
const DEVICES: [&str; 3] = ["in4ip4", "in4ip6", "in6any"];

/// A service, its VIP, and the kernel's device that decapsulates its tunnel.
struct Case {
    service: &'static str,
    vip: &'static str,
    device: Option<&'static str>,
}

const CASES: [Case; 6] = [
    Case { service: "4in4", vip: "192.0.2.10:44", device: Some(DEVICES[0]) },
    Case { service: "4in6", vip: "192.0.2.10:46", device: Some(DEVICES[2]) },
    Case { service: "6in4", vip: "[2001:db8::10]:64", device: Some(DEVICES[1]) },
    Case { service: "6in6", vip: "[2001:db8::10]:66", device: Some(DEVICES[2]) },
    Case { service: "direct4", vip: "192.0.2.10:4", device: None },
    Case { service: "direct6", vip: "[2001:db8::10]:6", device: None },
];

#[test]
fn realserver_and_linux_6_1_accept_every_tunnel() {
    let test = "realserver_and_linux_6_1_accept_every_tunnel";
    machine::within(KernelVersion::V6_1, test, |vm| vm, || block_on(with_kernel_devices()));
}

#[test]
fn realserver_on_linux_6_12_accepts_every_tunnel() {
    let test = "realserver_on_linux_6_12_accepts_every_tunnel";
    machine::within(KernelVersion::V6_12, test, |vm| vm, || block_on(with_realserver()));
}

#[test]
fn linux_5_10_is_refused_as_too_old() {
    let test = "linux_5_10_is_refused_as_too_old";
    machine::within(
        KernelVersion::V5_10,
        test,
        |vm| vm,
        || {
            let file = std::env::temp_dir().join("director.yaml");
            fs::write(&file, CONFIG).expect("writable");
            for verb in ["attach", "run"] {
                let director = command(&[verb, "-c", file.to_str().expect("ASCII")]);
                finish(director).refused(1).reports(&["Linux 5.10", "too old", "needs 5.12"]);
            }
            let pins = fs::read_dir("/sys/fs/bpf").expect("mounted").count();
            assert_eq!(pins, 0, "nothing was changed");
        },
    );
}

fn block_on<T>(body: impl Future<Output = T>) {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(body);
}

/// The lab's real server decapsulates the tunnels.
async fn with_realserver() -> (Live, Daemon) {
    verifier_is_below_its_limit();
    let live = Live::with("tunnels", CONFIG).await;
    let ports = CASES.map(|case| address(case.vip).port());
    sessions::serve(live.node("b1"), &ports);
    let daemon = live.spawn_run();
    daemon.wait_for("running with", TIMEOUT);

    // The daemon runs, so the next hops are those it cached.
    let sent = forwarded(&live);
    let in_tunnels = sum(&sent, |device| device.is_some());
    wait_until("all are decapsulated", TIMEOUT, || decapsulated(&live) >= in_tunnels);
    println!("realserver accepted {in_tunnels} of {sent:?}");
    no_receive_errors(&live);
    (live, daemon)
}

/// The same sessions again, and the backend's kernel decapsulates the tunnels.
async fn with_kernel_devices() {
    let (live, daemon) = with_realserver().await;
    // No daemon refreshes next hops from here on: the program looks them up in the kernel.
    daemon.end(Signal::SIGKILL);
    kernel_devices(&live);
    let sent = forwarded(&live);
    for name in DEVICES {
        let in_tunnel = sum(&sent, |device| device == Some(name));
        let received = || device_counters(&live, name)["packets"];
        wait_until(&format!("{name} accepts all"), TIMEOUT, || received() >= in_tunnel);
        println!("{name} accepted {in_tunnel} of {sent:?}");
    }
    for name in DEVICES.into_iter().chain(["eth0"]) {
        let counters = device_counters(&live, name);
        let lost = |what: &str| what.contains("error") || what == "dropped";
        assert!(!counters.iter().any(|(what, n)| lost(what) && *n > 0), "{name}: {counters:?}");
    }
    no_receive_errors(&live);
    live.detach();
}

/// Loads the program for captures, the largest one, and asserts that the verifier stays far below
/// its limit. Verifiers differ in the state that they keep, so the figures differ too.
fn verifier_is_below_its_limit() {
    let config = config::parse("test", CONFIG).expect("valid").config;
    let began = Instant::now();
    let desired = Desired::new(&config, &Paths::default());
    let simulation = Simulation::new(&config, &desired).expect("the kernel accepts it");
    let took = began.elapsed();
    let programs = loaded_programs().map(|program| program.expect("listed"));
    let steps = programs
        .filter(|program| program.name_as_str() == Some("director"))
        .map(|program| program.verified_instruction_count().expect("reported since 5.16"));
    let steps: Vec<u32> = steps.collect();
    drop(simulation);
    println!("verified in {steps:?} steps, loaded in {took:?}");
    assert!(matches!(steps[..], [steps] if steps < VERIFIER_STEPS / 2), "{steps:?}");
}

/// Runs the sessions of every case and returns how many packets the director forwarded for each
/// service.
fn forwarded(live: &Live) -> BTreeMap<&'static str, u64> {
    let stats = || {
        let stats = live.json("stats");
        let services = stats["services"].as_array().expect("a list").clone();
        let packets = |case: &Case| {
            let service = services.iter().find(|service| service["name"] == case.service);
            service.and_then(|service| service["packets"].as_u64()).expect(case.service)
        };
        (CASES.map(|case| (case.service, packets(&case))), verdicts_of(&stats))
    };
    let (before, verdicts_before) = stats();
    for case in &CASES {
        sessions::run(live.node("client1"), address(case.vip));
    }
    let (after, verdicts) = stats();
    let refused = |verdict: &str| verdict.starts_with("drop") || verdict.starts_with("reply");
    assert!(!verdicts.keys().any(|verdict| refused(verdict)), "{verdicts:?}");
    let sent = before.iter().zip(after).map(|((service, n), (_, after))| (*service, after - n));
    let sent: BTreeMap<_, _> = sent.collect();
    let least = sessions::least_packets();
    assert!(sent.values().all(|packets| *packets >= least), "under {least}: {sent:?}");
    let tx = verdicts["tx"] - verdicts_before.get("tx").unwrap_or(&0);
    assert_eq!(
        tx,
        sent.values().sum::<u64>(),
        "all are sent on the interface they arrived on: {sent:?}"
    );
    sent
}

/// The packets of the cases whose device is wanted.
fn sum(sent: &BTreeMap<&str, u64>, wanted: impl Fn(Option<&str>) -> bool) -> u64 {
    CASES.iter().filter(|case| wanted(case.device)).map(|case| sent[case.service]).sum()
}

/// Makes the backend's kernel decapsulate tunnels instead of the real server.
fn kernel_devices(live: &Live) {
    let mut realserver = command(&["realserver", "--vip", VIPS, "--forward", "direct"]);
    realserver.args(["--instance", &live.lab.realserver_instance("b1")]);
    live.node("b1").place(&mut realserver).expect("placed");
    finish(realserver).succeeded().prints(&["detach XDP decapsulation"]);

    let director = live.node("director");
    let v4 = director.ipv4().expect("has both families").to_string();
    let v6 = director.ipv6().expect("has both families").to_string();
    let [four, six, any] = DEVICES;
    for (name, kind, mode, remote, local) in [
        (four, "ipip", "ipip", &v4, "10.0.0.11"),
        (six, "sit", "ip6ip", &v4, "10.0.0.11"),
        (any, "ip6tnl", "any", &v6, "2001:db8:1::11"),
    ] {
        let add = ["link", "add", name, "type", kind, "mode", mode, "local", local];
        ip_on_backend(live, &[&add[..], &["remote", remote]].concat());
        ip_on_backend(live, &["link", "set", name, "up"]);
    }
}

/// Packets that the real server has decapsulated.
fn decapsulated(live: &Live) -> u64 {
    let mut status = command(&["realserver", "--status", "--output", "json"]);
    status.args(["--instance", &live.lab.realserver_instance("b1")]);
    live.node("b1").place(&mut status).expect("placed");
    let packets = &finish(status).succeeded().json()["decapsulation"]["packets"];
    for (what, count) in packets.as_object().expect("by result") {
        assert!(what == "decapsulated" || count == 0, "{packets}");
    }
    packets["decapsulated"].as_u64().expect("a number")
}

/// Runs iproute2 on the backend.
fn ip_on_backend(live: &Live, arguments: &[&str]) -> String {
    let mut ip = Command::new("ip");
    ip.args(arguments);
    live.node("b1").place(&mut ip).expect("placed");
    finish(ip).succeeded().stdout
}

/// Receive counters of a device of the backend.
fn device_counters(live: &Live, device: &str) -> BTreeMap<String, u64> {
    let shown = ip_on_backend(live, &["-json", "-statistics", "link", "show", "dev", device]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let received = &shown[0]["stats64"]["rx"];
    let counters: Result<_, _> = serde_json::from_value(received.clone());
    counters.unwrap_or_else(|error| panic!("{device}: {error}: {shown}"))
}

/// Asserts that neither end of the sessions has counted receive errors.
fn no_receive_errors(live: &Live) {
    for node in ["b1", "client1"] {
        assert_eq!(receive_errors(live, node), BTreeMap::new(), "{node}");
    }
}

/// Receive error counters of IP and TCP on a node that are above 0.
fn receive_errors(live: &Live, node: &str) -> BTreeMap<String, u64> {
    // Of the thread, since only the thread is in the node's namespace.
    let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect(file);
    let files = live.node(node).run(|| ["snmp", "netstat", "snmp6"].map(read)).expect("enters");
    let mut counters = BTreeMap::new();
    let number = |text: &str| text.parse::<i64>().map_or(0, |number| number.max(0) as u64);
    for file in &files[..2] {
        // "Ip: NAME NAME ..." and "Ip: VALUE VALUE ..." in turn.
        let lines: Vec<&str> = file.lines().collect();
        for pair in lines.chunks(2) {
            let group = pair[0].split(':').next().unwrap_or_default();
            for (name, value) in pair[0].split(' ').zip(pair[1].split(' ')).skip(1) {
                counters.insert(format!("{group}{name}"), number(value));
            }
        }
    }
    for line in files[2].lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(name), Some(value)) = (words.next(), words.next()) {
            counters.insert(name.to_owned(), number(value));
        }
    }
    for name in ["IpInHdrErrors", "IpExtInCsumErrors", "TcpInErrs", "Ip6InHdrErrors"] {
        assert!(counters.contains_key(name), "no {name} in {counters:?}");
    }
    assert!(counters["TcpInSegs"] > 0, "{counters:?}");
    let wrong = |name: &str| name.contains("HdrErrors") || name.contains("CsumErrors");
    counters.retain(|name, count| *count > 0 && (wrong(name) || name == "TcpInErrs"));
    counters
}
