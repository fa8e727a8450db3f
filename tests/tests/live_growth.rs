//! Maps that are enlarged under traffic, and what a change writes into them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, thread,
    time::Duration,
};

use aya::maps::{Array, Map, MapData, MapInfo};
use director_common::{
    abi::map,
    service::{RING_CHUNKS, ServiceWord},
};
use director_tests::live::{Live, Load, TIMEOUT, VIPS, address, wait_until};
use director_userspace::setup::lab::DEFAULT_CONFIG;
use nix::sys::signal::Signal;

/// How often a daemon is killed during a change.
const ROUNDS: u64 = 6;
/// Time limit of a change with hundreds of services, with rings built by an unoptimised program.
const LARGE: Duration = Duration::from_secs(60);

/// The built-in configuration and `services` more over the same backends; without a ring if the
/// weight is 0.
fn with_more(services: usize, weight: u32) -> String {
    let mut yaml = DEFAULT_CONFIG.to_owned();
    for n in 0..services {
        let (high, low) = (n / 200, n % 200 + 1);
        let _ = write!(
            yaml,
            "\n  - name: more{n}\n    address: 198.51.{high}.{low}\n    protocol: tcp\n    port: 80\n    \
             forward: tunnel\n    backends:\n      - {{address: 10.0.0.11, weight: {weight}}}\n      \
             - {{address: 10.0.0.12, weight: {weight}}}\n      - {{address: 10.0.0.13, weight: \
             {weight}}}\n"
        );
    }
    yaml
}

/// More rings than fit into the maps of the built-in configuration.
fn more_rings() -> String {
    with_more(70, 1)
}

/// More backends than fit into them.
fn more_backends() -> String {
    with_more(1400, 0)
}

/// The pinned directories, and the sizes of the maps that grow.
fn pins(live: &Live) -> (Vec<String>, BTreeMap<&'static str, u32>) {
    let names = fs::read_dir(live.instance().pins()).expect("pins").flatten();
    let mut names: Vec<_> =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let sizes = ["BACKENDS", "BACKEND_META", "BACKEND_STATS", "RINGS", "FLOWS"];
    let sizes = sizes.map(|name| {
        let pin = live.instance().pins().join("maps").join(name);
        (name, MapInfo::from_pin(pin).expect(name).max_entries())
    });
    (names, sizes.into())
}

/// Packets of each backend of `web`, by address.
fn packets(live: &Live) -> BTreeMap<String, u64> {
    let stats = live.json("stats");
    let services = stats["services"].as_array().expect("a list");
    let web = services.iter().find(|service| service["name"] == "web").expect("web");
    let backends = web["backends"].as_array().expect("a list").iter();
    backends
        .map(|b| {
            let address = b["address"].as_str().expect("text").to_owned();
            (address, b["packets"].as_u64().expect("a number"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_grow_and_no_request_fails() {
    let live = Live::new("grow").await;
    let daemon = live.run();
    let before = live.bpf().await;
    let (names, small) = pins(&live);
    assert_eq!(names, ["links", "maps"]);
    let mut kept: Vec<_> =
        VIPS.iter().flat_map(|vip| [vip; 6]).map(|vip| live.connect(vip)).collect();
    let served: Vec<_> = kept.iter_mut().map(|c| c.request().expect("answers")).collect();
    let load = Load::start(live.node("client1"), address(VIPS[0]));
    wait_until("requests are running", TIMEOUT, || load.so_far().answered() > 20);

    for (yaml, grows) in [
        (more_rings(), ["RINGS"].as_slice()),
        (more_backends(), &["BACKENDS", "BACKEND_META", "BACKEND_STATS"]),
    ] {
        let (_, small) = pins(&live);
        let counted = packets(&live);
        daemon.clear_log();
        live.replace(&yaml);
        daemon.wait_for("configuration applied", LARGE);
        let (names, large) = pins(&live);
        assert_eq!(names, ["links", "maps"], "no leftovers of the change");
        for (name, sizes) in large {
            let grew = sizes > small[name];
            assert_eq!(grew, grows.contains(&name), "{name}: {} -> {sizes}", small[name]);
        }
        for (address, packets) in packets(&live) {
            assert!(packets >= counted[&address], "{address}: {packets} after {counted:?}");
        }
        for (connection, name) in kept.iter_mut().zip(&served) {
            assert_eq!(&connection.request().expect("open still"), name);
        }
        let answered = load.so_far().answered();
        wait_until("requests go on", TIMEOUT, || load.so_far().answered() > answered + 20);
    }
    let totals = load.stop();
    assert_eq!(totals.errors, Vec::<String>::new());
    let after = live.bpf().await;
    assert_eq!(after.links, before.links, "replaced in place");
    assert_ne!(after.programs, before.programs);
    let (_, large) = pins(&live);
    assert_eq!(large["FLOWS"], small["FLOWS"]);
    assert_eq!(live.json("services").as_array().expect("a list").len(), 1402);
    for vip in VIPS {
        assert_eq!(live.spread(vip, 60).len(), 3);
    }
    daemon.end(Signal::SIGTERM);

    // A restart adopts the larger maps, also with a smaller configuration.
    let daemon = live.spawn_run();
    daemon.wait_for("started: nothing to change", LARGE);
    daemon.end(Signal::SIGTERM);
    live.write(DEFAULT_CONFIG);
    live.attach();
    assert_eq!(pins(&live).1, large);
    live.detach();
    after.wait_until_gone();
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_at_any_time_the_next_start_continues() {
    let live = Live::new("killgrow").await;
    let mut daemon = live.run();
    let mut kept = live.connect(VIPS[0]);
    let served = kept.request().expect("answers");
    let load = Load::start(live.node("client1"), address(VIPS[0]));
    let mut states = BTreeSet::new();
    for round in 0..ROUNDS {
        live.replace(&more_backends());
        // The change takes about half a second, and the growth is a part of it.
        thread::sleep(Duration::from_millis(90 * round));
        daemon.end(Signal::SIGKILL);
        let (names, sizes) = pins(&live);
        states.insert((names, sizes["BACKENDS"]));
        assert_eq!(kept.request().expect("forwarding goes on"), served, "round {round}");
        // Readers find consistent maps.
        assert!(!live.json("backends").as_array().expect("a list").is_empty());

        daemon = live.spawn_run();
        daemon.wait_for("running with", LARGE);
        let (names, sizes) = pins(&live);
        assert_eq!(names, ["links", "maps"], "round {round}");
        assert!(sizes["BACKENDS"] > 4200, "round {round}: {sizes:?}");
        assert_eq!(live.json("services").as_array().expect("a list").len(), 1402);
        assert_eq!(kept.request().expect("known still"), served, "round {round}");
        daemon.end(Signal::SIGTERM);
        if round + 1 < ROUNDS {
            // Starts over with small maps.
            live.detach();
            live.write(DEFAULT_CONFIG);
            daemon = live.run();
            kept = live.connect(VIPS[0]);
            assert!(kept.request().is_ok());
            reconnect_to(&mut kept, &live, &served);
        } else {
            daemon = live.spawn_run();
            daemon.wait_for("running with", LARGE);
        }
    }
    println!("killed in these states: {states:?}");
    drop(load);
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
}

/// Reconnects until the same backend serves the connection.
fn reconnect_to(kept: &mut director_tests::live::Connection, live: &Live, served: &str) {
    for _ in 0..200 {
        if kept.request().expect("answers") == served {
            return;
        }
        *kept = live.connect(VIPS[0]);
    }
    panic!("none of 200 connections went to {served}");
}

/// Recreates the leftovers of a process that died between two steps.
#[tokio::test(flavor = "multi_thread")]
async fn interrupted_moves_of_pins_are_completed() {
    let live = Live::new("halfgrow").await;
    live.run().end(Signal::SIGTERM);
    let pins_in = |directory: &str| live.instance().pins().join(directory);
    // Unfinished larger maps, and finished ones of which some have been moved into place.
    fs::create_dir(pins_in("unfinished")).expect("made");
    let spare = MapData::from_pin(pins_in("maps").join("RINGS")).expect("pinned");
    spare.pin(pins_in("unfinished").join("RINGS")).expect("pinned twice");
    fs::create_dir(pins_in("larger")).expect("made");
    fs::rename(pins_in("maps").join("BACKENDS"), pins_in("larger").join("BACKENDS"))
        .expect("moved");

    assert_eq!(live.json("backends").as_array().expect("a list").len(), 6);
    assert_eq!(live.spread(VIPS[0], 60).len(), 3);
    let daemon = live.run();
    let (names, _) = pins(&live);
    assert_eq!(names, ["links", "maps"]);
    live.write(&DEFAULT_CONFIG.replace("weight: 3", "weight: 30"));
    daemon.wait_for("weight 3 -> 30", TIMEOUT);
    assert_eq!(live.spread(VIPS[0], 60).values().sum::<usize>(), 60);
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
}

/// The same of a director of the version before, whose maps have other names.
#[tokio::test(flavor = "multi_thread")]
async fn interrupted_moves_of_the_version_before_are_completed() {
    let live = Live::new("halfolder").await;
    live.run().end(Signal::SIGTERM);
    let (maps, larger) =
        (live.instance().pins().join("maps"), live.instance().pins().join("larger"));
    for (former, now) in map::FORMER {
        fs::rename(maps.join(now), maps.join(former)).expect(former);
    }
    // The smaller map is still in place.
    fs::create_dir(&larger).expect("made");
    let moved = MapData::from_pin(maps.join("BACKEND_NOTES")).expect("pinned");
    moved.pin(larger.join("BACKEND_NOTES")).expect("pinned twice");
    fs::remove_file(maps.join("BACKEND_NOTES")).expect("removed");
    let smaller = MapData::from_pin(maps.join("SERVICE_NOTES")).expect("pinned");
    smaller.pin(maps.join("BACKEND_NOTES")).expect("a map that must not be opened");

    assert_eq!(live.json("backends web")[2]["weight"], 3);
    let daemon = live.run();
    assert_eq!(pins(&live).0, ["links", "maps"]);
    assert!(
        map::FORMER
            .iter()
            .all(|(former, now)| { maps.join(now).exists() && !maps.join(former).exists() })
    );
    live.write(&DEFAULT_CONFIG.replace("weight: 3", "weight: 30"));
    daemon.wait_for("weight 3 -> 30", TIMEOUT);
    daemon.end(Signal::SIGTERM);
    live.detach();
    live.assert_nothing_attached().await;
}

/// Every value of the maps that userspace writes, by map and index.
fn contents(live: &Live) -> BTreeMap<&'static str, Vec<Vec<u64>>> {
    let names = [
        "META",
        "FLOWS",
        "BACKENDS",
        "SERVICES",
        "SERVICE_META",
        "BACKEND_META",
        "RINGS",
        "INTERFACES",
    ];
    names.map(|name| (name, values(live, name))).into()
}

fn values(live: &Live, name: &str) -> Vec<Vec<u64>> {
    let pin = live.instance().pins().join("maps").join(name);
    let open = || MapData::from_pin(&pin).expect(name);
    fn all<const N: usize>(data: MapData) -> Vec<Vec<u64>> {
        let array: Array<_, [u64; N]> = Array::try_from(Map::Array(data)).expect("an array");
        array.iter().map(|value| value.expect("read").to_vec()).collect()
    }
    match MapInfo::from_pin(&pin).expect(name).value_size() {
        8 => all::<1>(open()),
        16 => all::<2>(open()),
        64 => all::<8>(open()),
        96 => all::<12>(open()),
        128 => all::<16>(open()),
        other => panic!("{name} has values of {other} bytes"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_writes_into_its_own_service_only() {
    let live = Live::new("ownmaps").await;
    let yaml = format!("flows: {{size: 1Ki}}\n{}", with_more(20, 1));
    live.write(&yaml);
    let daemon = live.run();
    let before = contents(&live);
    live.replace(&yaml.replace("weight: 3}\n\n  - name: web-v6", "weight: 7}\n\n  - name: web-v6"));
    daemon.wait_for("backend 10.0.0.13: weight 3 -> 7", TIMEOUT);
    daemon.wait_for("ring over 3 backends", TIMEOUT);
    let log = daemon.log();
    let applied = log.split("configuration applied").nth(1).expect("applied");
    assert_eq!(applied.matches("backend ").count(), 1, "{applied}");
    let after = contents(&live);

    let changed = |name: &str| -> Vec<usize> {
        let pairs = before[name].iter().zip(&after[name]).enumerate();
        pairs.filter(|(_, (old, new))| old != new).map(|(at, _)| at).collect()
    };
    let services = changed("SERVICES");
    let [service] = services.as_slice() else { panic!("services {services:?} were written") };
    let (old, new) = (&before["SERVICES"][*service], &after["SERVICES"][*service]);
    let words: Vec<usize> = (0..8).filter(|word| old[*word] != new[*word]).collect();
    assert_eq!(words, [0, 5], "the ring's index and fingerprint");
    // Its new ring, in a free slot, and no other ring.
    let first = ServiceWord(new[0]).first_chunk() as usize;
    let ring = first..first + RING_CHUNKS as usize;
    let chunks = changed("RINGS");
    assert!(chunks.iter().all(|chunk| ring.contains(chunk)), "outside of {ring:?}");
    assert!(chunks.len() > 4000, "{} chunks of the ring", chunks.len());
    // The backend's weight.
    let metas = changed("BACKEND_META");
    assert_eq!(metas.len(), 1);
    let weight_and_check = |all: &[Vec<u64>]| (all[metas[0]][1] as u32, all[metas[0]][1] >> 32);
    let (old, new) =
        (weight_and_check(&before["BACKEND_META"]), weight_and_check(&after["BACKEND_META"]));
    assert_eq!((new.0, new.1), (7, old.1), "the weight, and not the address's check");
    for name in ["META", "FLOWS", "BACKENDS", "SERVICE_META", "INTERFACES"] {
        assert_eq!(changed(name), Vec::<usize>::new(), "{name}");
    }
    daemon.end(Signal::SIGTERM);
    live.detach();
}
