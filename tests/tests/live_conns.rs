//! `director conns`: tracked flows, with and without their clients.

use std::{net::UdpSocket, time::Duration};

use director_tests::live::{Live, TIMEOUT, VIPS, wait_until};
use director_userspace::setup::lab::DEFAULT_CONFIG;

fn with_clients() -> String {
    assert!(!DEFAULT_CONFIG.contains("\nflows:"));
    format!("flows: {{size: 64Ki, clients: true}}\n{DEFAULT_CONFIG}")
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_counted_without_tracked_clients() {
    let live = Live::new("conns").await;
    live.attach();
    let none = live.json("conns");
    assert_eq!((&none["flows"], &none["clients"]), (&0.into(), &false.into()), "{none:#}");
    let mut open = VIPS.map(|vip| live.connect(vip));
    for connection in &mut open {
        connection.request().expect("answers");
    }
    let output = live.json("conns");
    assert_eq!(output["flows"], 2, "{output:#}");
    let counts = output["counts"].as_array().expect("counts");
    let sum = |state: &str| counts.iter().filter_map(|count| count[state].as_u64()).sum::<u64>();
    assert_eq!((sum("new"), sum("established"), sum("closing")), (0, 2, 0), "{output:#}");
    assert_eq!(live.json("conns --state closing")["flows"], 0);
    assert_eq!(live.json("conns --service web")["flows"], 1);
    live.director("conns").succeeded().reports(&["flows: {clients: true}"]);
    live.director("conns --count").succeeded().prints(&["ESTABLISHED", "web"]);
    let as_ipvs = live.director("ipvs -Lnc").succeeded().reports(&["source is -: clients are not"]);
    assert_eq!(as_ipvs.stdout.matches(" ESTABLISHED -  ").count(), 2, "{as_ipvs:?}");
    live.director("conns --client 10.0.0.0/8").refused(1).reports(&["flows: {clients: true}"]);
    live.director("conns --service mail").refused(1).reports(&["no service mail"]);
    let wrong = live.director("conns --idle-over soon");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tracked_clients_are_listed() {
    let live = Live::new("clients").await;
    // Enables tracking of clients: open connections stay open, and have no client.
    live.attach();
    let mut before = live.connect(VIPS[0]);
    let served = before.request().expect("answers");
    live.write(&with_clients().replace("size: 64Ki, ", ""));
    live.attach();
    assert_eq!(before.request().expect("open still"), served);
    let mut after = VIPS.map(|vip| live.connect(vip));
    for connection in &mut after {
        connection.request().expect("answers");
    }
    let output = live.json("conns --sort client");
    assert_eq!((&output["flows"], &output["clients"]), (&3.into(), &true.into()), "{output:#}");
    let listed = output["connections"].as_array().expect("a list");
    assert_eq!(listed[0]["client"], serde_json::Value::Null, "{output:#}");
    let node = live.netlink("client1").addresses().await.expect("listed");
    let mut vips = Vec::new();
    for conn in &listed[1..] {
        let client: std::net::SocketAddr =
            conn["client"].as_str().expect("a client").parse().expect("an address and port");
        assert!(node.iter().any(|a| a.address == client.ip()), "{client}: {output:#}");
        assert_eq!(conn["state"], "established");
        assert!(conn["idle_s"].as_f64().expect("seconds") < 60.0);
        vips.push(conn["vip"].as_str().expect("a VIP").to_owned());
        let only = live.json(&format!("conns --client {} --idle-under 1m", client.ip()));
        assert_eq!(only["flows"], 1, "{only:#}");
    }
    vips.sort();
    assert_eq!(vips, VIPS);
    let as_ipvs = live.director("ipvs -Lnc").succeeded().stdout;
    for conn in &listed[1..] {
        let [client, vip] = ["client", "vip"].map(|key| conn[key].as_str().expect("there"));
        let line = format!("{:<11} {client:<18} {vip:<18} ", "ESTABLISHED");
        assert!(as_ipvs.contains(&line), "{line}: {as_ipvs}");
    }
    live.director("conns --limit 1").succeeded().reports(&["2 more"]);
    assert_eq!(live.json("conns --idle-over 10m")["flows"], 0);

    // Disables it again.
    live.write(DEFAULT_CONFIG);
    live.attach();
    assert_eq!(before.request().expect("open still"), served);
    assert_eq!(live.json("conns")["clients"], false);
}

/// Reads thousands of flows.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_flows_are_listed() {
    const FLOWS: usize = 5000;
    const YAML: &str = r#"
interfaces: [{name: eth0}]
flows: {size: 64Ki, clients: true}
services:
  - {name: sink, address: 192.0.2.40, protocol: udp, port: any, forward: tunnel,
     backends: [{address: 10.0.0.11}, {address: 10.0.0.12}]}
"#;
    let live = Live::with("manyflows", YAML).await;
    let daemon = live.run();
    live.node("client1")
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
            for port in 1..=FLOWS as u16 {
                socket.send_to(b"?", ("192.0.2.40", port)).expect("sends");
                // Limited to what a veth's queue accepts.
                if port % 64 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        })
        .expect("enters");
    wait_until("all of them", TIMEOUT, || live.json("conns --count")["flows"] == FLOWS);
    let output = live.json("conns --limit 100000 --sort client");
    let listed = output["connections"].as_array().expect("a list");
    assert_eq!(listed.len(), FLOWS);
    let mut ports: Vec<u16> = listed
        .iter()
        .map(|conn| {
            let vip: std::net::SocketAddr =
                conn["vip"].as_str().expect("known").parse().expect("one");
            vip.port()
        })
        .collect();
    ports.sort_unstable();
    assert!(ports.into_iter().eq(1..=FLOWS as u16));
    // Disabled while the daemon runs.
    daemon.clear_log();
    live.replace(&YAML.replace("clients: true", "clients: false"));
    wait_until("off", TIMEOUT, || live.json("conns --count")["clients"] == false);
    assert_eq!(live.json("conns --count")["flows"], FLOWS);
}

/// On the real clock: the kernel's tick count is hundreds of milliseconds behind CLOCK_MONOTONIC, which
/// must shorten no flow. `udp: 1s` ended a busy flow every 1.2 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_flow_ends_after_its_timeout_and_not_before() {
    const YAML: &str = "
interfaces: [{name: eth0}]
flows: {size: 64Ki, udp: 1s}
services:
  - {name: only, address: 192.0.2.40, protocol: udp, port: 7, forward: tunnel,
     backends: [{address: 10.0.0.11}]}
";
    let live = Live::with("timeouts", YAML).await;
    live.attach();
    let socket =
        live.node("client1").run(|| UdpSocket::bind("0.0.0.0:0").expect("binds")).expect("enters");
    let send = || socket.send_to(b"?", "192.0.2.40:7").expect("sends");
    let flows = || live.json("services")[0]["flows"].as_u64().expect("a number");
    let packets = || live.json("services")[0]["packets"].as_u64().expect("a number");
    for _ in 0..40 {
        send();
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_millis(600));
    send();
    wait_until("forwarded", TIMEOUT, || packets() == 41);
    assert_eq!(flows(), 1, "in use, and then idle for 0.7 s");
    std::thread::sleep(Duration::from_millis(1800));
    send();
    wait_until("forwarded", TIMEOUT, || packets() == 42);
    assert_eq!(flows(), 2, "idle for 1.8 s");
    live.detach();
}
