//! Migrating service by service on a host where IPVS still serves the rest (docs/migrating.md),
//! against a stock kernel's IPVS and the real ipvsadm.

#[path = "vm/machine.rs"]
mod machine;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use director_tests::live::{Finished, Live, address, command, finish, wait_until};
use director_userspace::setup::lab::Node;
use nix::sys::signal::Signal;
use xtask::vm::{KernelVersion, Packages};

/// The configuration of the lab: the services that IPVS serves.
const LAB: &str = r#"
interfaces: [{name: eth0}]
services:
  - name: web
    address: 192.0.2.10
    protocol: tcp
    port: 80
    forward: direct
    backends: [{address: 10.0.0.11}, {address: 10.0.0.12}]
  - name: shop
    address: 192.0.2.20
    protocol: tcp
    port: 80
    forward: tunnel
    backends: [{address: 10.0.0.12}, {address: 10.0.0.13}]
  - name: other
    address: 192.0.2.30
    protocol: tcp
    port: 80
    forward: direct
    backends: [{address: 10.0.0.13, weight: 65535}]
"#;

/// The same as ipvsadm saves it.
const RULES: &str = "\
-A -t 192.0.2.10:80 -s mh -b mh-port
-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1
-a -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1
-A -t 192.0.2.20:80 -s mh -b mh-port
-a -t 192.0.2.20:80 -r 10.0.0.12:80 -i -w 1 --tun-type ipip
-a -t 192.0.2.20:80 -r 10.0.0.13:80 -i -w 1 --tun-type ipip
-A -t 192.0.2.30:80 -s mh -b mh-port
-a -t 192.0.2.30:80 -r 10.0.0.13:80 -g -w 65535
";

const WEB: &str = "192.0.2.10:80";
const SHOP: &str = "192.0.2.20:80";
/// Connections that stay open while services migrate.
const OPEN: usize = 8;
/// An emulated machine is slow, mostly while verifying the program, which happens once.
const TIMEOUT: Duration = Duration::from_secs(20);
const START: Duration = Duration::from_secs(150);
/// The whole test takes two minutes on an idle host.
const WHOLE: Duration = Duration::from_secs(480);
/// IPVS adds up its counters every two seconds, on a thread that an emulated machine may delay.
const COUNTING: Duration = Duration::from_secs(5);
/// How long it may take until the counters are updated.
const COUNTED: Duration = Duration::from_secs(30);

#[test]
fn services_migrate_one_by_one_while_ipvs_serves_the_rest() {
    let test = "services_migrate_one_by_one_while_ipvs_serves_the_rest";
    let equip = |vm: xtask::vm::Vm| {
        let packages = Packages::fetch("peers", &["ipvsadm", "nftables"]).expect("fetched");
        // On a busy host the emulated timer may fail the kernel's timer check.
        let vm = vm.modules(["ip_vs", "ip_vs_mh"]).cmdline("no_timer_check").timeout(WHOLE);
        vm.program(&packages, "ipvsadm", "/host/ipvsadm").expect("there")
    };
    machine::within(KernelVersion::V6_12, test, equip, || {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(migrate());
    });
}

async fn migrate() {
    let live = Live::with("moving", LAB).await;
    for name in ["b1", "b2", "b3"] {
        serve(live.node(name), name);
    }
    let restored = ipvsadm(&live, &["-R"], RULES);
    assert!(restored.is_empty(), "{restored}");
    let daemon = live.spawn_run();
    daemon.wait_for("running with", START);
    same_listings(&live);

    // The dump becomes a configuration.
    let dump = live.directory().join("lvs.rules");
    fs::write(&dump, ipvsadm(&live, &["-S", "-n"], "")).expect("writable");
    let mut import = command(&["import", "ipvsadm", "--interface", "eth0"]);
    import.arg(&dump);
    let imported = finish(import).succeeded().reports(&["3 of 3 services carried over"]);
    let without = |moved: &[&str]| {
        let blocks = imported.stdout.split("\n\n");
        let kept = blocks.filter(|block| !moved.iter().any(|vip| block.contains(vip)));
        kept.collect::<Vec<_>>().join("\n\n")
    };
    put(&live, &without(&["192.0.2.10", "192.0.2.20"]), &["192.0.2.30"]);

    // IPVS serves both.
    let mut web = open(&live, WEB);
    let mut shop = open(&live, SHOP);
    wait_until("IPVS has counted", COUNTED, || {
        ipvs_packets(&live, WEB) > 0 && ipvs_packets(&live, SHOP) > 0
    });

    // The first service migrates.
    put(&live, &without(&["192.0.2.20"]), &["192.0.2.10", "192.0.2.30"]);
    thread::sleep(COUNTING);
    let before = (ipvs_packets(&live, WEB), ipvs_packets(&live, SHOP));
    let mut moved = open(&live, WEB);
    for connection in &mut shop {
        connection.request().expect("connections of the remaining service stay");
    }
    open(&live, SHOP);
    wait_until("IPVS serves the other", COUNTED, || ipvs_packets(&live, SHOP) > before.1);
    let after = ipvs_packets(&live, WEB);
    assert_eq!(after, before.0, "IPVS gets no packet of the migrated service");
    assert!(director_packets(&live, WEB) > 0);
    counts_connections(&live);

    // Connections that were open continue where the ring agrees, and are reset elsewhere.
    let survivors = web.iter_mut().filter_map(|connection| {
        let was = connection.name.clone();
        connection.request().ok().map(|name| assert_eq!(name, was, "another server answers"))
    });
    println!("{} of {OPEN} connections survived the migration", survivors.count());

    // The second service migrates: the first is not affected.
    put(&live, &without(&[]), &["192.0.2.10", "192.0.2.20", "192.0.2.30"]);
    let mut moved_too = open(&live, SHOP);
    for connection in moved.iter_mut().chain(&mut moved_too) {
        connection.request().expect("connections of migrated services stay");
    }
    assert_eq!(ipvs_packets(&live, WEB), before.0);

    // IPVS is not needed any more.
    ipvsadm(&live, &["-C"], "");
    open(&live, WEB);
    open(&live, SHOP);
    for connection in moved.iter_mut().chain(&mut moved_too) {
        connection.request().expect("IPVS is not needed");
    }

    // Migrates back: the director's rules are exported to IPVS.
    let exported = live.director("export ipvsadm").succeeded().stdout;
    assert_eq!(sorted(&exported), sorted(RULES));
    ipvsadm(&live, &["-R"], &exported);
    daemon.end(Signal::SIGTERM);
    live.detach();
    open(&live, WEB);
    open(&live, SHOP);
    wait_until("IPVS has counted again", COUNTED, || {
        ipvs_packets(&live, WEB) > 0 && ipvs_packets(&live, SHOP) > 0
    });
}

/// Without traffic, `director ipvs` prints what `ipvsadm` prints, except for the size of the table
/// and the timeouts.
fn same_listings(live: &Live) {
    for columns in ["", " --stats", " --rate", " --thresholds", " --persistent-conn"] {
        let line = format!("-Ln{columns}");
        let words: Vec<&str> = line.split(' ').collect();
        let theirs = ipvsadm(live, &words, "");
        let ours = live.director(&format!("ipvs {line}")).succeeded().stdout;
        let rows = |text: &str| text.split_once(")\n").expect("a first line").1.to_owned();
        assert_eq!(rows(&ours), rows(&theirs), "{line}");
        let until = |text: &str| text.split_once('=').expect("a size").0.to_owned();
        assert_eq!(until(&ours), until(&theirs), "{line}");
    }
    let theirs = ipvsadm(live, &["-Lnc"], "");
    let ours = live.director("ipvs -Lnc").succeeded().stdout;
    assert_eq!(ours, theirs, "no connections");
    let theirs = ipvsadm(live, &["-L", "--timeout"], "");
    let ours = live.director("ipvs -L --timeout").succeeded().stdout;
    assert_eq!(theirs, "Timeout (tcp tcpfin udp): 900 120 300\n");
    assert_eq!(ours, "Timeout (tcp tcpfin udp): 7500 120 300\n");
    let saved = ipvsadm(live, &["-S", "-n"], "");
    let exported = live.director("export ipvsadm").succeeded().stdout;
    assert_eq!(sorted(&exported), sorted(&saved), "export equals ipvsadm -S");
}

/// Writes the file, and waits until these are the VIPs that the daemon serves.
fn put(live: &Live, yaml: &str, vips: &[&str]) {
    live.replace(yaml);
    wait_until("the daemon follows the file", TIMEOUT, || {
        let listed = live.director("ipvs -Ln").succeeded().stdout;
        let services = listed.lines().filter(|line| line.starts_with("TCP "));
        let services: Vec<&str> =
            services.filter_map(|line| line.split([' ', ':']).nth(2)).collect();
        services == vips
    });
}

/// The connections to the migrated service are counted at its servers, and listed.
fn counts_connections(live: &Live) {
    let listed = live.director(&format!("ipvs -Ln -t {WEB}")).succeeded().stdout;
    let servers = listed.lines().filter(|line| line.contains("Route"));
    let active: usize = servers
        .map(|line| line.split_whitespace().nth(4).expect("ActiveConn"))
        .map(|number| number.parse::<usize>().expect("a number"))
        .sum();
    let connections = live.director(&format!("ipvs -Lnc -t {WEB}")).succeeded();
    let connections = connections.reports(&["source is -"]).stdout;
    let open = connections.lines().filter(|line| {
        line.starts_with("TCP") && line.contains(" ESTABLISHED -") && line.contains(WEB)
    });
    let open = open.count();
    assert!(active >= OPEN && open >= OPEN, "{listed}{connections}");
    assert!(!listed.contains(SHOP) && !connections.contains(SHOP), "{listed}{connections}");
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.sort_unstable();
    lines
}

/// Runs the real ipvsadm in the director's namespace.
fn ipvsadm(live: &Live, words: &[&str], input: &str) -> String {
    let mut command = Command::new("ipvsadm");
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    live.node("director").place(&mut command).expect("placed");
    let mut child = command.spawn().expect("runs");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("reads");
    let output = child.wait_with_output().expect("ends");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && stderr.is_empty(), "ipvsadm {words:?}: {stderr}");
    String::from_utf8(output.stdout).expect("ASCII")
}

/// Packets that IPVS has forwarded for a service.
fn ipvs_packets(live: &Live, service: &str) -> u64 {
    packets(&ipvsadm(live, &["-Ln", "--stats", "--exact"], ""), service)
}

/// Packets that Director has forwarded, by its own listing.
fn director_packets(live: &Live, service: &str) -> u64 {
    let listed: Finished = live.director("ipvs -Ln --stats --exact").succeeded();
    packets(&listed.stdout, service)
}

fn packets(listing: &str, service: &str) -> u64 {
    let line = listing.lines().find(|line| line.contains(service)).expect(service);
    line.split_whitespace().nth(3).expect("InPkts").parse().expect("a number")
}

/// Answers every byte with the node's name, on port 80 of all its addresses, as long as the process
/// runs.
fn serve(node: &Node, name: &'static str) {
    let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80));
    let listener = node.run(bind).expect("enters").expect("a free port");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut request = [0; 1];
                while stream.read_exact(&mut request).is_ok() {
                    if stream.write_all(name.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A connection that requests the server's name.
struct Connection {
    stream: TcpStream,
    /// The server that answered first.
    name: String,
}

impl Connection {
    fn request(&mut self) -> std::io::Result<String> {
        self.stream.write_all(b"?")?;
        let mut name = [0; 2];
        self.stream.read_exact(&mut name)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }
}

/// Opens connections from the client, and sends one request on each.
fn open(live: &Live, service: &str) -> Vec<Connection> {
    let address: SocketAddr = address(service);
    let connect = || {
        (0..OPEN)
            .map(|_| {
                let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                let mut connection = Connection { stream, name: String::new() };
                connection.name = connection.request()?;
                Ok(connection)
            })
            .collect::<std::io::Result<Vec<_>>>()
    };
    let opened = live.node("client1").run(connect).expect("enters");
    opened.unwrap_or_else(|error| panic!("{service}: {error}"))
}
