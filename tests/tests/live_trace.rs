//! `director trace` and `capture`: what they report of packets, that they run one at a time, and
//! how they end.

use std::{
    fs::{self, File},
    io::BufReader,
    net::UdpSocket,
    path::PathBuf,
    process::{Child, Command},
    time::Duration,
};

use director_tests::live::{Live, TIMEOUT, command, wait_until};
use director_userspace::{inspect::simulate::Capture, kernel::datapath::Datapath};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const CONFIG: &str = r#"
interfaces: [{name: eth0}]
flows: {size: 64Ki}
services:
  - {name: echo, address: 192.0.2.40, protocol: udp, port: 7, forward: tunnel,
     backends: [{address: 10.0.0.11}, {address: 10.0.0.12}]}
  - {name: empty, address: 192.0.2.41, protocol: udp, port: 7, forward: tunnel, when_empty: drop,
     backends: [{address: 10.0.0.11, weight: 0}]}
"#;

/// The same with more backends than its maps hold.
fn grown() -> String {
    let more = (0..1400).map(|n| {
        format!(
            "  - {{name: more{n}, address: 198.51.{}.{}, protocol: udp, port: 7, forward: tunnel, \
             backends: [{{address: 10.0.0.11, weight: 0}}, {{address: 10.0.0.12, weight: 0}}]}}\n",
            n / 200,
            n % 200 + 1
        )
    });
    CONFIG.to_owned() + &more.collect::<String>()
}

/// A `director` command in the background, its output in files. Killed when dropped.
struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    fn start(live: &Live, line: &str, name: &str) -> Self {
        let running = Self::spawn(live, line, name);
        wait_until("traced", TIMEOUT, || is_traced(live));
        running
    }

    fn spawn(live: &Live, line: &str, name: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = command(&words);
        command.args(["--instance", live.instance().name()]).current_dir(live.directory());
        live.node("director").place(&mut command).expect("placed");
        let [out, err] = ["out", "err"].map(|kind| live.directory().join(format!("{name}.{kind}")));
        let file = |path: &PathBuf| File::create(path).expect("a file");
        let child = command.stdout(file(&out)).stderr(file(&err)).spawn().expect("runs");
        Self { child, out, err }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the process exists");
    }

    /// Waits for its end and returns exit code, stdout and stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        wait_until("ended", TIMEOUT, || self.child.try_wait().expect("waited for").is_some());
        let code = self.child.wait().expect("ended").code();
        let read = |path: &PathBuf| fs::read_to_string(path).expect("read");
        (code, read(&self.out), read(&self.err))
    }

    fn out(&self) -> String {
        fs::read_to_string(&self.out).expect("read")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_traced(live: &Live) -> bool {
    Datapath::open(live.instance()).expect("attached").traced_for_ns().is_some()
}

/// Sends `count` datagrams to `to` from the client, all of one flow.
fn send(live: &Live, to: &str, count: usize) {
    live.node("client1")
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
            for _ in 0..count {
                socket.send_to(b"hello", to).expect("sends");
            }
        })
        .expect("enters");
}

fn objects(lines: &str) -> Vec<serde_json::Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_shown_as_they_are_made() {
    let live = Live::with("trace", CONFIG).await;
    live.attach();
    assert!(!is_traced(&live));
    let running = Running::start(&live, "trace --output json --count 5 --filter udp,port=7", "udp");
    send(&live, "192.0.2.40:7", 3);
    send(&live, "192.0.2.41:7", 1);
    send(&live, "192.0.2.40:8", 1);
    send(&live, "192.0.2.41:7", 1);
    let (code, out, err) = running.end();
    assert_eq!(code, Some(0), "{err}");
    let events = objects(&out);
    let part = |key: &str| events.iter().map(|event| event[key].clone()).collect::<Vec<_>>();
    let null = serde_json::Value::Null;
    let names = |texts: [&str; 5]| texts.map(|t| if t == "-" { null.clone() } else { t.into() });
    assert_eq!(part("verdict"), names(["tx", "tx", "tx", "drop", "drop"]), "{out}");
    assert_eq!(part("reason"), names(["-", "-", "-", "no-backend", "no-backend"]));
    assert_eq!(part("service"), names(["echo", "echo", "echo", "empty", "empty"]));
    assert_eq!(part("connection"), names(["new", "known", "known", "none", "none"]));
    assert_eq!(part("interface"), names(["eth0"; 5]));
    assert!(events[0]["backend"].as_str().expect("an address").starts_with("10.0.0.1"), "{out}");
    assert!(events[0]["time"].as_str().expect("a time").starts_with("20"), "{out}");
    assert_eq!((&events[0]["bytes"], &events[0]["bytes_out"]), (&47.into(), &67.into()), "{out}");
    assert!(err.contains("5 packets shown"), "{err}");
    assert!(!is_traced(&live), "tracing ends with its command");

    // Traced packets are counted and forwarded like others.
    let verdicts = live.verdicts();
    assert_eq!((verdicts["tx"], verdicts["drop/no-backend"]), (3, 2), "{verdicts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_select_packets() {
    let live = Live::with("tracefilter", CONFIG).await;
    let _daemon = live.run();
    let send_both = || {
        send(&live, "192.0.2.40:7", 2);
        send(&live, "192.0.2.41:7", 2);
        send(&live, "192.0.2.40:9", 2);
    };
    for (number, (options, expected)) in [
        ("--drops", "drop no-backend 192.0.2.41:7"),
        ("--filter verdict=no-service,udp,vip=192.0.2.40", "pass no-service 192.0.2.40:9"),
        ("--filter service=echo", "tx - 192.0.2.40:7"),
        ("--filter backend=10.0.0.11,client=0.0.0.0/0", "tx - 192.0.2.40:7"),
        ("--filter port=9", "pass no-service 192.0.2.40:9"),
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!("trace --output json --duration 20s --count 1 {options}");
        let running = Running::start(&live, &line, &format!("filter{number}"));
        // It may take several flows until one goes to a given backend.
        wait_until(options, TIMEOUT, || {
            send_both();
            std::thread::sleep(Duration::from_millis(30));
            !running.out().is_empty()
        });
        let (code, out, err) = running.end();
        assert_eq!(code, Some(0), "{err}");
        let event = &objects(&out)[0];
        let found = format!(
            "{} {} {}",
            event["verdict"].as_str().expect("text"),
            event["reason"].as_str().unwrap_or("-"),
            event["vip"].as_str().expect("text")
        );
        assert_eq!(found, expected, "{options}: {out}");
    }
    live.director("trace --filter service=mail")
        .refused(1)
        .reports(&["no service \"mail\"", "echo"]);
    let wrong = live.director("trace --filter http");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let (code, out, err) = {
        let line = "trace --sample 1/1000000 --duration 1s";
        let running = Running::start(&live, line, "sampled");
        send_both();
        running.end()
    };
    assert_eq!((code, out.as_str()), (Some(0), ""), "one packet in a million: {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_at_a_time_and_none_after_a_kill() {
    let live = Live::with("tracekill", CONFIG).await;
    live.attach();
    let running = Running::start(&live, "trace --filter udp,port=7", "first");
    live.director("trace")
        .refused(1)
        .reports(&["already traces this instance: end that one first", "pid"]);
    live.director("capture -w second.pcapng")
        .refused(1)
        .reports(&["already traces this instance: end that one first"]);
    send(&live, "192.0.2.40:7", 1);
    wait_until("a line", TIMEOUT, || running.out().contains("echo"));
    running.signal(Signal::SIGKILL);
    wait_until("tracing expires", Duration::from_secs(3), || !is_traced(&live));
    drop(running);
    // The next packet finds the lease expired and clears it.
    send(&live, "192.0.2.40:7", 1);
    let verdicts = live.verdicts();
    assert_eq!(verdicts["tx"], 2, "{verdicts:?}");
    let running = Running::start(&live, "trace --filter udp,port=7", "next");
    send(&live, "192.0.2.40:7", 1);
    wait_until("a line", TIMEOUT, || running.out().contains("echo"));
    let out = running.out();
    assert_eq!(out.lines().count(), 2, "a heading and one packet: {out}");
    running.signal(Signal::SIGTERM);
    let (code, _, err) = running.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(!is_traced(&live));
    let attached = live.bpf().await;
    live.detach();
    attached.wait_until_gone();
    assert!(!live.instance().run_dir().exists(), "nothing is left in /run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_has_frames_before_and_after() {
    let live = Live::with("capture", CONFIG).await;
    live.attach();
    let running =
        Running::start(&live, "capture -w packets.pcapng --count 3 --filter udp,port=7", "capture");
    send(&live, "192.0.2.40:7", 2);
    send(&live, "192.0.2.41:7", 1);
    let (code, _, err) = running.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("3 packets captured as 5 frames"), "{err}");
    let path = live.directory().join("packets.pcapng");
    let mut capture =
        Capture::new(BufReader::new(File::open(&path).expect("there"))).expect("pcapng");
    let mut frames = Vec::new();
    while let Some(packet) = capture.next_packet().expect("whole") {
        assert_eq!(packet.original_length as usize, packet.bytes.len());
        frames.push(packet);
    }
    let lengths: Vec<_> = frames.iter().map(|frame| frame.bytes.len()).collect();
    assert_eq!(lengths, [47, 67, 47, 67, 47]);
    for pair in [&frames[..2], &frames[2..4]] {
        // The inner packet equals the received one.
        assert_eq!(pair[0].bytes[14..], pair[1].bytes[34..]);
        assert!(pair[0].timestamp_ns < pair[1].timestamp_ns);
    }
    opened_by_tshark(&path);

    let running = Running::start(
        &live,
        "capture -w short.pcapng --count 1 --snaplen 40 --filter udp,port=7",
        "short",
    );
    send(&live, "192.0.2.40:7", 1);
    assert_eq!(running.end().0, Some(0));
    let file = File::open(live.directory().join("short.pcapng")).expect("there");
    let mut capture = Capture::new(BufReader::new(file)).expect("pcapng");
    let first = capture.next_packet().expect("whole").expect("a frame");
    assert_eq!((first.bytes.len(), first.original_length), (40, 47));
}

/// Checks the file with Wireshark, if installed (`cargo xtask setup`).
fn opened_by_tshark(path: &std::path::Path) {
    const FIELDS: [&str; 6] = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.comment",
        "ip.dst",
        "udp.dstport",
        "frame.len",
    ];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path).args(["-T", "fields", "-E", "separator=;"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let Ok(output) = command.output() else {
        println!("tshark is not installed: its check is skipped");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(';').collect()).collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!((lines[0][0], lines[1][0], lines[4][0]), ("before", "after", "before"), "{text}");
    for (line, direction) in lines.iter().zip([1, 2, 1, 2, 1]) {
        let shown = line[1].trim_start_matches("0x").trim_start_matches('0');
        assert_eq!(shown, direction.to_string(), "{text}");
    }
    assert!(lines[0][2].contains("verdict=tx service=echo backend=10.0.0.1"), "{text}");
    assert!(lines[4][2].contains("verdict=drop reason=no-backend service=empty"), "{text}");
    assert_eq!((lines[0][3], lines[0][4], lines[0][5]), ("192.0.2.40", "7", "47"), "{text}");
    // Both headers of a tunnel.
    assert!(lines[1][3].starts_with("10.0.0.1") && lines[1][3].ends_with(",192.0.2.40"), "{text}");
}

/// An older director of the same version lacks some maps.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_director_is_adopted() {
    let live = Live::with("traceold", CONFIG).await;
    live.attach();
    for name in
        ["TRACED", "TRACE_FILTER", "TRACE_TURNS", "TRACE_SCRATCH", "TRACE_RING", "FLOW_KEYS"]
    {
        fs::remove_file(live.instance().pins().join("maps").join(name)).expect(name);
    }
    live.director("trace").refused(1).reports(&["cannot be traced", "director attach"]);
    live.director("stats").succeeded();
    live.director("conns").succeeded();
    live.director("explain udp 198.51.100.7:4 192.0.2.40:7").succeeded().prints(&["echo"]);
    send(&live, "192.0.2.40:7", 1);
    live.attach().prints(&["nothing to change"]);
    let running = Running::start(&live, "trace --count 1 --filter udp,port=7", "adopted");
    send(&live, "192.0.2.40:7", 1);
    let (code, out, err) = running.end();
    assert!(code == Some(0) && out.contains("echo"), "{out}{err}");
    let attached = live.bpf().await;
    live.detach();
    attached.wait_until_gone();
}

/// Maps and programs are replaced while the commands run.
#[tokio::test(flavor = "multi_thread")]
async fn trace_and_explain_continue_while_maps_grow() {
    let live = Live::with("tracegrow", CONFIG).await;
    let daemon = live.run();
    let line = "trace --output json --filter udp,port=7,vip=192.0.2.40";
    let running = Running::start(&live, line, "grow");
    let traced = || running.out().lines().count();
    send(&live, "192.0.2.40:7", 1);
    wait_until("a line", TIMEOUT, || traced() == 1);
    let flow = "explain udp 198.51.100.7:4 192.0.2.40:7";
    let before = live.json(flow);
    assert_eq!(before["verdict"], "tx", "{before:#}");

    live.replace(&grown());
    let mut lookups = 0;
    while !daemon.log().contains("configuration applied") {
        let now = live.json(flow);
        assert_eq!(
            (&now["verdict"], &now["backend"]),
            (&"tx".into(), &before["backend"]),
            "{now:#}"
        );
        assert_eq!(live.json("conns")["flows"], 1);
        lookups += 1;
        assert!(lookups < 200, "{}", daemon.log());
    }
    println!("{lookups} lookups while it grew");
    assert!(lookups > 0);
    // The tracing process detects the change and reloads its program.
    wait_until("packets are traced again", 4 * TIMEOUT, || {
        send(&live, "192.0.2.40:7", 1);
        std::thread::sleep(Duration::from_millis(100));
        traced() > 1
    });
    assert_eq!(live.json(flow)["backend"], before["backend"]);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().0, Some(0));
    daemon.end(Signal::SIGTERM);
}
