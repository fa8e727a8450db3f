//! The slow path's log: in the build with the feature `verbose`, and in no other.

use std::{fs, net::UdpSocket, time::Duration};

use director_tests::live::{Live, Program};
use nix::sys::signal::Signal;

const CONFIG: &str = r#"
interfaces: [{name: eth0}]
services:
  - name: nothing
    address: 192.0.2.40
    protocol: udp
    port: 7
    forward: tunnel
    when_empty: drop
    backends: []
"#;

/// How long a line may take: programs are looked for once a second.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn the_verbose_daemon_shows_what_the_slow_path_decides() {
    let live = Live::with("verbose", CONFIG).await;
    let daemon = live.run_as(Program::Verbose);
    let client = live.node("client1");
    let from = client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
        socket.connect("192.0.2.40:7").expect("has a route");
        socket.send(b"?").expect("sends");
        socket.local_addr().expect("bound")
    });
    let from = from.expect("enters");
    let line = format!("protocol 17 {from} -> 192.0.2.40:7: drop no-backend, service 1");
    daemon.wait_for(&line, SOON);
    assert!(daemon.end(Signal::SIGTERM).success());
    live.detach();
}

/// The name of the map with the records is in the object that a program carries, and in nothing else
/// of it.
#[test]
fn no_other_build_can_log() {
    let has = |program: Program| {
        let bytes = fs::read(program.path()).expect("readable");
        bytes.windows(b"AYA_LOGS".len()).any(|part| part == b"AYA_LOGS")
    };
    assert!(has(Program::Verbose), "the search finds it where it is");
    assert!(!has(Program::Director) && !has(Program::Next));
}
