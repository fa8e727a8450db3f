//! `director simulate` over a capture of every kind of frame: the lines it prints, the frames it
//! writes.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use director_tests::{
    live,
    packet::{ACK, DIRECTOR_MAC, Packet, ROUTER_MAC, options_header},
    pcap, read,
};
use serde_json::{Value, json};

const CONFIG: &str = r#"
interfaces: [{name: no-such-nic}]
tunnel: {source: [10.255.0.1, "2001:db8:ffff::1"]}
services:
  - {name: web, address: 192.0.2.10, protocol: tcp, port: 80, forward: tunnel,
     backends: [{address: 10.0.0.11, mac: "02:00:5e:00:00:0b"}]}
  - {name: web6, address: "2001:db8::10", protocol: tcp, port: 80, forward: direct,
     backends: [{address: "2001:db8:b::11", mac: "02:00:5e:00:00:06"}]}
  - {name: dns, address: 192.0.2.53, protocol: udp, port: 53, forward: tunnel,
     backends: [{address: "2001:db8:b::53", mac: "02:00:5e:00:00:35"}]}
  - {name: closed, address: 192.0.2.99, protocol: tcp, port: 80, forward: direct, backends: []}
"#;

/// A directory for one test, removed when dropped.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dsim-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("writable");
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A leftover directory does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The binary, built beside the tests.
fn director() -> Command {
    Command::new(live::binary())
}

fn simulate(config: &Path, input: &Path, more: &[&str]) -> Output {
    let mut command = director();
    command.args(["simulate", "-c"]).arg(config).arg("--in").arg(input).args(more);
    command.output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One frame of each kind, and its line of output.
fn everything() -> Vec<(Vec<u8>, Value)> {
    let line = |verdict: &str,
                reason: Option<&str>,
                service: Option<&str>,
                backend: Option<&str>,
                connection: &str,
                bytes: usize| {
        json!({"verdict": verdict, "reason": reason, "service": service, "backend": backend,
               "connection": connection, "bytes": bytes})
    };
    let web = |state, bytes| line("tx", None, Some("web"), Some("10.0.0.11"), state, bytes);
    let web6 = |state, bytes| line("tx", None, Some("web6"), Some("2001:db8:b::11"), state, bytes);
    let pass = |reason, bytes| line("pass", Some(reason), None, None, "none", bytes);
    let v4 = Packet::tcp("198.51.100.7:40000", "192.0.2.10:80");
    let v6 = Packet::tcp("[2001:db8:1::7]:40000", "[2001:db8::10]:80");
    let dns = Packet::udp("198.51.100.7:5353", "192.0.2.53:53");
    let quote = v4.clone().reversed().ip_bytes();
    let arp = [&[0xff; 6][..], &ROUTER_MAC, &[8, 6], &[0; 46]].concat();
    vec![
        (v4.frame(), web("new", 74)),
        (
            Packet::tcp_with("198.51.100.7:40000", "192.0.2.10:80", ACK).payload(10).frame(),
            web("known", 84),
        ),
        (v6.frame(), web6("new", 74)),
        (v6.clone().extension(60, &options_header(0)).frame(), web6("known", 82)),
        (v4.clone().tag(0x8100, 5).frame(), web("known", 74)),
        (v4.clone().tag(0x88a8, 5).tag(0x8100, 6).frame(), web("known", 74)),
        (v4.clone().options(12).frame(), web("known", 86)),
        (dns.frame(), line("tx", None, Some("dns"), Some("2001:db8:b::53"), "new", 14 + 40 + 36)),
        (
            dns.clone().fragment(0, true).frame(),
            line("drop", Some("fragment"), None, None, "none", 0),
        ),
        (
            dns.payload(8).fragment(1480, false).frame(),
            line("drop", Some("fragment"), None, None, "none", 0),
        ),
        (
            Packet::icmp("203.0.113.9", "192.0.2.10", 3, 4, [0, 0, 5, 0], &quote[..28]).frame(),
            web("known", 14 + 20 + 56),
        ),
        (
            Packet::icmp("198.51.100.7", "192.0.2.10", 8, 0, [0; 4], b"ping").frame(),
            pass("other-protocol", 46),
        ),
        (arp, pass("not-ip", 60)),
        (vec![0x02; 9], pass("truncated", 9)),
        (vec![], pass("truncated", 0)),
        (Packet::tcp("198.51.100.7:1", "192.0.2.10:81").frame(), pass("no-service", 54)),
        (Packet::tcp("198.51.100.7:1", "192.0.2.1:80").frame(), pass("no-service", 54)),
        (
            Packet::tcp("198.51.100.7:1", "192.0.2.10:80").set(12, &[0]).frame(),
            pass("malformed", 54),
        ),
        (
            Packet::tcp("198.51.100.7:1", "192.0.2.99:80").frame(),
            line("tx", Some("no-backend"), Some("closed"), None, "none", 82),
        ),
    ]
}

#[test]
fn a_capture_of_everything() {
    let files = Files::new("everything");
    let (frames, lines): (Vec<_>, Vec<_>) = everything().into_iter().unzip();
    let config = files.write("director.yaml", CONFIG);
    let input = files.write("in.pcap", pcap::write(&frames));
    let out = files.0.join("out.pcap");
    let more = ["--output", "json", "--out", out.to_str().expect("UTF-8")];
    let output = simulate(&config, &input, &more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("note: "), "nothing was assumed");

    let printed: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("one object per line"))
        .collect();
    assert_eq!(printed.len(), lines.len());
    for (at, (printed, mut expected)) in printed.iter().zip(lines.clone()).enumerate() {
        expected["packet"] = json!(at + 1);
        assert_eq!(*printed, expected, "packet {}", at + 1);
    }
    let first = text(&output.stdout).lines().next().map(str::to_owned);
    let as_documented = r#"{"packet":1,"verdict":"tx","reason":null,"service":"web","backend":"10.0.0.11","connection":"new","bytes":74}"#;
    assert_eq!(first.as_deref(), Some(as_documented));

    let written = pcap::read(&fs::read(&out).expect("written"));
    let transmitted: Vec<usize> =
        (0..lines.len()).filter(|at| lines[*at]["verdict"] == "tx").collect();
    assert_eq!(written.len(), transmitted.len());
    for (at, (microseconds, frame)) in transmitted.into_iter().zip(written) {
        assert_eq!(microseconds as usize, at * 1000, "when packet {} was captured", at + 1);
        assert_eq!(json!(frame.len()), lines[at]["bytes"], "packet {}", at + 1);
        check_frame(&frames[at], &frame, &lines[at]);
    }
}

/// Checks a transmitted frame.
fn check_frame(input: &[u8], frame: &[u8], line: &Value) {
    let link = read::link(frame);
    assert_eq!(link.source, DIRECTOR_MAC);
    let inner = &input[read::link(input).l3_offset..];
    match line["service"].as_str() {
        Some("web") => {
            assert_eq!(link.destination, [0x02, 0, 0x5e, 0, 0, 0x0b]);
            let outer = read::outer(&frame[link.l3_offset..]);
            assert_eq!(outer.source.to_string(), "10.255.0.1");
            assert_eq!((outer.destination.to_string().as_str(), outer.protocol), ("10.0.0.11", 4));
            assert_eq!(frame[34..], *inner);
        }
        Some("dns") => {
            let outer = read::outer(&frame[link.l3_offset..]);
            assert_eq!(outer.source.to_string(), "2001:db8:ffff::1");
            assert_eq!(
                (outer.destination.to_string().as_str(), outer.protocol),
                ("2001:db8:b::53", 4)
            );
            assert_eq!(frame[54..], *inner);
        }
        Some("web6") => {
            assert_eq!(link.destination, [0x02, 0, 0x5e, 0, 0, 6]);
            assert_eq!(frame[14..], *inner);
        }
        Some("closed") => {
            assert_eq!(link.destination, ROUTER_MAC);
            let error = read::error(&frame[14..]);
            assert_eq!((error.kind, error.code), (3, 3));
        }
        other => panic!("{other:?} sends nothing"),
    }
}

#[test]
fn yaml_and_table_agree() {
    let files = Files::new("formats");
    let (frames, lines): (Vec<_>, Vec<_>) = everything().into_iter().unzip();
    let config = files.write("director.yaml", CONFIG);
    let input = files.write("in.pcap", pcap::write(&frames));
    let yaml = text(&simulate(&config, &input, &["--output", "yaml"]).stdout);
    assert_eq!(yaml.matches("- packet: ").count(), lines.len(), "{yaml}");
    let table = text(&simulate(&config, &input, &[]).stdout);
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("PACKET  VERDICT"), "{table}");
    for (row, line) in rows[1..].iter().zip(&lines) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1], line["verdict"], "{row}");
        assert_eq!(cells[2], line["reason"].as_str().unwrap_or("-"), "{row}");
        assert_eq!(cells[6], line["bytes"].to_string(), "{row}");
    }
    assert_eq!(rows.last(), Some(&"19 packets: 10 tx, 7 pass, 2 drop"));
}

/// The network is unknown: the assumed values are reported.
#[test]
fn assumptions_are_reported() {
    let files = Files::new("assumed");
    let yaml = "services: [{name: web, address: 192.0.2.10, protocol: tcp, port: 80, forward: \
                tunnel, backends: [{address: 10.0.0.11}]}]";
    let config = files.write("director.yaml", yaml);
    let input = files.write("in.pcap", pcap::write(&[everything()[0].0.clone()]));
    let out = files.0.join("out.pcap");
    let output = simulate(&config, &input, &["--out", out.to_str().expect("UTF-8")]);
    assert!(output.status.success());
    let notes = text(&output.stderr);
    assert!(notes.contains("02:00:00:00:00:01") && notes.contains("10.0.0.11"), "{notes}");
    assert!(notes.contains("192.0.0.8"), "{notes}");
    let written = pcap::read(&fs::read(&out).expect("written"));
    assert_eq!(written[0].1[..6], [2, 0, 0, 0, 0, 1]);
}

/// Flows idle by the capture's clock.
#[test]
fn the_clock_is_that_of_the_capture() {
    let files = Files::new("clock");
    let config = files.write("director.yaml", format!("flows: {{tcp_closing: 1m}}\n{CONFIG}"));
    let frame = everything()[0].0.clone();
    let mut file = pcap::write(&vec![frame.clone(); 4]);
    for (at, seconds) in [0u32, 59, 118, 300].into_iter().enumerate() {
        let offset = 24 + at * (16 + frame.len());
        file[offset..offset + 4].copy_from_slice(&(1_000_000 + seconds).to_le_bytes());
    }
    let input = files.write("in.pcap", file);
    let output = simulate(&config, &input, &["--output", "json"]);
    let states: Vec<String> = text(&output.stdout)
        .lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            value["connection"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(states, ["new", "known", "known", "new"]);
}

#[test]
fn frames_that_cannot_be_simulated_are_skipped_and_reported() {
    let files = Files::new("skipped");
    let config = files.write("director.yaml", CONFIG);
    let long = Packet::tcp("198.51.100.7:1", "192.0.2.10:80").payload(9000).frame();
    let mut file = pcap::write(&[long, everything()[0].0.clone()]);
    // The second frame was captured truncated.
    let at = file.len() - everything()[0].0.len() - 4;
    file[at..at + 4].copy_from_slice(&1500u32.to_le_bytes());
    let input = files.write("in.pcap", file);
    let output = simulate(&config, &input, &["--output", "json"]);
    assert!(output.status.success());
    let notes = text(&output.stderr);
    assert!(notes.contains("packet 1 has 9054 bytes"), "{notes}");
    assert!(notes.contains("packet 2 was captured with 54 of its 1500 bytes"), "{notes}");
    let printed = text(&output.stdout);
    assert!(printed.contains(r#""verdict":"skipped","reason":"too-long""#), "{printed}");
    assert!(printed.contains(r#""packet":2,"verdict":"tx""#), "{printed}");
}

/// Asserts exit code 1 and one error with these words.
#[track_caller]
fn fails(output: &Output, expected: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "one error: {stderr}");
    for words in expected {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
}

#[test]
fn files_that_are_no_capture() {
    let files = Files::new("none");
    let config = files.write("director.yaml", CONFIG);
    for (name, bytes, expected) in [
        ("empty.pcap", &b""[..], "the file is empty"),
        ("text.pcap", &b"PACKET VERDICT"[..], "this is not a capture: it starts with 50 41 43 4b"),
        ("short.pcap", &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0][..], "truncated in its header"),
    ] {
        let input = files.write(name, bytes);
        let output = simulate(&config, &input, &["--output", "json"]);
        fails(&output, &[name, expected]);
        assert!(output.stdout.is_empty());
    }
    let mut cooked = pcap::write(&[]);
    cooked[20] = 113;
    let input = files.write("any.pcap", cooked);
    fails(&simulate(&config, &input, &[]), &["any.pcap", "link type 113", "Ethernet"]);
    fails(&simulate(&config, &files.0.join("gone.pcap"), &[]), &["gone.pcap", "No such file"]);
    fails(&simulate(&config, &files.0, &[]), &["Is a directory"]);
}

#[test]
fn no_packets_at_all() {
    let files = Files::new("nothing");
    let config = files.write("director.yaml", CONFIG);
    let input = files.write("in.pcap", pcap::write(&[]));
    for (format, printed) in [("json", ""), ("yaml", "[]\n"), ("table", "0 packets\n")] {
        let output = simulate(&config, &input, &["--output", format]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), printed);
    }
}

/// Complete packets are simulated, printed and written; then the truncation is an error.
#[test]
fn a_truncated_capture() {
    let files = Files::new("truncated");
    let config = files.write("director.yaml", CONFIG);
    let frame = everything()[0].0.clone();
    let whole = pcap::write(&vec![frame; 3]);
    let out = files.0.join("out.pcap");
    for cut in [1, 53, 54 + 3] {
        let input = files.write("in.pcap", &whole[..whole.len() - cut]);
        let more = ["--output", "json", "--out", out.to_str().expect("UTF-8")];
        let output = simulate(&config, &input, &more);
        fails(&output, &["in.pcap", "packet 3", "after 2 complete packets"]);
        assert_eq!(text(&output.stdout).lines().count(), 2);
        assert_eq!(pcap::read(&fs::read(&out).expect("written")).len(), 2);
    }
}

#[test]
fn unwritable_output() {
    let files = Files::new("unwritable");
    let config = files.write("director.yaml", CONFIG);
    let capture = pcap::write(&[everything()[0].0.clone()]);
    let input = files.write("in.pcap", &capture);
    let output = simulate(&config, &input, &["--out", "/nonexistent/out.pcap"]);
    fails(&output, &["cannot write /nonexistent/out.pcap", "No such file"]);
    let output = simulate(&config, &input, &["--out", "/dev/full"]);
    fails(&output, &["cannot write /dev/full", "No space left"]);

    let same = simulate(&config, &input, &["--out", input.to_str().expect("UTF-8")]);
    assert_eq!(same.status.code(), Some(2), "{}", text(&same.stderr));
    assert_eq!(fs::read(&input).expect("still there"), capture, "the capture is not overwritten");
}

#[test]
fn an_invalid_configuration() {
    let files = Files::new("config");
    let config = files.write("director.yaml", CONFIG.replace("port: 80", "prot: 80"));
    let input = files.write("in.pcap", pcap::write(&[]));
    let output = simulate(&config, &input, &[]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains(r#""prot" is no key"#) && stderr.contains("did you mean port?"),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn without_privilege() {
    let files = Files::new("privilege");
    let config = files.write("director.yaml", CONFIG);
    let input = files.write("in.pcap", pcap::write(&[]));
    let binary = files.0.join("director");
    fs::copy(live::binary(), &binary).expect("a world-readable copy");
    let mut command = Command::new(binary);
    command.args(["simulate", "-c"]).arg(&config).arg("--in").arg(&input).uid(65534).gid(65534);
    let output = command.output().expect("runs");
    fails(&output, &["CAP_BPF", "CAP_NET_ADMIN", "root"]);
}
