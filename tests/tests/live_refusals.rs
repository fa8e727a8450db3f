//! Conditions that keep a director from starting on a host: each is one clear error with exit code
//! 1, and nothing is changed.

use std::{fs, os::unix::process::CommandExt as _, process::Command};

use aya::maps::{Array, Map, MapData};
use director_common::abi::{ABI_VERSION, OLDEST_ADOPTED, map};
use director_tests::live::{
    Finished, Host, Live, TIMEOUT, VIPS, binary, command, finish, ip, pass_everything,
};
use director_userspace::{
    kernel::{
        datapath::{self, Instance},
        net::NewRoute,
    },
    setup::lab::DEFAULT_CONFIG,
};

const NOBODY: u32 = 65534;

/// `attach` and `run` are refused with one error each that has these words, and change nothing.
async fn refused(live: &Live, words: &[&str]) {
    for line in ["attach -c director.yaml", "run -c director.yaml"] {
        live.director(line).refused(1).reports(words);
        assert!(!live.instance().pins().exists(), "{line}: pins are left");
        let neighbours = live.netlink("director").neighbours().await.expect("listed");
        let managed: Vec<_> = neighbours.iter().filter(|n| n.managed).collect();
        assert!(managed.is_empty(), "{line}: {managed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_or_unsuitable_interfaces() {
    let live = Live::with("interface", DEFAULT_CONFIG).await;
    // `run` waits for it: see `live_reconciler`.
    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: eth7"));
    live.director("attach -c director.yaml")
        .refused(1)
        .reports(&["interface eth7 does not exist on this host; there are: lo, eth0"]);
    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: lo"));
    refused(&live, &["lo has no Ethernet header"]).await;
    live.write(&DEFAULT_CONFIG.replace("interfaces:\n  - name: eth0\n", ""));
    refused(&live, &["names no interface to attach to", "interfaces: [{name: eth0}]"]).await;
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_interface_is_reported() {
    let live = Live::with("interfaces", DEFAULT_CONFIG).await;
    live.write(&DEFAULT_CONFIG.replace("  - name: eth0", "  - name: eth7\n  - name: eth8"));
    let attach = live.director("attach -c director.yaml");
    assert_eq!(attach.code, Some(1), "{attach:?}");
    attach.reports(&["error: interface eth7 does not", "error: interface eth8 does not"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_macvlan_has_no_native_xdp() {
    let live = Live::with("macvlan", DEFAULT_CONFIG).await;
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    netlink.create_macvlan("mac0", eth0).await.expect("a macvlan");
    // Backends stay behind eth0.
    let interfaces = "interfaces:\n  - name: mac0\n  - name: eth0\n";
    live.write(&DEFAULT_CONFIG.replace("interfaces:\n  - name: eth0\n", interfaces));
    refused(&live, &["mac0 has no native XDP", "mode: generic"]).await;
    let reversed = "interfaces:\n  - name: eth0\n  - name: mac0\n";
    live.write(&DEFAULT_CONFIG.replace("interfaces:\n  - name: eth0\n", reversed));
    refused(&live, &["mac0 has no native XDP", "mode: generic"]).await;
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_with_a_foreign_program() {
    let live = Live::with("foreign", DEFAULT_CONFIG).await;
    let netlink = live.netlink("director");
    pass_everything(&netlink, "eth0").await;
    let program = netlink.link_by_name("eth0").await.expect("eth0").xdp.expect("is there");
    let id = format!("(id {})", program.prog_id);
    refused(&live, &["eth0 already carries the XDP program pass", &id, "xdp off"]).await;
    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: eth0\n    mode: generic"));
    refused(&live, &["eth0 already carries the XDP program pass", &id]).await;
    let still = netlink.link_by_name("eth0").await.expect("eth0").xdp;
    assert_eq!(still, Some(program), "the foreign program stays attached");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_with_another_instances_program() {
    let live = Live::new("other").await;
    live.attach();
    let other = Instance::new(&format!("{}-o", live.instance().name())).expect("a name");
    let mut command = command(&["attach", "-c", "director.yaml", "--instance", other.name()]);
    command.current_dir(live.directory());
    live.node("director").place(&mut command).expect("placed");
    let attach = finish(command);
    let _ = fs::remove_dir_all(other.run_dir());
    let left = other.pins().exists();
    let _ = datapath::detach(&other, &[]);
    attach.refused(1).reports(&["eth0 already carries the XDP program director"]);
    assert!(!left, "pins of the other instance are left");
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    live.detach();
}

/// A running instance refuses an impossible change and continues unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_of_a_running_director_changes_nothing() {
    let live = Live::new("at-work").await;
    let far = Host::new("at-work");
    live.second_network(&far.netns).await;
    pass_everything(&live.netlink("director"), "eth1").await;
    live.attach();
    let before = live.bpf().await;
    let weights = || {
        let backends = live.json("backends");
        let backends = backends.as_array().expect("a list").iter();
        backends.map(|backend| backend["weight"].clone()).collect::<Vec<_>>()
    };
    let unchanged = weights();
    let changed = DEFAULT_CONFIG
        .replace("weight: 3", "weight: 9")
        .replace("  - name: eth0", "  - name: eth0\n  - name: eth1");
    live.write(&changed);
    live.director("attach -c director.yaml").refused(1).reports(&["eth1 already carries"]);
    assert_eq!(weights(), unchanged);
    assert_eq!(live.bpf().await.links, before.links);
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);

    // The same with a daemon.
    live.write(DEFAULT_CONFIG);
    let daemon = live.run();
    live.write(&changed);
    daemon.wait_for("refused, the configuration in effect stays", TIMEOUT);
    assert!(daemon.log().contains("eth1 already carries"), "{}", daemon.log());
    assert_eq!(weights(), unchanged);
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_that_cannot_be_reached_as_configured() {
    let live = Live::with("paths", DEFAULT_CONFIG).await;
    let netlink = live.netlink("director");
    let eth0 = netlink.link_by_name("eth0").await.expect("eth0").index;
    let node = live.node("director");

    let direct = DEFAULT_CONFIG.replace("forward: tunnel", "forward: direct");
    let by_router = |backend: &str, gateway: &str, source| NewRoute {
        destination: ip(backend),
        prefix_len: if ip(backend).is_ipv4() { 32 } else { 128 },
        gateway: Some(ip(gateway)),
        link_index: eth0,
        onlink: true,
        source,
    };
    let v4 = by_router("10.0.0.11", "10.0.0.12", node.ipv4());
    netlink.add_route(v4).await.expect("a route");
    live.write(&direct);
    let off_link = "is reached via 10.0.0.12, but `forward: direct` only reaches";
    refused(&live, &["service web: backend 10.0.0.11", off_link, "forward: tunnel"]).await;
    netlink.remove_route(v4).await.expect("removed");
    let v6 = by_router("2001:db8:1::11", "2001:db8:1::12", node.ipv6());
    netlink.add_route(v6).await.expect("a route");
    live.write(DEFAULT_CONFIG);
    let off_link = "service web-v6: backend 2001:db8:1::11 is reached via 2001:db8:1::12";
    refused(&live, &[off_link]).await;
    netlink.remove_route(v6).await.expect("removed");

    let own = node.ipv4().expect("has one").to_string();
    live.write(&DEFAULT_CONFIG.replace("10.0.0.12", &own));
    refused(&live, &[&format!("service web: backend {own} is an address of this host")]).await;

    let far = Host::new("paths");
    live.second_network(&far.netns).await;
    let eth1 = netlink.link_by_name("eth1").await.expect("eth1").index;
    netlink.add_address(eth1, ip("10.9.0.1"), 24).await.expect("an address");
    live.write(&DEFAULT_CONFIG.replace("10.0.0.12", "10.9.0.2"));
    let other = "backend 10.9.0.2 is reached by eth1, which is not under `interfaces`";
    refused(&live, &[other, "{name: eth1, role: egress}"]).await;
    live.assert_nothing_attached().await;
}

/// Commands that need privileges.
const PRIVILEGED: [&str; 4] =
    ["attach -c director.yaml", "run -c director.yaml", "detach", "status"];

#[tokio::test(flavor = "multi_thread")]
async fn missing_privileges_of_user_nobody_are_reported() {
    let live = Live::with("nobody", DEFAULT_CONFIG).await;
    live.attach();
    // A copy that user nobody can access, whatever the permissions of the build's directory.
    let copy = live.directory().join("director");
    fs::copy(binary(), &copy).expect("copied");
    let as_nobody = |line: &str| {
        let mut command = Command::new(&copy);
        command.args(line.split(' ')).args(["--instance", live.instance().name()]);
        // Not in the lab's namespace, which user nobody cannot enter; the command fails earlier.
        command.uid(NOBODY).gid(NOBODY).current_dir(live.directory());
        finish(command).refused(1)
    };
    for line in ["attach -c director.yaml", "run -c director.yaml"] {
        as_nobody(line).reports(&[
            "lacks CAP_BPF",
            "CAP_PERFMON",
            "CAP_NET_ADMIN",
            "run it as root",
        ]);
    }
    for line in ["detach", "status", "services", "backends", "stats", "plan -c director.yaml"] {
        let output = as_nobody(line).reports(&["root"]);
        assert!(!output.stderr.contains("is not attached"), "it is: {}", output.stderr);
        assert!(!output.stderr.contains("running daemon"), "none runs: {}", output.stderr);
    }
    live.director("status").succeeded().prints(&["eth0 (native, up)"]);
    live.detach();
}

/// Runs `director` on the director's node through a wrapper program.
fn wrapped(live: &Live, wrapper: &[&str], line: &str) -> Finished {
    let mut outer = Command::new(wrapper[0]);
    outer.args(&wrapper[1..]).arg(binary()).args(line.split(' '));
    outer.args(["--instance", live.instance().name()]).current_dir(live.directory());
    live.node("director").place(&mut outer).expect("placed");
    finish(outer)
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_capabilities_of_root_are_reported() {
    let live = Live::with("caps", DEFAULT_CONFIG).await;
    let none = ["setpriv", "--bounding-set=-all"];
    for line in &PRIVILEGED[..2] {
        wrapped(&live, &none, line).refused(1).reports(&[
            "this process lacks CAP_BPF",
            "CAP_PERFMON",
            "CAP_NET_ADMIN",
        ]);
    }
    let no_net = ["setpriv", "--bounding-set=-net_admin"];
    let output = wrapped(&live, &no_net, PRIVILEGED[0]).refused(1).reports(&["CAP_NET_ADMIN"]);
    assert!(!output.stderr.contains("CAP_BPF"), "{}", output.stderr);
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_capabilities_are_enough() {
    let mut live = Live::with("three", DEFAULT_CONFIG).await;
    live.serve(&["b1", "b2", "b3"]);
    // CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
    let three = ["setpriv", "--bounding-set=-all,+net_admin,+cap_38,+cap_39"];
    wrapped(&live, &three, "attach -c director.yaml").succeeded();
    for vip in VIPS {
        assert_eq!(live.spread(vip, 20).values().sum::<usize>(), 20);
    }
    wrapped(&live, &three, "status").succeeded().prints(&["eth0 (native, up)"]);
    wrapped(&live, &three, "detach").succeeded();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bpffs_is_mounted_where_it_is_missing() {
    let live = Live::with("bpffs", DEFAULT_CONFIG).await;
    // A separate mount namespace, which ends with the shell.
    let script = "umount -l /sys/fs/bpf && test ! -e /sys/fs/bpf/director && \
                  \"$@\" && grep -q ' /sys/fs/bpf bpf ' /proc/mounts";
    let unshared = ["unshare", "--mount", "sh", "-ec", script, "sh"];
    wrapped(&live, &unshared, "attach -c director.yaml").succeeded().prints(&["attached to eth0"]);
    live.assert_nothing_attached().await;

    let script = "umount -l /sys/fs/bpf && \
                  exec setpriv --bounding-set=-all,+net_admin,+cap_38,+cap_39 \"$@\"";
    let unshared = ["unshare", "--mount", "sh", "-ec", script, "sh"];
    wrapped(&live, &unshared, "attach -c director.yaml")
        .refused(1)
        .reports(&["/sys/fs/bpf is not a BPF file system", "mount -t bpf bpf /sys/fs/bpf"]);
    live.assert_nothing_attached().await;
}

fn meta(live: &Live) -> Array<MapData, [u8; 96]> {
    let pin = live.instance().pins().join("maps/META");
    let data = MapData::from_pin(pin).expect("pinned");
    Map::Array(data).try_into().expect("an array")
}

/// The layout version in the pinned maps.
fn version(live: &Live) -> u32 {
    let value = meta(live).get(&0, 0).expect("there");
    u32::from_ne_bytes(*value.first_chunk().expect("four bytes"))
}

/// Sets the layout version in the pinned maps.
fn set_version(live: &Live, version: u32) {
    let mut meta = meta(live);
    let mut value = meta.get(&0, 0).expect("there");
    // The version is the first word.
    value[..4].copy_from_slice(&version.to_ne_bytes());
    meta.set(0, value, 0).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_of_another_version_are_never_reinterpreted() {
    let live = Live::new("abi").await;
    live.attach();
    let before = live.bpf().await;
    set_version(&live, 99);
    for line in [
        "attach -c director.yaml",
        "run -c director.yaml",
        "plan -c director.yaml",
        "status",
        "services",
        "backends",
        "stats",
    ] {
        live.director(line).refused(1).reports(&["map layout 99", "detach"]);
    }
    assert_eq!(live.bpf().await, before, "nothing was changed");
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    live.detach();
    live.assert_nothing_attached().await;
    before.wait_until_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_of_the_previous_version_are_adopted_and_connections_stay() {
    let live = Live::new("older").await;
    live.attach();
    let mut connection = live.connect(VIPS[0]);
    let name = connection.request().expect("answers");
    let before = live.bpf().await;
    set_version(&live, OLDEST_ADOPTED);
    let maps = live.instance().pins().join("maps");
    let there = |name: &str| maps.join(name).exists();
    for (former, now) in map::FORMER {
        fs::rename(maps.join(now), maps.join(former)).expect(former);
    }
    for line in ["status", "services", "backends", "stats"] {
        live.json(line);
    }
    assert!(map::FORMER.iter().all(|(former, now)| there(former) && !there(now)), "only read");
    live.attach();
    assert_eq!(connection.request().expect("open still"), name);
    assert_eq!(live.bpf().await.links, before.links, "the same links");
    assert_eq!(version(&live), ABI_VERSION);
    assert!(map::FORMER.iter().all(|(former, now)| !there(former) && there(now)), "renamed");
    assert_eq!(live.json("services")[0]["flows"], 1, "the same maps");
    // A rename that was broken off is gone on with.
    fs::rename(maps.join(map::TUNABLES), maps.join("RUNTIME")).expect("renamed");
    live.attach();
    assert_eq!(connection.request().expect("open still"), name);
    assert!(there(map::TUNABLES) && !there("RUNTIME"));
    live.detach();
}

/// A director that was killed midway through creating its maps.
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_killed_start_are_replaced() {
    let live = Live::new("halfway").await;
    live.attach();
    // The version is written last, before programs are attached.
    set_version(&live, 0);
    let maps = live.instance().pins().join("maps");
    for name in ["TUNABLES", "SERVICE_STATS", "VERDICTS"] {
        fs::remove_file(maps.join(name)).expect(name);
    }
    for pin in fs::read_dir(live.instance().pins().join("links")).expect("listed").flatten() {
        fs::remove_file(pin.path()).expect("removed");
    }
    live.director("status").refused(1).reports(&["is not attached"]);
    live.attach();
    for vip in VIPS {
        assert_eq!(live.spread(vip, 20).values().sum::<usize>(), 20);
    }
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_configurations_exit_2_and_change_nothing() {
    let live = Live::with("config", DEFAULT_CONFIG).await;
    live.write(&DEFAULT_CONFIG.replace("weight: 3", "weight: 70000"));
    for line in ["attach -c director.yaml", "run -c director.yaml", "plan -c director.yaml"] {
        let output = live.director(line);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        output.reports(&["error: director.yaml:15:38: services[0].backends[2].weight: 70000"]);
    }
    for line in ["attach -c nothing.yaml", "run -c nothing.yaml", "attach -c ."] {
        let output = live.director(line);
        assert_eq!(output.code, Some(2), "{output:?}");
    }
    live.assert_nothing_attached().await;
}
