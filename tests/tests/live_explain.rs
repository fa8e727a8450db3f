//! `director explain` reports what the data plane does, and changes nothing.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    maps::{Array, Map, MapData},
    programs::{ProgramFd, loaded_programs},
};
use director_common::{
    decision::Connection,
    verdict::Verdict,
    wire::tcp::{ACK, SYN},
};
use director_tests::live::Live;
use director_userspace::{
    inspect::trace::{FlowSpec, Packet, explain},
    kernel::datapath::{Counters, Explainer, counters, observe},
    policy::config::model::Protocol,
};
use fastrand::Rng;
use nix::libc;

/// Flows that are explained; half of them are tracked.
const FLOWS: usize = 10_000;

/// Both families and protocols, tunnels and direct, and services without an available backend.
const CONFIG: &str = r#"
interfaces: [{name: eth0}]
flows: {size: 64Ki}
services:
  - {name: t4, address: 192.0.2.10, protocol: [tcp, udp], port: 80, forward: tunnel,
     backends: [{address: 10.0.0.11}, {address: 10.0.0.12, weight: 2}, {address: 10.0.0.13}]}
  - {name: t6, address: "2001:db8::10", protocol: [tcp, udp], port: 80, forward: tunnel,
     backends: [{address: "2001:db8:1::11"}, {address: "2001:db8:1::12"}]}
  - {name: t46, address: 192.0.2.11, protocol: tcp, port: any, forward: tunnel,
     backends: [{address: "2001:db8:1::11"}, {address: "2001:db8:1::13"}]}
  - {name: d4, address: 192.0.2.12, protocol: [tcp, udp], port: 80, forward: direct,
     backends: [{address: 10.0.0.11}, {address: 10.0.0.13}]}
  - {name: d6, address: "2001:db8::12", protocol: udp, port: 80, forward: direct,
     backends: [{address: "2001:db8:1::11"}, {address: "2001:db8:1::12"}]}
  - {name: drop4, address: 192.0.2.13, protocol: tcp, port: 80, forward: direct,
     when_empty: drop, backends: [{address: 10.0.0.11, weight: 0}]}
  - {name: pass4, address: 192.0.2.14, protocol: udp, port: 80, forward: direct,
     when_empty: pass, backends: [{address: 10.0.0.11, weight: 0}]}
"#;

/// A packet of a random flow: mostly for a service, sometimes for none.
fn flow(rng: &mut Rng) -> (FlowSpec, Packet) {
    const V4: [&str; 6] =
        ["192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.14", "192.0.2.99"];
    const V6: [&str; 3] = ["2001:db8::10", "2001:db8::12", "2001:db8::99"];
    let protocol = if rng.bool() { "tcp" } else { "udp" };
    let port = if rng.u8(..8) == 0 { rng.u16(1..) } else { 80 };
    let client_port = rng.u16(1024..);
    let text = if rng.bool() {
        let client = format!("198.51.100.{}", rng.u8(1..=254));
        format!("{protocol} {client}:{client_port} -> {}:{port}", V4[rng.usize(..V4.len())])
    } else {
        let client = format!("2001:db8:f::{:x}", rng.u16(1..));
        format!("{protocol} [{client}]:{client_port} -> [{}]:{port}", V6[rng.usize(..V6.len())])
    };
    let flags = if rng.u8(..4) == 0 { SYN } else { ACK };
    (text.parse().expect(&text), Packet { flags, length: rng.u16(40..400) })
}

/// The program on the director's interface.
async fn attached(live: &Live) -> ProgramFd {
    let links = live.netlink("director").links().await.expect("listed");
    let id = links.iter().find_map(|link| link.xdp).expect("attached").prog_id;
    let info = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    info.expect("loaded").fd().expect("a descriptor")
}

/// The part of `union bpf_attr` used by `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    _pad: u32,
}

/// `BPF_PROG_TEST_RUN` of linux/bpf.h.
const TEST_RUN: libc::c_int = 10;

/// Runs the attached program on a frame and returns its action and the resulting frame.
fn send(program: &ProgramFd, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut left = vec![0u8; 4096];
    let mut attr = TestRun {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: left.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: left.as_mut_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads and writes what the attribute points to, which outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    left.truncate(attr.data_size_out as usize);
    (attr.retval, left)
}

const fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop(_) => 1,
        Verdict::Pass(_) => 2,
        Verdict::Tx | Verdict::Reply(_) => 3,
        Verdict::Redirect => 4,
    }
}

/// The raw flow table.
fn flow_table(live: &Live) -> Vec<[u8; 64]> {
    let pin = live.instance().pins().join("maps/FLOWS");
    let map: Array<_, [u8; 64]> =
        Array::try_from(Map::Array(MapData::from_pin(pin).expect("pinned"))).expect("an array");
    map.iter().map(|set| set.expect("read")).collect()
}

/// The counters of packets for services. (ARP and the like occur in a lab at any time.)
fn counted(explainer: &Explainer) -> Counters {
    let tables = &explainer.datapath().tables;
    let mut counters = counters(tables, &observe(tables)).expect("read");
    counters.verdicts.retain(|(verdict, _)| !matches!(verdict, Verdict::Pass(_)));
    counters
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_flows_are_forwarded_as_explained() {
    let live = Live::with("explain", CONFIG).await;
    let _daemon = live.run();
    let program = attached(&live).await;
    let seed = fastrand::u64(..);
    println!("seed {seed:#x}");
    let mut rng = Rng::with_seed(seed);
    let flows: Vec<_> = (0..FLOWS).map(|_| flow(&mut rng)).collect();
    live.node("director")
        .run(|| {
            let mut explainer = Explainer::new(live.instance(), None).expect("loads");
            let mac = mac(&explainer);
            for (flow, packet) in &flows[..FLOWS / 2] {
                send(&program, &flow.frame(*packet, mac));
            }

            let (counters, table) = (counted(&explainer), flow_table(&live));
            let mut output = Vec::new();
            for (flow, packet) in &flows {
                let explanation = explain(&mut explainer, flow, *packet).expect("explains");
                let outcome = explainer.explain(&flow.frame(*packet, mac)).expect("answers");
                assert_eq!(explanation.verdict, outcome.verdict.label());
                assert_eq!(explanation.connection, outcome.connection.label());
                output.push((explanation, outcome));
            }
            assert_eq!(counted(&explainer), counters, "explain counts nothing");
            assert!(flow_table(&live) == table, "explain changes no flow");

            let mut seen = HashSet::new();
            for ((flow, packet), (explanation, outcome)) in flows.iter().zip(&output) {
                let frame = flow.frame(*packet, mac);
                let (done, left) = send(&program, &frame);
                assert_eq!(done, action(outcome.verdict), "{flow}: {explanation:#?}");
                assert_eq!(left, outcome.frame, "{flow}: the frame");
                seen.insert((outcome.verdict.code(), outcome.connection as u32));
                if outcome.connection == Connection::New {
                    assert!(explanation.ring.is_some() && explanation.backend.is_some());
                }
                if outcome.connection == Connection::Known {
                    let known = explanation.known.as_ref().expect("an entry");
                    assert_eq!(known.backend, explanation.backend, "{flow}");
                    assert!(known.idle_s < 60.0 && known.timeout_s > 60.0, "{known:?}");
                }
            }
            // Tracked and new flows that are forwarded, dropped, and passed to the host for two
            // reasons.
            assert!(seen.len() >= 5, "{seen:?}");
        })
        .expect("enters");
}

fn mac(explainer: &Explainer) -> [u8; 6] {
    director_common::wire::ethernet::mac_from_u64(
        explainer.interface(explainer.interface_slot()).mac(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reports_destination_and_reason() {
    let live = Live::with("explaincli", CONFIG).await;
    live.director("explain tcp 198.51.100.7:1 192.0.2.10:80").refused(1).reports(&["not attached"]);
    let daemon = live.run();
    let output = live.json("explain tcp 198.51.100.7:40000 192.0.2.10:80 --size 1480");
    assert_eq!(output["verdict"], "tx", "{output:#}");
    assert_eq!(
        (&output["service"], &output["frontend"]),
        (&"t4".into(), &"tcp 192.0.2.10:80".into())
    );
    assert_eq!(output["connection"], "new");
    assert_eq!(output["ring"]["slots"], 65_537);
    assert_eq!(output["next_hop"]["known_from"], "daemon");
    assert_eq!(output["tunnel"]["destination"], output["backend"]);
    assert_eq!(output["tunnel"]["overhead"], 20);
    assert_eq!(output["size"]["length"], 1480);
    let fits = output["size"]["fits"].as_u64().expect("a number");
    assert_eq!(fits, output["size"]["mtu"].as_u64().expect("a number") - 20);
    live.director("explain tcp 198.51.100.7:40000 192.0.2.10:80").succeeded().prints(&[
        "flow        tcp 198.51.100.7:40000 -> 192.0.2.10:80",
        "verdict     tx: forwarded",
        "service     t4 (tcp 192.0.2.10:80)",
        "of 65537 of the service's ring",
        "kept fresh by the daemon",
        "tunnel      ",
    ]);

    let big = live.json(&format!("explain tcp 198.51.100.7:4 192.0.2.10:80 --size {}", fits + 1));
    assert_eq!((&big["verdict"], &big["reason"]), (&"tx".into(), &"too-big".into()), "{big:#}");
    let none = live.json("explain udp 198.51.100.7:4 192.0.2.10:81");
    assert_eq!((&none["verdict"], &none["reason"]), (&"pass".into(), &"no-service".into()));
    let empty = live.json("explain tcp 198.51.100.7:4 192.0.2.13:80");
    assert_eq!((&empty["verdict"], &empty["reason"]), (&"drop".into(), &"no-backend".into()));
    assert!(empty["meaning"].as_str().expect("text").contains("when_empty: drop"), "{empty:#}");

    // Still new after repeated calls: nothing is recorded.
    let again = live.json("explain --syn tcp 198.51.100.7:40000 192.0.2.10:80");
    assert_eq!((&again["connection"], &again["known"]), (&"new".into(), &serde_json::Value::Null));

    // The director's own packets are never processed by the program.
    let netlink = live.netlink("director");
    let own = netlink.addresses().await.expect("listed");
    let own = own.iter().find(|a| a.address.is_ipv4() && !a.address.is_loopback()).expect("one");
    live.director(&format!("explain tcp {}:4000 192.0.2.10:80", own.address))
        .succeeded()
        .prints(&["is an address of this host", "never processes them"]);

    // Without a daemon, the next hop comes from the kernel, as for packets.
    drop(daemon);
    std::thread::sleep(std::time::Duration::from_millis(1700));
    let later = live.json("explain tcp 198.51.100.7:40000 192.0.2.10:80");
    assert_eq!(
        (&later["verdict"], &later["next_hop"]["known_from"]),
        (&"tx".into(), &"kernel".into())
    );
    assert_eq!(later["next_hop"]["mac"], output["next_hop"]["mac"]);

    for (line, words) in [
        ("explain tcp 192.0.2.10:80", "two endpoints"),
        ("explain 198.51.100.7:4 192.0.2.10:80", "write `tcp` or `udp`"),
        ("explain tcp 198.51.100.7:4 [2001:db8::10]:80", "different address families"),
    ] {
        live.director(line).refused(2).reports(&[words]);
    }
    live.director("explain tcp 198.51.100.7:4 192.0.2.10:80 --interface eth9")
        .refused(1)
        .reports(&["director is not on eth9"]);
    let udp: FlowSpec = "udp 198.51.100.7:4 192.0.2.10:80".parse().expect("a flow");
    assert_eq!(udp.protocol, Protocol::Udp);
}
