//! Every error a configuration file can have, with its place, and the files that have none.
//!
//! Most rows change one thing in a file that is right (`config/base.yaml`) and expect exactly one
//! error.

use std::{
    collections::HashSet,
    fs,
    net::IpAddr,
    num::NonZeroU16,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use director_userspace::config::{
    self, ConfigErrorKind as Kind, ConfigErrors, Loaded, MAX_BYTES, MAX_REPORTED, WarningKind,
    model::*,
};
use proptest::prelude::*;

const BASE: &str = include_str!("config/base.yaml");
const EXAMPLE: &str = include_str!("config/example.yaml");
const MINIMAL: &str = include_str!("config/minimal.yaml");
const DOCS: &str = include_str!("../../docs/config.md");

struct Row {
    name: &'static str,
    given: Given,
    kind: Kind,
    /// Line and column, both from 1; (0, 0) for the whole file.
    at: (u32, u32),
    path: &'static str,
    /// Must be in the message or the hint.
    says: &'static str,
}

enum Given {
    /// The base file with the first text replaced by the second.
    Change(&'static str, String),
    /// A whole text.
    Text(String),
    /// A file with these bytes.
    Bytes(Vec<u8>),
    /// A file that is already there, or not.
    Path(&'static str),
}

impl Given {
    fn load(&self, name: &str) -> Result<Loaded, ConfigErrors> {
        match self {
            Self::Change(from, to) => config::parse("t.yaml", &change(BASE, from, to)),
            Self::Text(text) => config::parse("t.yaml", text),
            Self::Path(path) => config::load(path.as_ref()),
            Self::Bytes(bytes) => {
                let path = scratch_file(name);
                fs::write(&path, bytes).unwrap();
                let loaded = config::load(&path);
                fs::remove_file(path).unwrap();
                loaded
            }
        }
    }
}

/// Replaces the only occurrence of `from`.
#[track_caller]
fn change(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} must be in the file once");
    text.replacen(from, to, 1)
}

fn scratch_file(name: &str) -> PathBuf {
    let name: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{name}.yaml"))
}

// One row, one line, however long: the eye compares columns.
#[rustfmt::skip]
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name, given, kind, at, path, says| {
        rows.push(Row { name, given, kind, at, path, says });
    };
    let change = |from, to: &str| Given::Change(from, to.to_owned());
    let text = |text: &str| Given::Text(text.to_owned());
    // The file.
    row("no such file", Given::Path("/nonexistent/director.yaml"), Kind::Unreadable, (0, 0), "", "No such file");
    row("a directory", Given::Path("/"), Kind::IsDirectory, (0, 0), "", "director.yaml");
    row("not UTF-8", Given::Bytes(b"services: []\n# caf\xe9\n".to_vec()), Kind::NotUtf8, (2, 6), "", "UTF-8");
    row("not UTF-8 after UTF-8", Given::Bytes("# äöü\nä: ö\u{fc}\n".bytes().chain([0xff]).collect()), Kind::NotUtf8, (3, 1), "", "UTF-8");
    row("file too big", Given::Bytes(vec![b' '; MAX_BYTES + 1]), Kind::TooBig, (0, 0), "", "64 MiB");
    row("text too big", text(&"#".repeat(MAX_BYTES + 1)), Kind::TooBig, (0, 0), "", "64 MiB");
    // YAML.
    row("indentation", change("    port: 443", "   port: 443"), Kind::Syntax, (15, 4), "", "indentation");
    row("open bracket", text("services: ["), Kind::Syntax, (1, 11), "", "bracket");
    row("open quote", text("services: \"\n"), Kind::Syntax, (2, 1), "", "quotes");
    row("tab", text("services:\n\t- name: web\n"), Kind::Syntax, (2, 2), "", "no tabs");
    row("unknown anchor", text("services: *web\n"), Kind::Syntax, (1, 11), "", "anchor");
    row("IPv6 that ends in a colon", change("2001:db8::53", "2001:db8::"), Kind::Syntax, (26, 23), "", "quotes");
    row("IPv6 in flow style", text("services: [{address: 2001:db8::, port: 1}]"), Kind::Syntax, (1, 31), "", "quotes");
    row("nothing", text(""), Kind::Empty, (0, 0), "", "services: []");
    row("comments only", text("# nothing\n---\n"), Kind::Empty, (0, 0), "", "services: []");
    row("null", text("~"), Kind::Empty, (0, 0), "", "services: []");
    row("two documents", text("services: []\n---\nservices: []\n"), Kind::MultipleDocuments, (2, 1), "", "one document");
    row("too deep", text(&format!("services: {}{}", "[".repeat(40), "]".repeat(40))), Kind::TooComplex, (1, 42), "", "32 levels");
    row("too many values", text(&format!("a: &a [{}]\nb: [{}]\n", "1, ".repeat(999), "*a, ".repeat(4000))), Kind::TooComplex, (2, 15993), "", "4000000");
    row("alias bomb", text(&bomb()), Kind::TooComplex, (7, 30), "", "aliases");
    row("bomb of one long word", text(&format!("a: &a \"\\t{}\"\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(4000))), Kind::TooComplex, (2, 973), "", "aliases");
    row("alias of itself", text("services: &a [*a]\n"), Kind::TooComplex, (1, 15), "", "alias");
    row("tag", change("port: 443", "port: !!str 443"), Kind::Tag, (15, 17), "services[0].port", "!");
    // Shapes.
    row("a word is no file", text("director"), Kind::WrongType, (1, 1), "", "found \"director\"");
    row("a list is no file", text("- services"), Kind::WrongType, (1, 1), "", "found a list");
    row("list for a word", change("443", "[443]"), Kind::WrongType, (15, 11), "services[0].port", "found a list");
    row("mapping for a word", change("weight: 2", "weight: {is: 2}"), Kind::WrongType, (24, 17), "services[0].backends[1].weight", "expected a weight from 0 to 65535, found a mapping");
    row("word for a list", change("interfaces:\n  - name: eth0\n    mode: native", "interfaces: eth0"), Kind::WrongType, (1, 13), "interfaces", "- name: eth0");
    row("word for a mapping", change("  - name: eth0\n    mode: native", "  - eth0"), Kind::WrongType, (2, 5), "interfaces[0]", "write `name: ...`");
    row("nothing for a list", text("services:\n"), Kind::WrongType, (1, 9), "services", "services: []");
    row("nothing for a word", change("scheduler: maglev", "scheduler:"), Kind::WrongType, (16, 14), "services[0].scheduler", "expected maglev, found nothing");
    row("mapping for an address", change("address: 10.0.0.12", "address: {a: b}"), Kind::WrongType, (23, 18), "services[0].backends[1].address", "quotes");
    row("list for a key", change("    port: 443", "    port: 443\n    [a, b]: c"), Kind::WrongType, (16, 5), "services[0]", "plain word");
    row("no protocol", change("protocol: tcp", "protocol: []"), Kind::EmptyList, (14, 15), "services[0].protocol", "tcp, udp");
    row("no source", change("source: auto", "source: []"), Kind::EmptyList, (5, 11), "tunnel.source", "auto");
    // Keys.
    row("unknown key of the file", change("tunnel:", "tunel:"), Kind::UnknownKey, (4, 1), "tunel", "did you mean tunnel?");
    row("unknown key of a service", change("drain_timeout:", "drain-time:"), Kind::UnknownKey, (19, 5), "services[0].drain-time", "did you mean drain_timeout?");
    row("unknown key of a backend", change("weight: 2", "wieght: 2"), Kind::UnknownKey, (24, 9), "services[0].backends[1].wieght", "did you mean weight?");
    row("unknown key near an unsupported one", change("drain_timeout: 5m", "helth: {}"), Kind::UnknownKey, (19, 5), "services[0].helth", "did you mean health?");
    row("unknown key near none", change("mode: native", "x y: native"), Kind::UnknownKey, (3, 5), "interfaces[0].\"x y\"", "name, mode, role, assign_vips");
    row("unknown key of tunnel", change("encapsulation:", "encap:"), Kind::UnknownKey, (6, 3), "tunnel.encap", "source, encapsulation");
    row("unknown key of flows", change("tcp: 2h5m", "tpc: 2h5m"), Kind::UnknownKey, (9, 3), "flows.tpc", "did you mean tcp?");
    row("name in defaults", text("defaults: {name: web}\nservices: []"), Kind::UnknownKey, (1, 12), "defaults.name", "address, protocol");
    row("merge key", change("    port: 443", "    port: 443\n    <<: {}"), Kind::UnknownKey, (16, 5), "services[0].\"<<\"", "no key of a service");
    row("api", text("api: {socket: /run/x}\nservices: []"), Kind::UnsupportedKey, (1, 1), "api", "not supported yet (this version");
    row("health", change("scheduler: maglev", "health: {type: tcp}"), Kind::UnsupportedKey, (16, 5), "services[0].health", "not supported yet (this version");
    row("health in defaults", text("defaults: {health: {type: tcp}}\nservices: []"), Kind::UnsupportedKey, (1, 12), "defaults.health", "not supported yet (this version");
    row("persistence", change("scheduler: maglev", "persistence: {timeout: 5m}"), Kind::UnsupportedKey, (16, 5), "services[0].persistence", "not supported yet (this version");
    row("on_down", change("scheduler: maglev", "on_down: keep"), Kind::UnsupportedKey, (16, 5), "services[0].on_down", "not supported yet (this version");
    row("allow", change("scheduler: maglev", "allow: everyone"), Kind::UnsupportedKey, (16, 5), "services[0].allow", "not supported yet (this version");
    row("port of a backend", change("weight: 2", "port: 8443"), Kind::UnsupportedKey, (24, 9), "services[0].backends[1].port", "not supported yet (this version");
    row("key twice", change("    port: 443", "    port: 443\n    protocol: udp"), Kind::DuplicateKey, (16, 5), "services[0].protocol", "twice");
    row("key twice in the file", text("services: []\nservices: []\n"), Kind::DuplicateKey, (2, 1), "services", "twice");
    row("no services", text("interfaces: []\n"), Kind::MissingKey, (1, 1), "services", "services:");
    row("no name", change("- name: web\n    address", "- address"), Kind::MissingKey, (12, 5), "services[0].name", "web");
    row("no address", change("    address: 192.0.2.10\n", ""), Kind::MissingKey, (12, 5), "services[0].address", "VIP");
    row("no protocol key", change("    protocol: tcp\n", ""), Kind::MissingKey, (12, 5), "services[0].protocol", "tcp, udp");
    row("no port", change("    port: 443\n", ""), Kind::MissingKey, (12, 5), "services[0].port", "any");
    row("no forward", change("    forward: tunnel\n", ""), Kind::MissingKey, (12, 5), "services[0].forward", "no default");
    row("no backends", change("    backends:\n      - address: 2001:db8::11\n", ""), Kind::MissingKey, (25, 5), "services[1].backends", "backends: []");
    row("no address of a backend", change("- address: 10.0.0.12\n        weight", "- weight"), Kind::MissingKey, (23, 9), "services[0].backends[1].address", "IP address");
    row("no name of an interface", change("- name: eth0\n    mode", "- mode"), Kind::MissingKey, (2, 5), "interfaces[0].name", "eth0");
    // Words.
    row("unknown way to forward", change("forward: tunnel", "forward: tunel"), Kind::UnknownValue, (17, 14), "services[0].forward", "did you mean tunnel?");
    row("capitals", change("protocol: udp", "protocol: UDP"), Kind::UnknownValue, (27, 15), "services[1].protocol", "did you mean udp?");
    row("unknown protocol", change("protocol: udp", "protocol: icmp"), Kind::UnknownValue, (27, 15), "services[1].protocol", "one of tcp, udp");
    row("unknown protocol in a list", change("protocol: udp", "protocol: [udp, ip]"), Kind::UnknownValue, (27, 21), "services[1].protocol[1]", "");
    row("unknown scheduler", change("scheduler: maglev", "scheduler: magic"), Kind::UnknownValue, (16, 16), "services[0].scheduler", "maglev");
    row("unknown when_empty", change("when_empty: reject", "when_empty: rejcet"), Kind::UnknownValue, (18, 17), "services[0].when_empty", "did you mean reject?");
    row("unknown mode", change("mode: native", "mode: driver"), Kind::UnknownValue, (3, 11), "interfaces[0].mode", "native, generic");
    row("unknown role", change("mode: native", "role: ingress"), Kind::UnknownValue, (3, 11), "interfaces[0].role", "did you mean egress?");
    row("no truth value", change("mode: native", "assign_vips: maybe"), Kind::UnknownValue, (3, 18), "interfaces[0].assign_vips", "true or false");
    row("unknown encapsulation", change("encapsulation: ipip", "encapsulation: ipsec"), Kind::UnknownValue, (6, 18), "tunnel.encapsulation", "ipip");
    row("nat", change("forward: tunnel", "forward: nat"), Kind::UnsupportedValue, (17, 14), "services[0].forward", "not supported yet (this version does tunnel, direct)");
    row("fullnat", change("forward: tunnel", "forward: fullnat"), Kind::UnsupportedValue, (17, 14), "services[0].forward", "not supported yet (this version does tunnel, direct)");
    row("local", change("forward: tunnel", "forward: local"), Kind::UnsupportedValue, (17, 14), "services[0].forward", "not supported yet (this version does tunnel, direct)");
    row("sctp", change("protocol: tcp", "protocol: [sctp, tcp]"), Kind::UnsupportedValue, (14, 16), "services[0].protocol[0]", "not supported yet (this version does tcp, udp)");
    row("wrr", change("scheduler: maglev", "scheduler: wrr"), Kind::UnsupportedValue, (16, 16), "services[0].scheduler", "not supported yet (this version does maglev)");
    row("long name of a scheduler", change("scheduler: maglev", "scheduler: least-connections"), Kind::UnsupportedValue, (16, 16), "services[0].scheduler", "not supported yet (this version does maglev)");
    row("sorry", change("when_empty: reject", "when_empty: sorry"), Kind::UnsupportedValue, (18, 17), "services[0].when_empty", "not supported yet (this version does reject, drop, pass)");
    row("gue", change("encapsulation: ipip", "encapsulation: gue"), Kind::UnsupportedValue, (6, 18), "tunnel.encapsulation", "not supported yet (this version does ipip)");
    row("gre", change("encapsulation: ipip", "encapsulation: gre"), Kind::UnsupportedValue, (6, 18), "tunnel.encapsulation", "not supported yet (this version does ipip)");
    row("port range", change("port: 443", "port: \"8000-8099\""), Kind::UnsupportedValue, (15, 11), "services[0].port", "not supported yet (this version does one port, or any)");
    row("VIP prefix", change("address: 192.0.2.10", "address: 192.0.2.0/24"), Kind::UnsupportedValue, (13, 14), "services[0].address", "not supported yet (this version does one address");
    row("source prefix", change("source: auto", "source: 2001:db8:2::/64"), Kind::UnsupportedValue, (5, 11), "tunnel.source", "not supported yet (this version does auto");
    // Addresses.
    row("name for an address", change("address: 10.0.0.11", "address: web1.example.net"), Kind::BadAddress, (21, 18), "services[0].backends[0].address", "names are not looked up");
    row("address out of range", change("address: 192.0.2.10", "address: 192.0.2.256"), Kind::BadAddress, (13, 14), "services[0].address", "no IP address");
    row("octal address", change("address: 10.0.0.11", "address: 10.0.0.011"), Kind::BadAddress, (21, 18), "services[0].backends[0].address", "no IP address");
    row("address with a port", change("address: 10.0.0.11", "address: 10.0.0.11:8080"), Kind::BadAddress, (21, 18), "services[0].backends[0].address", "address alone");
    row("IPv6 in brackets", change("address: 2001:db8::53", "address: \"[2001:db8::53]:53\""), Kind::BadAddress, (26, 14), "services[1].address", "without brackets");
    row("IPv6 with a zone", change("address: 2001:db8::11", "address: fe80::1%eth0"), Kind::BadAddress, (31, 18), "services[1].backends[0].address", "zone");
    row("IPv6 cut", change("address: 2001:db8::11", "address: 2001:db8"), Kind::BadAddress, (31, 18), "services[1].backends[0].address", "quotes");
    row("prefix for a backend", change("address: 10.0.0.11", "address: 10.0.0.0/24"), Kind::BadAddress, (21, 18), "services[0].backends[0].address", "without /");
    row("name for a source", change("source: auto", "source: automatic"), Kind::BadAddress, (5, 11), "tunnel.source", "");
    row("unspecified", change("address: 192.0.2.10", "address: 0.0.0.0"), Kind::UnusableAddress, (13, 14), "services[0].address", "unspecified");
    row("unspecified IPv6", change("address: 2001:db8::11", "address: \"::\""), Kind::UnusableAddress, (31, 18), "services[1].backends[0].address", "unspecified");
    row("loopback", change("address: 10.0.0.11", "address: 127.0.0.1"), Kind::UnusableAddress, (21, 18), "services[0].backends[0].address", "loopback");
    row("loopback IPv6", change("address: 2001:db8::53", "address: ::1"), Kind::UnusableAddress, (26, 14), "services[1].address", "loopback");
    row("multicast", change("address: 192.0.2.10", "address: 224.0.0.1"), Kind::UnusableAddress, (13, 14), "services[0].address", "multicast");
    row("multicast IPv6", change("address: 2001:db8::11", "address: ff02::1"), Kind::UnusableAddress, (31, 18), "services[1].backends[0].address", "multicast");
    row("broadcast", change("address: 10.0.0.11", "address: 255.255.255.255"), Kind::UnusableAddress, (21, 18), "services[0].backends[0].address", "broadcast");
    row("IPv4 in IPv6", change("address: 10.0.0.11", "address: ::ffff:10.0.0.11"), Kind::UnusableAddress, (21, 18), "services[0].backends[0].address", "write 10.0.0.11");
    row("loopback source", change("source: auto", "source: 127.0.0.1"), Kind::UnusableAddress, (5, 11), "tunnel.source", "loopback");
    // Numbers.
    row("port 0", change("port: 443", "port: 0"), Kind::BadPort, (15, 11), "services[0].port", "no port 0");
    row("port 65536", change("port: 443", "port: 65536"), Kind::BadPort, (15, 11), "services[0].port", "more than 65535");
    row("port name", change("port: 443", "port: https"), Kind::BadPort, (15, 11), "services[0].port", "number");
    row("negative port", change("port: 443", "port: -1"), Kind::BadPort, (15, 11), "services[0].port", "no port");
    row("port with a sign", change("port: 443", "port: +443"), Kind::BadPort, (15, 11), "services[0].port", "no port");
    row("weight 70000", change("weight: 2", "weight: 70000"), Kind::BadWeight, (24, 17), "services[0].backends[1].weight", "70000 is more than 65535");
    row("negative weight", change("weight: 2", "weight: -2"), Kind::BadWeight, (24, 17), "services[0].backends[1].weight", "no weight");
    row("weight 1.5", change("weight: 2", "weight: 1.5"), Kind::BadWeight, (24, 17), "services[0].backends[1].weight", "whole numbers");
    row("weight word", change("weight: 2", "weight: heavy"), Kind::BadWeight, (24, 17), "services[0].backends[1].weight", "no weight");
    row("empty weight", change("weight: 2", "weight: \"\""), Kind::BadWeight, (24, 17), "services[0].backends[1].weight", "no weight");
    row("capital in a name", change("name: web", "name: Web"), Kind::BadName, (12, 11), "services[0].name", "small letters");
    row("empty name", change("name: web", "name: \"\""), Kind::BadName, (12, 11), "services[0].name", "1 to 63");
    row("long name", change("name: web", &format!("name: {}", "w".repeat(64))), Kind::BadName, (12, 11), "services[0].name", "1 to 63");
    row("short MAC", change("weight: 2", "mac: 02:00:00:00:01"), Kind::BadMac, (24, 14), "services[0].backends[1].mac", "six pairs");
    row("multicast MAC", change("weight: 2", "mac: 01:00:5e:00:00:01"), Kind::BadMac, (24, 14), "services[0].backends[1].mac", "multicast");
    row("zero MAC", change("weight: 2", "mac: 00:00:00:00:00:00"), Kind::BadMac, (24, 14), "services[0].backends[1].mac", "zeroes");
    row("no unit", change("drain_timeout: 5m", "drain_timeout: 5"), Kind::BadDuration, (19, 20), "services[0].drain_timeout", "5s, 5ms or 5m");
    row("unknown unit", change("tcp: 2h5m", "tcp: 2w"), Kind::BadDuration, (9, 8), "flows.tcp", "d, h, m, s, ms, us or ns");
    row("units upside down", change("tcp: 2h5m", "tcp: 5m2h"), Kind::BadDuration, (9, 8), "flows.tcp", "largest first");
    row("no duration", change("tcp: 2h5m", "tcp: never"), Kind::BadDuration, (9, 8), "flows.tcp", "whole number");
    row("no time", change("tcp: 2h5m", "udp: 0s"), Kind::DurationOutOfRange, (9, 8), "flows.udp", "at least 1s");
    row("two years", change("tcp: 2h5m", "tcp_closing: 731d"), Kind::DurationOutOfRange, (9, 16), "flows.tcp_closing", "at most 365d");
    row("eternity", change("drain_timeout: 5m", "drain_timeout: 99999999999999999999d"), Kind::DurationOutOfRange, (19, 20), "services[0].drain_timeout", "at most 365d");
    row("decimal unit", change("size: 1Mi", "size: 1M"), Kind::BadSize, (8, 9), "flows.size", "Mi");
    row("no size", change("size: 1Mi", "size: big"), Kind::BadSize, (8, 9), "flows.size", "whole number");
    row("small table", change("size: 1Mi", "size: 512"), Kind::SizeOutOfRange, (8, 9), "flows.size", "1Ki to 64Mi");
    row("large table", change("size: 1Mi", "size: 128Mi"), Kind::SizeOutOfRange, (8, 9), "flows.size", "1Ki to 64Mi");
    row("endless table", change("size: 1Mi", "size: 99999999999999999999Gi"), Kind::SizeOutOfRange, (8, 9), "flows.size", "1Ki to 64Mi");
    row("just above a power of two", change("size: 1Mi", "size: 65537"), Kind::NotPowerOfTwo, (8, 9), "flows.size", "nearest is 64Ki");
    row("just below a power of two", change("size: 1Mi", "size: 1000000"), Kind::NotPowerOfTwo, (8, 9), "flows.size", "nearest is 1Mi");
    row("short hash key", change("6469726563746f722e686173686b6579", "6469"), Kind::BadHashKey, (10, 11), "hash_key", "openssl rand -hex 16");
    row("hash key of no digits", change("6469726563746f722e686173686b6579", "6469726563746f722e686173686b657g"), Kind::BadHashKey, (10, 11), "hash_key", "32 hex digits");
    // Interfaces.
    row("long interface name", change("name: eth0", "name: ethernet-number-0"), Kind::BadInterfaceName, (2, 11), "interfaces[0].name", "15 bytes");
    row("space in an interface name", change("name: eth0", "name: eth 0"), Kind::BadInterfaceName, (2, 11), "interfaces[0].name", "spaces");
    row("path for an interface", change("name: eth0", "name: net/eth0"), Kind::BadInterfaceName, (2, 11), "interfaces[0].name", "/");
    row("interface twice", change("    mode: native", "  - name: eth0"), Kind::DuplicateInterface, (3, 11), "interfaces[1].name", "line 2");
    row("16 interfaces", text(&format!("interfaces: [{}]\nservices: []\n", numbered(16, |i| format!("{{name: eth{i}}}")))), Kind::TooManyInterfaces, (1, 13), "interfaces", "at most 15");
    // The tunnel.
    row("two IPv4 sources", change("source: auto", "source: [198.51.100.1, 198.51.100.2]"), Kind::DuplicateFamily, (5, 26), "tunnel.source[1]", "at most one IPv4");
    row("no IPv4 source", change("source: auto", "source: 2001:db8:1::1"), Kind::NoTunnelSource, (5, 11), "tunnel.source", "10.0.0.11 of service web is reached by IPv4");
    row("no IPv6 source", text(&change_all(EXAMPLE, ", \"2001:db8:1::1\"]", "]")), Kind::NoTunnelSource, (8, 18), "tunnel.source", "service everything-else is reached by IPv6");
    // One service and another.
    row("protocol twice", change("protocol: tcp", "protocol: [tcp, tcp]"), Kind::DuplicateProtocol, (14, 21), "services[0].protocol[1]", "tcp is here twice");
    row("name twice", change("name: dns", "name: web"), Kind::DuplicateName, (25, 11), "services[1].name", "line 12");
    row("frontend twice", text(&format!("services:\n- {WEB}\n- {}\n", change_all(WEB, "web", "web2"))), Kind::DuplicateFrontend, (3, 3), "services[1]", "line 2");
    row("frontend twice by a list of protocols", text(&format!("services:\n- {WEB}\n- {}\n", change_all(&change_all(WEB, "web", "web2"), "tcp", "[udp, tcp]"))), Kind::DuplicateFrontend, (3, 3), "services[1]", "tcp 192.0.2.10:443");
    row("frontend twice, spelled differently", change("  - name: dns", "  - {name: d2, address: \"2001:DB8:0::53\", protocol: udp, port: 53, forward: tunnel, backends: []}\n  - name: dns"), Kind::DuplicateFrontend, (26, 5), "services[2]", "udp [2001:db8::53]:53");
    row("16385 services", text(&services(16385, "tcp")), Kind::TooManyServices, (1, 11), "services", "at most 16384");
    row("16386 services of two protocols", text(&services(8193, "[tcp, udp]")), Kind::TooManyServices, (1, 11), "services", "each protocol");
    // Backends.
    row("backend twice", change("address: 10.0.0.12", "address: 10.0.0.11"), Kind::DuplicateBackend, (23, 18), "services[0].backends[1].address", "line 21");
    row("backend twice, spelled differently", change("      - address: 2001:db8::11", "      - address: 2001:db8::11\n      - address: 2001:DB8:0:0::11"), Kind::DuplicateBackend, (32, 18), "services[1].backends[1].address", "line 31");
    row("4097 backends", text(&format!("services: [{}]\n", change_all(WEB, "{address: 10.0.0.11}", &backends(4097)))), Kind::TooManyBackends, (1, 98), "services[0].backends", "at most 4096");
    row("too many backends in all", text(&format!("defaults: {{address: 192.0.2.1, protocol: [tcp, udp], forward: tunnel, backends: [{}]}}\nservices: [{}]\n", backends(4096), numbered(129, |i| format!("{{name: s{i}, port: {}}}", i + 1)))), Kind::TooManyBackends, (2, 11), "services", "1048576");
    row("IPv6 backend behind a direct IPv4 VIP", text("services:\n- {name: a, address: 192.0.2.10, protocol: tcp, port: 1, forward: direct, backends: [{address: \"2001:db8::1\"}]}"), Kind::FamilyMix, (2, 96), "services[0].backends[0].address", "tunnel");
    row("IPv4 backend behind a direct IPv6 VIP", change("address: 2001:db8::11", "address: 10.0.0.53"), Kind::FamilyMix, (31, 18), "services[1].backends[0].address", "tunnel");
    row("backend is the VIP", change("address: 10.0.0.11", "address: 192.0.2.10"), Kind::BackendIsVip, (21, 18), "services[0].backends[0].address", "line 12");
    row("backend is another's VIP", change("address: 10.0.0.11", "address: 2001:db8::53"), Kind::BackendIsVip, (21, 18), "services[0].backends[0].address", "line 25");
    // Errors in defaults are said once, where they are.
    row("error in defaults", text(&format!("defaults: {{port: 99999}}\nservices:\n- {}\n- {}\n", change_all(WEB, "port: 443, ", ""), change_all(&change_all(WEB, "port: 443, ", ""), "web", "web2"))), Kind::BadPort, (1, 18), "defaults.port", "65535");
    row("error in unused defaults", text("defaults: {scheduler: magic}\nservices: []\n"), Kind::UnknownValue, (1, 23), "defaults.scheduler", "maglev");
    rows
}

const WEB: &str = "{name: web, address: 192.0.2.10, protocol: tcp, port: 443, forward: tunnel, \
                   backends: [{address: 10.0.0.11}]}";

#[track_caller]
fn change_all(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in the text");
    text.replace(from, to)
}

fn numbered(n: usize, item: impl Fn(usize) -> String) -> String {
    (0..n).map(item).collect::<Vec<_>>().join(", ")
}

fn backends(n: usize) -> String {
    numbered(n, |i| format!("{{address: 10.1.{}.{}}}", i / 256, i % 256))
}

fn services(n: usize, protocol: &str) -> String {
    let service = |i| {
        format!(
            "{{name: s{i}, address: 10.1.{}.{}, protocol: {protocol}, port: 1, forward: tunnel, \
             backends: []}}",
            i / 256,
            i % 256
        )
    };
    format!("services: [{}]\n", numbered(n, service))
}

/// A few hundred bytes that mean nine to the power of nine words.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        text += &format!("a{i}: &a{i} [{aliases}]\n");
    }
    text
}

#[track_caller]
fn parse(text: &str) -> Loaded {
    config::parse("t.yaml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn each_row_is_the_one_error_it_should_be() {
    for row in rows() {
        let name = row.name;
        let errors = row.given.load(name).expect_err(name);
        let [error] = errors.errors.as_slice() else { panic!("{name}: not one error:\n{errors}") };
        let at = error.position.map_or((0, 0), |at| (at.line, at.column));
        assert_eq!(
            (error.kind, at, error.path.as_str()),
            (row.kind, row.at, row.path),
            "{name}:\n{errors}"
        );
        let says = format!("{}\n{}", error.message, error.hint);
        assert!(says.contains(row.says), "{name}: no {:?} in\n{errors}", row.says);
        assert!(!error.hint.is_empty(), "{name}: no hint");
        assert_eq!(errors.omitted, 0, "{name}");
    }
}

#[test]
fn each_kind_has_a_row_and_a_line_in_the_docs() {
    let rows = rows();
    let with_row: HashSet<_> = rows.iter().map(|row| row.kind).collect();
    for kind in Kind::ALL {
        assert!(with_row.contains(kind), "{kind:?} has no row");
        assert!(DOCS.contains(&format!("| `{kind}` |")), "docs/config.md does not explain {kind}");
    }
    for kind in WarningKind::ALL {
        assert!(DOCS.contains(&format!("| `{kind}` |")), "docs/config.md does not explain {kind}");
    }
    let names: HashSet<_> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "two rows have one name");
}

#[test]
fn an_error_reads_well() {
    let text = change(BASE, "weight: 2", "weight: 70000");
    let errors = config::parse("director.yaml", &text).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "director.yaml:24:17: services[0].backends[1].weight: 70000 is more than 65535\n  \
           24 |         weight: 70000\n     \
              |                 ^\n  \
           help: weights are whole numbers from 0 (no new flows) to 65535"
    );
    let json = serde_json::to_value(&errors).unwrap();
    assert_eq!(
        json["errors"][0],
        serde_json::json!({
            "file": "director.yaml",
            "kind": "bad-weight",
            "line": 24,
            "column": 17,
            "path": "services[0].backends[1].weight",
            "message": "70000 is more than 65535",
            "hint": "weights are whole numbers from 0 (no new flows) to 65535",
        })
    );
}

#[test]
fn what_is_in_the_file_does_not_reach_the_terminal_raw() {
    let text = change(BASE, "name: web", "name: \"\\e[2J\u{7}\u{202e}\"");
    let direct = change(BASE, "name: web", "name: web # \u{202e}");
    for text in [text, change(&direct, "port: 443", "port: \u{202e}0 # \u{202e}")] {
        for line in config::parse("t.yaml", &text).unwrap_err().to_string().lines() {
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }
}

#[test]
fn errors_beyond_the_limit_are_counted() {
    let text = format!("services: [{}]\n", numbered(MAX_REPORTED + 7, |_| "x".to_owned()));
    let errors = config::parse("t.yaml", &text).unwrap_err();
    assert_eq!((errors.errors.len(), errors.omitted), (MAX_REPORTED, 7));
    assert!(errors.to_string().ends_with("t.yaml: and 7 more errors"));
}

/// A way to break the base file: what to replace, by what, and the error.
const PLANTS: &[(&str, &str, Kind)] = &[
    ("name: eth0", "name: eth/0", Kind::BadInterfaceName),
    ("mode: native", "mod: native", Kind::UnknownKey),
    ("encapsulation: ipip", "encapsulation: gre", Kind::UnsupportedValue),
    ("size: 1Mi", "size: 1000", Kind::SizeOutOfRange),
    ("tcp: 2h5m", "tcp: 2", Kind::BadDuration),
    ("6469726563746f722e686173686b6579", "secret", Kind::BadHashKey),
    ("name: web", "name: Web", Kind::BadName),
    ("address: 192.0.2.10", "address: 192.0.2.0/24", Kind::UnsupportedValue),
    ("protocol: tcp", "protocol: tpc", Kind::UnknownValue),
    ("port: 443", "port: 0", Kind::BadPort),
    ("scheduler: maglev", "health: {type: tcp}", Kind::UnsupportedKey),
    ("forward: tunnel", "forward: [tunnel]", Kind::WrongType),
    ("when_empty: reject", "port: 444", Kind::DuplicateKey),
    ("drain_timeout: 5m", "drain_timeout: 1000d", Kind::DurationOutOfRange),
    ("address: 10.0.0.11", "address: localhost", Kind::BadAddress),
    ("weight: 1", "weight: 65536", Kind::BadWeight),
    ("address: 10.0.0.12", "address: 255.255.255.255", Kind::UnusableAddress),
    ("weight: 2", "mac: ff:ff:ff:ff:ff:ff", Kind::BadMac),
    ("port: 53", "prot: 53", Kind::MissingKey),
    ("address: 2001:db8::11", "address: 2001:db8::53", Kind::BackendIsVip),
];

proptest! {
    // Failures become rows of their own, not files.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn planted_errors_are_all_found(chosen in prop::collection::vec(any::<bool>(), PLANTS.len())) {
        let chosen: Vec<_> =
            PLANTS.iter().zip(chosen).filter_map(|(plant, chosen)| chosen.then_some(plant)).collect();
        let text =
            chosen.iter().fold(BASE.to_owned(), |text, (from, to, _)| text.replacen(from, to, 1));
        match config::parse("t.yaml", &text) {
            Ok(_) => prop_assert!(chosen.is_empty()),
            Err(errors) => {
                prop_assert!(errors.errors.len() >= chosen.len(), "{errors}");
                prop_assert!(errors.errors.is_sorted_by_key(|error| error.position), "{errors}");
                for (_, _, kind) in &chosen {
                    let planted = chosen.iter().filter(|(_, _, k)| k == kind).count();
                    let found = errors.errors.iter().filter(|error| error.kind == *kind).count();
                    prop_assert!(found >= planted, "{kind}: {errors}");
                }
            }
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        check_places(&text)?;
    }

    #[test]
    fn no_yamlish_text_panics(text in "([a-c]{0,2}[-:?,{}&*!|>'\"%@`#~\\[\\] \t\n\r]{0,3}){0,40}") {
        check_places(&text)?;
    }

    #[test]
    fn no_mutation_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..20usize, "[-a-z0-9:,{}&*! \n\"\\[\\]]{0,3}"), 1..6)
    ) {
        let mut text = EXAMPLE.to_owned();
        for (at, n_removed, added) in edits {
            let at = at.index(text.len());
            text.replace_range(at..(at + n_removed).min(text.len()), &added);
        }
        check_places(&text)?;
    }

    #[test]
    fn printed_and_read_again(config in a_config()) {
        let yaml = serde_yaml::to_string(&config).unwrap();
        let read = config::parse("t.yaml", &yaml).map_err(|errors| format!("{errors}\n{yaml}"));
        prop_assert_eq!(read.map(|loaded| loaded.config), Ok(config.clone()));
        // JSON is YAML too.
        let json = serde_json::to_string(&config).unwrap();
        let read = config::parse("t.yaml", &json).map_err(|errors| format!("{errors}\n{json}"));
        prop_assert_eq!(read.map(|loaded| loaded.config), Ok(config));
    }
}

/// An error is at a place that exists.
fn check_places(text: &str) -> Result<(), TestCaseError> {
    let n_lines = text.split(['\n', '\r']).count();
    if let Err(errors) = config::parse("t.yaml", text) {
        prop_assert!(!errors.errors.is_empty());
        for error in &errors.errors {
            let line = error.position.map_or(1, |at| at.line as usize);
            prop_assert!((1..=n_lines + 1).contains(&line), "{error}");
            prop_assert!(error.to_string().starts_with("t.yaml:"));
        }
    }
    Ok(())
}

fn a_config() -> impl Strategy<Value = Config> {
    let interface =
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(native, both, vips)| Interface {
            name: String::new(),
            mode: if native { AttachMode::Native } else { AttachMode::Generic },
            role: if both { Role::Both } else { Role::Egress },
            assign_vips: vips,
        });
    let source = prop_oneof![
        Just(TunnelSource::Auto),
        any::<u8>().prop_map(|n| TunnelSource::Fixed {
            v4: Some([198, 51, 100, n].into()),
            v6: Some([0x2001, 0xdb8, 1, 0, 0, 0, 0, n.into()].into()),
        }),
    ];
    let seconds = || (1..365 * 86_400u64).prop_map(Duration::from_secs);
    let flows = (10..=26u32, seconds(), seconds(), 1000..100_000u64).prop_map(
        |(bits, tcp, tcp_closing, millis)| Flows {
            size: 1 << bits,
            tcp,
            tcp_closing,
            udp: Duration::from_millis(millis),
        },
    );
    let services = prop::collection::vec(a_service(), 0..6);
    let interfaces = prop::collection::vec(interface, 0..=MAX_INTERFACES);
    (interfaces, source, flows, any::<[u8; 16]>(), services).prop_map(
        |(mut interfaces, source, flows, key, mut services)| {
            for (i, interface) in interfaces.iter_mut().enumerate() {
                interface.name = format!("eth{i}");
            }
            for (i, service) in services.iter_mut().enumerate() {
                service.name = format!("s-{i}").parse().unwrap();
                // Distinct frontends, whatever protocols and ports are.
                service.frontend.address = match service.frontend.address {
                    IpAddr::V4(_) => IpAddr::from([192, 0, 2, u8::try_from(i).unwrap()]),
                    IpAddr::V6(_) => {
                        IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, u16::try_from(i).unwrap()])
                    }
                };
            }
            let tunnel = Tunnel { source, encapsulation: Encapsulation::Ipip };
            Config {
                interfaces,
                tunnel,
                flows,
                hash_key: HashKey(key),
                api: Api::default(),
                alarms: Alarms::default(),
                services,
            }
        },
    )
}

fn a_service() -> impl Strategy<Value = Service> {
    let backend = (any::<u16>(), prop::option::of(any::<[u8; 5]>()), any::<bool>());
    let port = prop_oneof![
        Just(Port::Any),
        (1..=u16::MAX).prop_map(|port| Port::Exact(NonZeroU16::new(port).unwrap())),
    ];
    (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        port,
        prop::sample::select(WhenEmpty::ALL),
        0..365 * 86_400_000u64,
        prop::collection::vec(backend, 0..5),
    )
        .prop_map(|(v4, tcp, direct, port, when_empty, drain_millis, backends)| Service {
            name: "web".parse().unwrap(),
            frontend: Frontend {
                address: if v4 { [192, 0, 2, 0].into() } else { [0u16; 8].into() },
                protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                port,
            },
            scheduler: Scheduler::Maglev,
            forward: if direct { Forward::Direct } else { Forward::Tunnel },
            when_empty,
            drain_timeout: Duration::from_millis(drain_millis),
            health: Arc::default(),
            sorry: None,
            backends: backends
                .into_iter()
                .enumerate()
                .map(|(i, (weight, mac, other_family))| Backend {
                    address: if v4 != (other_family && !direct) {
                        [10, 0, 0, u8::try_from(i).unwrap()].into()
                    } else {
                        [0xfd00, 0, 0, 0, 0, 0, 1, u16::try_from(i).unwrap()].into()
                    },
                    weight,
                    mac: mac.map(|[a, b, c, d, e]| MacAddr([2, a, b, c, d, e])),
                    is_down: false,
                })
                .collect(),
        })
}

fn exact(port: u16) -> Port {
    Port::Exact(NonZeroU16::new(port).unwrap())
}

#[test]
fn the_smallest_file_has_the_defaults() {
    let loaded = parse(MINIMAL);
    assert_eq!(loaded.warnings, []);
    let backend = Backend { address: [10, 0, 0, 11].into(), weight: 1, mac: None, is_down: false };
    let service = Service {
        name: "web".parse().unwrap(),
        frontend: Frontend {
            address: [192, 0, 2, 10].into(),
            protocol: Protocol::Tcp,
            port: exact(443),
        },
        scheduler: Scheduler::Maglev,
        forward: Forward::Tunnel,
        when_empty: WhenEmpty::Reject,
        drain_timeout: Duration::from_secs(300),
        health: Arc::default(),
        sorry: None,
        backends: vec![backend],
    };
    let expected = Config {
        interfaces: vec![],
        tunnel: Tunnel { source: TunnelSource::Auto, encapsulation: Encapsulation::Ipip },
        flows: Flows {
            size: 1_048_576,
            tcp: Duration::from_secs(7500),
            tcp_closing: Duration::from_secs(120),
            udp: Duration::from_secs(300),
        },
        hash_key: "6469726563746f722e686173686b6579".parse().unwrap(),
        api: Api::default(),
        alarms: Alarms::default(),
        services: vec![service],
    };
    assert_eq!(loaded.config, expected);
}

#[test]
fn the_largest_file_is_read_whole() {
    let Loaded { config, warnings } = parse(EXAMPLE);
    assert_eq!(warnings, []);
    let interface = |name: &str, mode, role, assign_vips| Interface {
        name: name.to_owned(),
        mode,
        role,
        assign_vips,
    };
    assert_eq!(
        config.interfaces,
        [
            interface("eth0", AttachMode::Native, Role::Both, false),
            interface("eth1", AttachMode::Generic, Role::Egress, true),
        ]
    );
    assert_eq!(
        config.tunnel.source,
        TunnelSource::Fixed {
            v4: Some([198, 51, 100, 1].into()),
            v6: Some("2001:db8:1::1".parse().unwrap()),
        }
    );
    assert_eq!(
        config.flows,
        Flows {
            size: 65536,
            tcp: Duration::from_secs(3600),
            tcp_closing: Duration::from_secs(30),
            udp: Duration::from_secs(90),
        }
    );
    assert_eq!(config.hash_key, HashKey(std::array::from_fn(|i| u8::try_from(i).unwrap())));

    let [web, dns_tcp, dns_udp, rest] = config.services.as_slice() else {
        panic!("{:#?}", config.services)
    };
    // From `defaults`: forward and drain_timeout.
    assert_eq!((web.forward, web.drain_timeout), (Forward::Tunnel, Duration::from_secs(600)));
    assert_eq!(web.when_empty, WhenEmpty::Reject);
    // One service per protocol, else the same.
    assert_eq!(dns_tcp.frontend.protocol, Protocol::Tcp);
    let mut as_udp = dns_tcp.clone();
    as_udp.frontend.protocol = Protocol::Udp;
    assert_eq!(*dns_udp, as_udp);
    assert_eq!((dns_tcp.forward, dns_tcp.drain_timeout), (Forward::Direct, Duration::ZERO));
    assert_eq!(
        dns_tcp.backends,
        [
            Backend {
                address: "2001:db8::11".parse().unwrap(),
                weight: 0,
                mac: None,
                is_down: false
            },
            Backend {
                address: "2001:db8::12".parse().unwrap(),
                weight: 65535,
                mac: Some(MacAddr([2, 0, 0x5e, 0x10, 0, 1])),
                is_down: false,
            },
        ]
    );
    assert_eq!((rest.frontend.port, rest.when_empty), (Port::Any, WhenEmpty::Pass));
}

#[test]
fn what_may_look_wrong_but_is_not() {
    for text in [
        // An exact port beside any port, and the same port of another protocol.
        change(
            BASE,
            "  - name: dns",
            "  - {name: any, address: 192.0.2.10, protocol: tcp, port: any, forward: tunnel, backends: [{address: 10.0.0.1}]}\n  - name: dns",
        ),
        // Quoted numbers, unquoted MACs, IPv6 in flow style that YAML happens to read.
        change(BASE, "port: 443", "port: \"443\""),
        change(BASE, "weight: 2", "mac: 02:00:00:00:00:01\n        weight: 2"),
        change(BASE, "- address: 2001:db8::11", "- {address: 2001:db8::11}"),
        // A tunnel to the other family.
        change(BASE, "address: 10.0.0.12", "address: fd00::12"),
        // An anchor and its alias.
        change(
            &change(
                BASE,
                "backends:\n      - address: 10.0.0.11",
                "backends: &b\n      - address: 10.0.0.11",
            ),
            "  - name: dns",
            "  - {name: b, address: 192.0.2.11, protocol: tcp, port: 1, forward: tunnel, backends: *b}\n  - name: dns",
        ),
        // Windows line ends, a byte order mark, a document start and end.
        BASE.replace('\n', "\r\n"),
        format!("\u{feff}{BASE}"),
        format!("---\n{BASE}...\n"),
        // A key of the hash that looks like a number.
        change(BASE, "6469726563746f722e686173686b6579", "00000000000000000000000000000001"),
    ] {
        let loaded = parse(&text);
        assert_eq!(loaded.warnings, [], "{text}");
    }
}

#[test]
fn a_file_is_read_as_its_text() {
    let path = scratch_file("loaded");
    fs::write(&path, EXAMPLE).unwrap();
    let loaded = config::load(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(loaded, config::parse(&path.display().to_string(), EXAMPLE));
}

#[test]
fn each_warning_where_it_belongs() {
    let weights = |first: &str, second: &str| {
        change(&change(BASE, "\n        weight: 1", first), "\n        weight: 2", second)
    };
    let no_backends =
        change(BASE, "    backends:\n      - address: 2001:db8::11\n", "    backends: []\n");
    let cases = [
        (WarningKind::NoServices, "services: []\n".to_owned(), (1, 11), "services"),
        (WarningKind::NoBackends, no_backends, (30, 15), "services[1].backends"),
        (
            WarningKind::AllWeightsZero,
            weights("\n        weight: 0", "\n        weight: 0"),
            (21, 7),
            "services[0].backends",
        ),
        (
            WarningKind::SomeWeights,
            weights("\n        weight: 5", ""),
            (21, 7),
            "services[0].backends",
        ),
    ];
    let kinds: Vec<_> = cases.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, WarningKind::ALL);
    for (kind, text, at, path) in cases {
        let warnings = parse(&text).warnings;
        let [warning] = warnings.as_slice() else { panic!("{kind}: {warnings:#?}") };
        let found = warning.position.map(|at| (at.line, at.column));
        assert_eq!((warning.kind, found, warning.path.as_str()), (kind, Some(at), path));
        assert!(warning.to_string().contains("\n  help: "), "{warning}");
    }
}

#[test]
fn a_hundred_thousand_errors_take_no_age() {
    let text =
        format!("services: []\n{}", numbered(100_000, |i| format!("k{i}: 1\n")).replace(", ", ""));
    let started = Instant::now();
    let errors = config::parse("t.yaml", &text).unwrap_err();
    assert_eq!(errors.errors.len() + errors.omitted, 100_000);
    assert!(started.elapsed() < Duration::from_secs(60), "took {:?}", started.elapsed());
}

#[test]
fn a_thousand_services_of_a_hundred_backends() {
    let mut text = "services:\n".to_owned();
    for s in 0..1000 {
        text += &format!(
            "  - name: s{s}\n    address: 192.0.{}.{}\n    protocol: tcp\n    port: 80\n    \
             forward: tunnel\n    backends:\n",
            s / 256,
            s % 256
        );
        for b in 0..100 {
            text += &format!("      - {{address: 10.{}.{}.{b}, weight: 2}}\n", s / 256, s % 256);
        }
    }
    let started = Instant::now();
    let config = parse(&text).config;
    let took = started.elapsed();
    assert_eq!(
        config.services.iter().map(|service| service.backends.len()).sum::<usize>(),
        100_000
    );
    // A few tenths of a second in release. The limit is for busy machines, and for what is quadratic.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 5 });
    assert!(took < limit, "took {took:?}");
    println!("{} bytes in {took:?}", text.len());
}

#[test]
fn the_examples_of_the_docs_are_right() {
    let blocks: Vec<&str> =
        DOCS.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        parse(block);
    }
}
