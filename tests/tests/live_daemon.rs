//! `director run`: the file and its changes, signals, restarts, and changes of the host.

use std::{
    fs,
    io::ErrorKind,
    thread,
    time::{Duration, Instant},
};

use director_tests::live::{
    Connection, Host, Live, Load, TIMEOUT, VIPS, address, ip, pass_everything, wait_until,
};
use director_userspace::{
    kernel::net::{LinkEnd, NewRoute},
    setup::lab::DEFAULT_CONFIG,
};
use nix::sys::signal::Signal;

/// How soon a change of the file is in effect.
const SOON: Duration = Duration::from_secs(1);
/// How soon the daemon follows a change of the host.
const FOLLOWED: Duration = Duration::from_secs(2);

/// The built-in configuration without the last backend of the first service, with a short drain
/// timeout.
fn without_b3() -> String {
    drained_in("2s").replace("      - {address: 10.0.0.13, weight: 3}\n", "")
}

/// The built-in configuration with this drain timeout.
fn drained_in(timeout: &str) -> String {
    DEFAULT_CONFIG
        .replace("services:", &format!("defaults: {{drain_timeout: {timeout}}}\nservices:"))
}

/// A connection through the first VIP that this backend serves.
fn connection_to(live: &Live, backend: &str) -> Connection {
    for _ in 0..100 {
        let mut connection = live.connect(VIPS[0]);
        if connection.request().expect("answers") == backend {
            return connection;
        }
    }
    panic!("none of 100 connections went to {backend}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_applied_within_a_second() {
    let live = Live::new("file").await;
    let daemon = live.run();
    live.write(&DEFAULT_CONFIG.replace("weight: 3", "weight: 30"));
    daemon.wait_for("weight 3 -> 30", SOON);
    daemon.clear_log();
    // Like editors: a new file renamed over this one. Like `cp`: several writes.
    live.replace(&DEFAULT_CONFIG.replace("weight: 3", "weight: 31"));
    daemon.wait_for("weight 30 -> 31", SOON);
    daemon.clear_log();
    live.write(&DEFAULT_CONFIG.replace("weight: 3", "weight: 32"));
    daemon.wait_for("weight 31 -> 32", SOON);
    let backends = live.json("backends web");
    assert_eq!(backends[2]["weight"], 32, "{backends}");
    assert_eq!(daemon.end(Signal::SIGTERM).code(), Some(0));
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_behind_a_symbolic_link_is_followed() {
    let live = Live::new("symlink").await;
    let (old, new) = (live.directory().join("old"), live.directory().join("new"));
    for (directory, weight) in [(&old, 3), (&new, 33)] {
        fs::create_dir(directory).expect("made");
        let yaml = DEFAULT_CONFIG.replace("weight: 3", &format!("weight: {weight}"));
        fs::write(directory.join("director.yaml"), yaml).expect("written");
    }
    // Like configuration managers: the file is a link through another link, which is swapped.
    let data = live.directory().join("..data");
    std::os::unix::fs::symlink("old", &data).expect("linked");
    fs::remove_file(live.file()).expect("removed");
    std::os::unix::fs::symlink("..data/director.yaml", live.file()).expect("linked");
    let daemon = live.run();
    let swapped = live.directory().join("..data_tmp");
    std::os::unix::fs::symlink("new", &swapped).expect("linked");
    fs::rename(swapped, data).expect("swapped");
    daemon.wait_for("weight 3 -> 33", SOON);
    // The target is in another directory, which is polled every five seconds, twice.
    fs::write(new.join("director.yaml"), DEFAULT_CONFIG.replace("weight: 3", "weight: 34"))
        .expect("written");
    daemon.wait_for("weight 33 -> 34", Duration::from_secs(15));
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_is_refused_and_the_old_state_stays() {
    let live = Live::new("invalid").await;
    let daemon = live.run();
    let before = live.json("backends");
    // One change is valid, one is not.
    let bad =
        DEFAULT_CONFIG.replace("weight: 1}", "weight: 7}").replace("weight: 3", "weight: 70000");
    live.write(&bad);
    daemon.wait_for("refused, the configuration in effect stays", SOON);
    let line = bad.lines().position(|line| line.contains("70000")).expect("is there") + 1;
    let column = bad.lines().nth(line - 1).and_then(|l| l.find("70000")).expect("is there") + 1;
    let log = daemon.log();
    assert!(log.contains(&format!("director.yaml:{line}:{column}: ")), "{log}");
    assert!(log.contains("70000 is more than 65535"), "{log}");
    for field in ["weight", "state", "address"] {
        let of = |all: &serde_json::Value| {
            let all = all.as_array().expect("a list").iter();
            all.map(|backend| backend[field].clone()).collect::<Vec<_>>()
        };
        assert_eq!(of(&before), of(&live.json("backends")), "{field}");
    }
    for vip in VIPS {
        assert_eq!(live.spread(vip, 20).values().sum::<usize>(), 20);
    }
    // An empty, removed or malformed file does not stop forwarding.
    for text in ["", "services: []\ninterfaces: [{name: eth0}]\n", "services: [", "\u{0}"] {
        daemon.clear_log();
        live.write(text);
        daemon.wait_for("refused, the configuration in effect stays", SOON);
        assert_eq!(live.spread(VIPS[0], 5).values().sum::<usize>(), 5);
    }
    daemon.clear_log();
    fs::remove_file(live.file()).expect("removed");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("refused, the configuration in effect stays", SOON);
    // The next valid file is applied.
    daemon.clear_log();
    live.write(&DEFAULT_CONFIG.replace("weight: 3", "weight: 5"));
    daemon.wait_for("weight 3 -> 5", SOON);
    daemon.end(Signal::SIGTERM);
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_fit_the_host_is_refused() {
    let live = Live::new("unfit").await;
    let daemon = live.run();
    let own = live.node("director").ipv4().expect("has one");
    let changed = DEFAULT_CONFIG.replace("weight: 3", "weight: 9");
    for (bad, why) in [
        (changed.replace("name: eth0", "name: eth7"), "interface eth7 does not exist"),
        (changed.replace("10.0.0.12", &own.to_string()), "is an address of this host"),
    ] {
        daemon.clear_log();
        live.write(&bad);
        daemon.wait_for("refused, the configuration in effect stays", FOLLOWED);
        assert!(daemon.log().contains(why), "{}", daemon.log());
        let weights = live.json("backends web");
        assert_eq!(weights[2]["weight"], 3, "{weights}");
        // A backend of a sixth of the weight gets none of 60 connections once in 56,000 runs.
        assert_eq!(live.spread(VIPS[0], 60).len(), 3);
    }
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_the_file_and_sigterm_keeps_forwarding() {
    let live = Live::new("signals").await;
    let daemon = live.run();
    daemon.clear_log();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("configuration applied: nothing to change", SOON);
    let status = live.json("status");
    assert_eq!(status["daemon"], true, "{status}");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for("SIGTERM: stopping. Forwarding continues", SOON);
    assert_eq!(daemon.ended().code(), Some(0));
    let status = live.json("status");
    assert_eq!(status["daemon"], false, "{status}");
    for vip in VIPS {
        assert_eq!(live.spread(vip, 20).values().sum::<usize>(), 20);
    }
    live.detach();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_process_works_on_an_instance() {
    let live = Live::new("busy").await;
    let daemon = live.run();
    let pid = daemon.pid().to_string();
    let busy = ["another director", pid.as_str(), live.instance().name(), "--instance"];
    live.director("run -c director.yaml").refused(1).reports(&busy);
    let attach = live.director("attach -c director.yaml").succeeded();
    attach.prints(&["the running daemon uses its own file"]);
    // Commands that cannot connect to the daemon do not bypass it.
    for line in ["attach -c director.yaml", "detach"] {
        live.director(&format!("{line} --socket nowhere")).refused(1).reports(&busy);
    }
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    daemon.end(Signal::SIGTERM);
    live.attach();
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_survive_every_kind_of_restart() {
    let live = Live::new("restart").await;
    let mut daemon = live.run();
    let links = live.bpf().await.links;
    let mut connections: Vec<_> =
        VIPS.iter().flat_map(|vip| [vip; 4]).map(|v| live.connect(v)).collect();
    let served: Vec<_> = connections.iter_mut().map(|c| c.request().expect("answers")).collect();
    let load = Load::start(live.node("client1"), address(VIPS[0]));
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT] {
        daemon.end(signal);
        daemon = live.run();
        daemon.wait_for("started: nothing to change", SOON);
        for (connection, name) in connections.iter_mut().zip(&served) {
            assert_eq!(&connection.request().expect("open still"), name, "{signal}");
        }
        assert_eq!(live.bpf().await.links, links, "adopted after {signal}");
    }
    let totals = load.stop();
    assert_eq!(totals.errors, Vec::<String>::new());
    assert!(totals.answered() > 100, "{totals:?}");
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_made_without_a_daemon_are_applied_at_its_start() {
    let live = Live::new("offline").await;
    live.run().end(Signal::SIGKILL);
    live.write(&without_b3());
    let daemon = live.run();
    assert!(daemon.log().contains("backend 10.0.0.13 drains"), "{}", daemon.log());
    let answers = live.spread(VIPS[0], 60);
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["b1", "b2"], "{answers:?}");
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_backend_drains_and_no_request_fails() {
    let live = Live::new("drain").await;
    live.write(&drained_in("2s"));
    let daemon = live.run();
    let mut kept = connection_to(&live, "b3");
    let mut others = connection_to(&live, "b1");
    let load = Load::start(live.node("client1"), address(VIPS[0]));
    wait_until("requests are running", TIMEOUT, || load.so_far().answered() > 50);

    live.write(&without_b3());
    daemon.wait_for("backend 10.0.0.13 drains", SOON);
    let removed = Instant::now();
    let before = load.so_far();
    let state = |live: &Live| {
        let backends = live.json("backends web");
        let b3 = backends.as_array().expect("a list").iter().find(|b| b["address"] == "10.0.0.13");
        b3.map(|b3| b3["state"].as_str().expect("text").to_owned())
    };
    assert_eq!(state(&live).as_deref(), Some("draining"));
    while removed.elapsed() < Duration::from_millis(1500) {
        assert_eq!(kept.request().expect("its connection stays"), "b3");
        thread::sleep(Duration::from_millis(100));
    }
    wait_until("the drain ends", Duration::from_secs(3), || state(&live).is_none());
    assert!(removed.elapsed() > Duration::from_millis(1900), "{:?}", removed.elapsed());
    // Rescheduled: another backend, which has no such connection, resets it.
    let error = kept.request().expect_err("no longer b3's");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert_eq!(others.request().expect("unaffected"), "b1");

    let totals = load.stop();
    assert_eq!(totals.errors, Vec::<String>::new());
    assert!(totals.answered() > before.answered() + 50, "{totals:?}");
    // One request in progress during the change may still have reached b3.
    assert!(totals.answers["b3"] <= before.answers["b3"] + 1, "{before:?} {totals:?}");
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_comes_back_while_it_drains_keeps_its_connections() {
    let live = Live::new("back").await;
    live.write(&drained_in("5m"));
    let daemon = live.run();
    let mut kept = connection_to(&live, "b3");
    live.write(&without_b3().replace("2s", "5m"));
    daemon.wait_for("backend 10.0.0.13 drains", SOON);
    live.write(&drained_in("5m"));
    daemon.wait_for("backend 10.0.0.13: no longer drains", SOON);
    assert_eq!(kept.request().expect("kept"), "b3");
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_of_a_removed_service_pass_to_the_host() {
    let live = Live::new("service").await;
    let daemon = live.run();
    let mut connection = live.connect(VIPS[0]);
    let first = connection.request().expect("answers");
    assert!(first.starts_with('b'), "{first}");
    let yaml = DEFAULT_CONFIG;
    let start = yaml.find("  - name: web\n").expect("is there");
    let end = yaml.find("  - name: web-v6").expect("is there");
    live.write(&format!("{}{}", &yaml[..start], &yaml[end..]));
    daemon.wait_for("- service web (tcp 192.0.2.10:80)", SOON);
    // The director's host has the address and no listener at this port.
    let refused = live.get(VIPS[0]).expect_err("no service");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    assert_eq!(connection.request().expect_err("no service").kind(), ErrorKind::ConnectionReset);
    assert_eq!(live.spread(VIPS[1], 20).values().sum::<usize>(), 20);
    daemon.clear_log();
    live.write(yaml);
    daemon.wait_for("+ service web (tcp 192.0.2.10:80)", SOON);
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    daemon.end(Signal::SIGTERM);
}

/// Changes the MAC address of a backend without announcing it.
async fn change_mac(live: &Live, node: &str, byte: u8) {
    let netlink = live.netlink(node);
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
    let mut mac = eth0.mac;
    mac[1] = byte;
    netlink.set_mac(eth0.index, mac).await.expect("another MAC");
}

/// Announces the addresses of every backend on the link.
async fn announce(live: &Live) {
    for node in ["b1", "b2", "b3"] {
        let netlink = live.netlink(node);
        let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
        for &own in live.node(node).addresses() {
            netlink.announce(eth0, own).await.expect("announced");
        }
    }
}

/// Whether a dozen requests in a row are answered.
fn answers(live: &Live, vip: &str) -> bool {
    (0..12).all(|_| live.get(vip).is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_follows_a_backend_to_another_mac() {
    let live = Live::new("mac").await;
    let daemon = live.run();
    for vip in VIPS {
        assert!(answers(&live, vip));
    }
    for node in ["b1", "b2", "b3"] {
        change_mac(&live, node, 0xee).await;
    }
    announce(&live).await;
    for vip in VIPS {
        wait_until(vip, FOLLOWED, || answers(&live, vip));
    }
    let backends = live.json("backends");
    for backend in backends.as_array().expect("a list") {
        let mac = backend["next_hop"].as_str().expect("known");
        assert!(mac.starts_with("02:ee:"), "{backend}");
    }
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_appears_later_gets_its_packets() {
    let live = Live::new("late").await;
    for node in ["b1", "b2", "b3"] {
        let netlink = live.netlink(node);
        let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
        netlink.set_up(eth0, false).await.expect("down");
    }
    let daemon = live.run();
    let log = daemon.log();
    assert!(log.contains("no answer from 10.0.0.11 on eth0"), "{log}");
    let backends = live.json("backends");
    assert!(backends[0]["next_hop"].is_null(), "{backends}");
    assert!(live.get(VIPS[0]).is_err());
    for node in ["b1", "b2", "b3"] {
        let netlink = live.netlink(node);
        let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
        netlink.set_up(eth0, true).await.expect("up");
        // The routes were removed with the interface.
        restore_routes(&live, node).await;
    }
    announce(&live).await;
    for vip in VIPS {
        wait_until(vip, FOLLOWED, || answers(&live, vip));
    }
    daemon.end(Signal::SIGTERM);
}

/// Restores the default routes of a lab's node.
async fn restore_routes(live: &Live, node: &str) {
    let netlink = live.netlink(node);
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    let place = live.node(node);
    for &own in place.addresses() {
        let bits = if own.is_ipv4() { 32 } else { 128 };
        // IPv6 addresses are removed when an interface goes down.
        netlink.add_address(eth0, own, bits).await.expect("added");
    }
    for (destination, source) in
        [("0.0.0.0", place.ipv4()), ("::", place.ipv6())].map(|(d, s)| (d.parse(), s))
    {
        let route = NewRoute {
            destination: destination.expect("an address"),
            prefix_len: 0,
            gateway: None,
            link_index: eth0,
            onlink: false,
            source,
        };
        let _ = netlink.add_route(route).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_was_down_forwards_again() {
    let live = Live::new("updown").await;
    let daemon = live.run();
    assert!(answers(&live, VIPS[0]));
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    let vip6 = address(VIPS[1]).ip();
    netlink.set_up(eth0, false).await.expect("down");
    assert!(live.get(VIPS[0]).is_err(), "the interface is down");
    netlink.set_up(eth0, true).await.expect("up");
    restore_routes(&live, "director").await;
    netlink.add_address(eth0, vip6, 128).await.expect("the VIP");
    for vip in VIPS {
        wait_until(vip, FOLLOWED, || answers(&live, vip));
    }
    daemon.end(Signal::SIGTERM);
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directors_own_mac_may_change() {
    let live = Live::new("own-mac").await;
    let daemon = live.run();
    assert!(answers(&live, VIPS[0]));
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
    let mac = [2, 0xdd, 0, 0, 0, 0];
    netlink.set_mac(eth0.index, mac).await.expect("another MAC");
    for vip in VIPS {
        netlink.announce(eth0.index, address(vip).ip()).await.expect("announced");
    }
    let client = live.netlink("client1");
    let there = client.link_by_name("eth0").await.expect("eth0").index;
    for vip in VIPS {
        client.remove_neighbour(there, address(vip).ip()).await.expect("removed");
        wait_until(vip, FOLLOWED, || answers(&live, vip));
        assert_eq!(live.spread(vip, 60).len(), 3);
    }
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_misrouted_backend_does_not_affect_the_others() {
    let live = Live::new("astray").await;
    let far = Host::new("astray");
    live.second_network(&far.netns).await;
    let daemon = live.run();
    assert!(answers(&live, VIPS[0]));
    let netlink = live.netlink("director");
    let eth1 = netlink.link_by_name("eth1").await.expect("eth1").index;
    let route = NewRoute {
        destination: ip("10.0.0.11"),
        prefix_len: 32,
        gateway: None,
        link_index: eth1,
        onlink: false,
        source: live.node("director").ipv4(),
    };
    netlink.add_route(route).await.expect("a route");
    daemon.wait_for("backend 10.0.0.11 is reached by eth1, which is not under", SOON);
    for node in ["b2", "b3"] {
        change_mac(&live, node, 0xcc).await;
    }
    announce(&live).await;
    // The misrouted backend keeps its last next hop.
    wait_until("b2 and b3 are followed", FOLLOWED, || answers(&live, VIPS[0]));
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
    let logged = daemon.log().matches("is reached by eth1").count();
    assert_eq!(logged, 1, "{}", daemon.log());
    // A daemon that starts with the same file refuses it.
    daemon.end(Signal::SIGTERM);
    live.director("run -c director.yaml").refused(1).reports(&["10.0.0.11 is reached by eth1"]);
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_removed_interface_does_not_affect_the_others() {
    let live = Live::new("pulled").await;
    let far = Host::new("pulled");
    live.second_network(&far.netns).await;
    let interfaces = "  - name: eth0\n  - name: eth1\n    role: egress\n    assign_vips: true";
    live.write(&DEFAULT_CONFIG.replace("  - name: eth0", interfaces));
    let daemon = live.run();
    live.director("status").succeeded().prints(&["eth0 (native, up), eth1 (native, up)"]);
    let netlink = live.netlink("director");
    let eth1 = netlink.link_by_name("eth1").await.expect("eth1").index;
    netlink.delete_link(eth1).await.expect("removed");
    daemon.wait_for("interface eth1 does not exist", SOON);
    for node in ["b1", "b2", "b3"] {
        change_mac(&live, node, 0xbb).await;
    }
    announce(&live).await;
    for vip in VIPS {
        wait_until(vip, FOLLOWED, || answers(&live, vip));
    }
    assert!(!daemon.log().contains("cannot apply changes of the host"), "{}", daemon.log());

    live.second_network(&far.netns).await;
    wait_until("attached again", FOLLOWED, || {
        live.director("status").stdout.contains("eth0 (native, up), eth1 (native, up)")
    });
    assert_eq!(live.bpf().await.links.len(), 2);
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_interface_is_attached_again() {
    let live = Live::new("anew").await;
    let daemon = live.run();
    let before = live.bpf().await;
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
    let had = netlink.addresses().await.expect("listed");
    netlink.delete_link(eth0.index).await.expect("removed");
    daemon.wait_for("interface eth0 does not exist", SOON);

    let switch = live.netlink("switch");
    let plug = LinkEnd { name: "anew", netns: None, mac: None };
    let there = live.node("director").netns();
    let end = LinkEnd { name: "eth0", netns: Some(there), mac: Some(eth0.mac) };
    switch.create_veth(plug, end).await.expect("another veth pair");
    let port = switch.link_by_name("anew").await.expect("a port").index;
    let bridge = switch.link_by_name("br0").await.expect("a bridge").index;
    switch.set_mtu(port, 1600).await.expect("an MTU");
    switch.set_master(port, Some(bridge)).await.expect("a port");
    for features in ["tx-checksum-", "tx-generic-segmentation", "tx-tcp-"] {
        switch.set_features("anew", features, false).expect("offloads");
    }
    pass_everything(&switch, "anew").await;
    switch.set_up(port, true).await.expect("up");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    netlink.set_mtu(eth0, 1600).await.expect("an MTU");
    netlink.set_up(eth0, true).await.expect("up");
    restore_routes(&live, "director").await;
    for old in had.iter().filter(|a| VIPS.iter().any(|vip| address(vip).ip() == a.address)) {
        netlink.add_address(eth0, old.address, old.prefix_len).await.expect("the VIP");
    }
    for vip in VIPS {
        wait_until(vip, FOLLOWED, || answers(&live, vip));
        assert_eq!(live.spread(vip, 60).len(), 3);
    }
    daemon.wait_for("in effect now", SOON);
    assert_eq!(daemon.log().matches("does not exist").count(), 1, "{}", daemon.log());
    let after = live.bpf().await;
    assert_eq!(after.links.len(), 1, "{after:?}");
    assert_ne!(after.links, before.links);
    live.director("status").succeeded().prints(&["attached   eth0 (native, up)\n"]);
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
    after.wait_until_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_need_a_restart_are_logged() {
    let live = Live::new("sizes").await;
    let daemon = live.run();
    live.write(&format!("flows: {{size: 4Ki}}\n{DEFAULT_CONFIG}"));
    daemon.wait_for("flows.size is 4096, but the running flow table has room for 1048576", SOON);
    daemon.clear_log();
    let rekeyed = format!("hash_key: 000102030405060708090a0b0c0d0e0f\n{DEFAULT_CONFIG}");
    let links = live.bpf().await.links;
    let mut connections: Vec<_> = (0..12).map(|_| live.connect(VIPS[0])).collect();
    let before: Vec<_> = connections.iter_mut().map(|c| c.request().expect("answers")).collect();
    live.write(&rekeyed);
    daemon.wait_for("hash_key changed: known flows are no longer recognised", FOLLOWED);
    daemon.wait_for("configuration applied", SOON);
    assert_eq!(live.bpf().await.links, links, "replaced in place");
    // The probability that all twelve flows find their backend again is at most one in ten
    // thousand.
    let after = connections.iter_mut().map(Connection::request);
    let lost = after.zip(&before).filter(|(now, was)| now.as_ref().ok() != Some(was)).count();
    assert!(lost > 0, "the warning is obsolete");
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_backend_that_does_not_answer_delays_no_other() {
    let live = Live::new("silent").await;
    let daemon = live.run();
    let load = Load::start(live.node("client1"), address(VIPS[0]));
    // With weight 0 it gets no flows, but its neighbour is resolved.
    let silent =
        "      - {address: 10.0.0.13, weight: 3}\n      - {address: 10.0.0.99, weight: 0}\n";
    live.write(&DEFAULT_CONFIG.replace("      - {address: 10.0.0.13, weight: 3}\n", silent));
    daemon.wait_for("backend 10.0.0.99 weight 0", SOON);
    let totals = load.stop();
    assert_eq!(totals.errors, Vec::<String>::new());
    daemon.end(Signal::SIGTERM);
}
