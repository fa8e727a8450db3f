//! Every error a configuration file can have, with its place, and the files that have none.
//!
//! Most rows change one thing in a valid file (`config/base.yaml`) and expect exactly one
//! error.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use director_userspace::policy::config::{
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
    contains: &'static str,
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

/// Services whose checks have large expressions, no two alike.
fn expressions(count: usize) -> String {
    let service = |n: usize| {
        format!(
            "  - {{name: s{n}, address: 192.0.2.1, protocol: tcp, port: {}, forward: tunnel, backends: \
             [{{address: 10.0.0.1}}], health: {{type: http, body: '\\w{{18}}x{n}'}}}}\n",
            n + 1
        )
    };
    format!("services:\n{}", (0..count).map(service).collect::<String>())
}

fn scratch_file(name: &str) -> PathBuf {
    let name: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{name}.yaml"))
}

// One row, one line, however long, so that columns can be compared.
#[rustfmt::skip]
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name, given, kind, at, path, contains| {
        rows.push(Row { name, given, kind, at, path, contains });
    };
    let change = |from, to: &str| Given::Change(from, to.to_owned());
    let text = |text: &str| Given::Text(text.to_owned());
    // The file.
    row("no such file", Given::Path("/nonexistent/director.yaml"), Kind::Unreadable, (0, 0), "", "No such file");
    row("a directory", Given::Path("/"), Kind::IsDirectory, (0, 0), "", "director.yaml");
    row("a device", Given::Path("/dev/null"), Kind::NotRegular, (0, 0), "", "it is a device");
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
    row("unknown key near another", change("drain_timeout: 5m", "helth: {}"), Kind::UnknownKey, (19, 5), "services[0].helth", "did you mean health?");
    row("unknown key near none", change("mode: native", "x y: native"), Kind::UnknownKey, (3, 5), "interfaces[0].\"x y\"", "name, mode, role, assign_vips");
    row("unknown key of tunnel", change("encapsulation:", "encap:"), Kind::UnknownKey, (6, 3), "tunnel.encap", "source, encapsulation");
    row("unknown key of flows", change("tcp: 2h5m", "tpc: 2h5m"), Kind::UnknownKey, (9, 3), "flows.tpc", "did you mean tcp?");
    row("name in defaults", text("defaults: {name: web}\nservices: []"), Kind::UnknownKey, (1, 12), "defaults.name", "address, protocol");
    row("merge key", change("    port: 443", "    port: 443\n    <<: {}"), Kind::UnknownKey, (16, 5), "services[0].\"<<\"", "no key of a service");
    row("persistence", change("scheduler: maglev", "persistence: {timeout: 5m}"), Kind::UnsupportedKey, (16, 5), "services[0].persistence", "not supported yet (this version");
    row("unknown key near an unsupported one", change("scheduler: maglev", "persistance: {timeout: 5m}"), Kind::UnknownKey, (16, 5), "services[0].persistance", "did you mean persistence?");
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
    row("unknown forwarding mode", change("forward: tunnel", "forward: tunel"), Kind::UnknownValue, (17, 14), "services[0].forward", "did you mean tunnel?");
    row("capitals", change("protocol: udp", "protocol: UDP"), Kind::UnknownValue, (27, 15), "services[1].protocol", "did you mean udp?");
    row("unknown protocol", change("protocol: udp", "protocol: icmp"), Kind::UnknownValue, (27, 15), "services[1].protocol", "one of tcp, udp");
    row("unknown protocol in a list", change("protocol: udp", "protocol: [udp, ip]"), Kind::UnknownValue, (27, 21), "services[1].protocol[1]", "");
    row("unknown scheduler", change("scheduler: maglev", "scheduler: magic"), Kind::UnknownValue, (16, 16), "services[0].scheduler", "maglev");
    row("unknown when_empty", change("when_empty: reject", "when_empty: rejcet"), Kind::UnknownValue, (18, 17), "services[0].when_empty", "did you mean reject?");
    row("unknown mode", change("mode: native", "mode: driver"), Kind::UnknownValue, (3, 11), "interfaces[0].mode", "native, generic");
    row("unknown role", change("mode: native", "role: ingress"), Kind::UnknownValue, (3, 11), "interfaces[0].role", "did you mean egress?");
    row("clients are on or off", change("size: 1Mi", "clients: some"), Kind::UnknownValue, (8, 12), "flows.clients", "true or false");
    row("no truth value", change("mode: native", "assign_vips: maybe"), Kind::UnknownValue, (3, 18), "interfaces[0].assign_vips", "true or false");
    row("unknown encapsulation", change("encapsulation: ipip", "encapsulation: ipsec"), Kind::UnknownValue, (6, 18), "tunnel.encapsulation", "ipip");
    row("nat", change("forward: tunnel", "forward: nat"), Kind::UnsupportedValue, (17, 14), "services[0].forward", "not supported yet (this version does tunnel, direct)");
    row("fullnat", change("forward: tunnel", "forward: fullnat"), Kind::UnsupportedValue, (17, 14), "services[0].forward", "not supported yet (this version does tunnel, direct)");
    row("local", change("forward: tunnel", "forward: local"), Kind::UnsupportedValue, (17, 14), "services[0].forward", "not supported yet (this version does tunnel, direct)");
    row("sctp", change("protocol: tcp", "protocol: [sctp, tcp]"), Kind::UnsupportedValue, (14, 16), "services[0].protocol[0]", "not supported yet (this version does tcp, udp)");
    row("wrr", change("scheduler: maglev", "scheduler: wrr"), Kind::UnsupportedValue, (16, 16), "services[0].scheduler", "not supported yet (this version does maglev)");
    row("long name of a scheduler", change("scheduler: maglev", "scheduler: least-connections"), Kind::UnsupportedValue, (16, 16), "services[0].scheduler", "not supported yet (this version does maglev)");
    row("sorry as a word", change("when_empty: reject", "when_empty: sorry"), Kind::UnknownValue, (18, 17), "services[0].when_empty", "write `sorry: {address: ...}`");
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
    // Health.
    row("checks are no list of words", change("scheduler: maglev", "health: tcp"), Kind::WrongType, (16, 13), "services[0].health", "write `type: ...`");
    row("check of a list is a word", change("scheduler: maglev", "health: [tcp]"), Kind::WrongType, (16, 14), "services[0].health[0]", "expected a check");
    row("nothing for checks", change("scheduler: maglev", "health:"), Kind::WrongType, (16, 11), "services[0].health", "found nothing");
    row("unknown key of a check", change("scheduler: maglev", "health: {type: tcp, inteval: 2s}"), Kind::UnknownKey, (16, 25), "services[0].health.inteval", "did you mean interval?");
    row("check without a type", change("scheduler: maglev", "health: {interval: 2s}"), Kind::MissingKey, (16, 13), "services[0].health.type", "one of tcp, http");
    row("unknown type of check", change("scheduler: maglev", "health: {type: htttp}"), Kind::UnknownValue, (16, 20), "services[0].health.type", "did you mean http?");
    row("key of another check", change("scheduler: maglev", "health: {type: tcp, path: /healthz}"), Kind::MisplacedKey, (16, 25), "services[0].health.path", "path is no key of a tcp check");
    row("sni of a plain check", change("scheduler: maglev", "health: {type: http, sni: a.example.net}"), Kind::MisplacedKey, (16, 26), "services[0].health.sni", "an http check");
    row("verify of a plain check", change("scheduler: maglev", "health: {type: http, verify: true}"), Kind::MisplacedKey, (16, 26), "services[0].health.verify", "an http check");
    row("port of an icmp check", change("scheduler: maglev", "health: {type: icmp, port: 7}"), Kind::MisplacedKey, (16, 26), "services[0].health.port", "an icmp check");
    row("record of a udp check", change("scheduler: maglev", "health: {type: udp, record: A}"), Kind::MisplacedKey, (16, 25), "services[0].health.record", "send, expect");
    row("send of a dns check", change("scheduler: maglev", "health: {type: dns, send: x}"), Kind::MisplacedKey, (16, 25), "services[0].health.send", "name, record, answer");
    row("command of a grpc check", change("scheduler: maglev", "health: [{type: tcp}, {type: grpc, command: /bin/true}]"), Kind::MisplacedKey, (16, 40), "services[0].health[1].command", "a grpc check");
    row("service of an exec check", change("scheduler: maglev", "health: {type: exec, command: /bin/true, service: x}"), Kind::MisplacedKey, (16, 46), "services[0].health.service", "an exec check");
    row("short interval", change("scheduler: maglev", "health: {type: tcp, interval: 50ms}"), Kind::DurationOutOfRange, (16, 35), "services[0].health.interval", "at least 100ms");
    row("timeout above the interval", change("scheduler: maglev", "health: {type: tcp, timeout: 3s}"), Kind::DurationOutOfRange, (16, 34), "services[0].health.timeout", "longer than the interval of 2s");
    row("no timeout", change("scheduler: maglev", "health: {type: tcp, timeout: 0}"), Kind::DurationOutOfRange, (16, 34), "services[0].health.timeout", "at least 1ms");
    row("interval without a unit", change("scheduler: maglev", "health: {type: tcp, interval: 2}"), Kind::BadDuration, (16, 35), "services[0].health.interval", "2s, 2ms");
    row("no rise", change("scheduler: maglev", "health: {type: tcp, rise: 0}"), Kind::NumberOutOfRange, (16, 31), "services[0].health.rise", "from 1 to 65535");
    row("no fall", change("scheduler: maglev", "health: {type: tcp, fall: 0}"), Kind::NumberOutOfRange, (16, 31), "services[0].health.fall", "from 1 to 65535");
    row("endless fall", change("scheduler: maglev", "health: {type: tcp, fall: 65536}"), Kind::NumberOutOfRange, (16, 31), "services[0].health.fall", "cannot be 65536");
    row("rise is a word", change("scheduler: maglev", "health: {type: tcp, rise: two}"), Kind::BadNumber, (16, 31), "services[0].health.rise", "no whole number");
    row("negative rise", change("scheduler: maglev", "health: {type: tcp, rise: -1}"), Kind::BadNumber, (16, 31), "services[0].health.rise", "no whole number");
    row("jitter without its sign", change("scheduler: maglev", "health: {type: tcp, jitter: 10}"), Kind::BadPercent, (16, 33), "services[0].health.jitter", "10%");
    row("jitter is a word", change("scheduler: maglev", "health: {type: tcp, jitter: some}"), Kind::BadPercent, (16, 33), "services[0].health.jitter", "50%");
    row("much jitter", change("scheduler: maglev", "health: {type: tcp, jitter: 60%}"), Kind::PercentOutOfRange, (16, 33), "services[0].health.jitter", "from 0% to 50%");
    row("unknown start", change("scheduler: maglev", "health: {type: tcp, start: dowm}"), Kind::UnknownValue, (16, 32), "services[0].health.start", "did you mean down?");
    row("unknown via", change("scheduler: maglev", "health: {type: tcp, via: tunnel}"), Kind::UnknownValue, (16, 30), "services[0].health.via", "direct, path");
    row("port of a check", change("scheduler: maglev", "health: {type: tcp, port: any}"), Kind::BadPort, (16, 31), "services[0].health.port", "1 to 65535");
    row("icmp through the path", change("scheduler: maglev", "health: {type: icmp, via: path}"), Kind::PathCheck, (16, 31), "services[0].health.via", "via: direct");
    row("exec through the path", change("scheduler: maglev", "health: {type: exec, command: /bin/true, via: path}"), Kind::PathCheck, (16, 51), "services[0].health.via", "an exec check");
    row("udp through the path of tcp", change("scheduler: maglev", "health: {type: udp, via: path}"), Kind::PathCheck, (16, 13), "services[0].health", "probes a udp port");
    row("dns through the path of tcp", change("scheduler: maglev", "health: [{type: tcp, via: path}, {type: dns, via: path}]"), Kind::PathCheck, (16, 38), "services[0].health[1]", "probes a udp port");
    row("bad method", change("scheduler: maglev", "health: {type: http, method: \"GET /\"}"), Kind::BadMethod, (16, 34), "services[0].health.method", "HEAD");
    row("method CONNECT", change("scheduler: maglev", "health: {type: https, method: CONNECT}"), Kind::BadMethod, (16, 35), "services[0].health.method", "CONNECT");
    row("relative path of a URL", change("scheduler: maglev", "health: {type: http, path: healthz}"), Kind::BadPath, (16, 32), "services[0].health.path", "start with /");
    row("space in the path of a URL", change("scheduler: maglev", "health: {type: http, path: \"/a b\"}"), Kind::BadPath, (16, 32), "services[0].health.path", "%20");
    row("fragment of a URL", change("scheduler: maglev", "health: {type: http, path: \"/a#b\"}"), Kind::BadPath, (16, 32), "services[0].health.path", "no path of a URL");
    row("long path of a URL", change("scheduler: maglev", &format!("health: {{type: http, path: /{}}}", "x".repeat(3000))), Kind::TooLong, (16, 32), "services[0].health.path", "at most 2048 bytes");
    row("bad host", change("scheduler: maglev", "health: {type: http, host: \"a b\"}"), Kind::BadHost, (16, 32), "services[0].health.host", "www.example.net");
    row("bad name of the API", change("hash_key: 6469726563746f722e686173686b6579", "api: {names: [lb1.example.net, 10.0.0.1]}"), Kind::BadHost, (10, 32), "api.names[1]", "not an address");
    row("bad sni", change("scheduler: maglev", "health: {type: https, sni: 10.0.0.1}"), Kind::BadHost, (16, 32), "services[0].health.sni", "not an address");
    row("unknown truth", change("scheduler: maglev", "health: {type: https, verify: yes}"), Kind::UnknownValue, (16, 35), "services[0].health.verify", "true or false");
    row("headers are no mapping", change("scheduler: maglev", "health: {type: http, headers: [a]}"), Kind::WrongType, (16, 35), "services[0].health.headers", "headers: {X-Check");
    row("list for a header's name", change("scheduler: maglev", "health: {type: http, headers: {[a]: b}}"), Kind::WrongType, (16, 36), "services[0].health.headers", "plain word");
    row("bad name of a header", change("scheduler: maglev", "health: {type: http, headers: {\"a b\": c}}"), Kind::BadHeader, (16, 43), "services[0].health.headers.\"a b\"", "no name of a header");
    row("bad value of a header", change("scheduler: maglev", "health: {type: http, headers: {a: \"b\\nc\"}}"), Kind::BadHeader, (16, 39), "services[0].health.headers.a", "line breaks");
    row("header with a key of its own", change("scheduler: maglev", "health: {type: http, headers: {Host: a}}"), Kind::BadHeader, (16, 42), "services[0].health.headers.Host", "`host:`");
    row("header that HTTP needs", change("scheduler: maglev", "health: {type: http, headers: {Content-Length: 5}}"), Kind::BadHeader, (16, 52), "services[0].health.headers.Content-Length", "a check cannot set");
    row("header twice", change("scheduler: maglev", "health: {type: http, headers: {a: b, A: c}}"), Kind::DuplicateKey, (16, 45), "services[0].health.headers.A", "twice");
    row("no status", change("scheduler: maglev", "health: {type: http, status: []}"), Kind::EmptyList, (16, 34), "services[0].health.status", "200-299");
    row("bad status", change("scheduler: maglev", "health: {type: http, status: 20}"), Kind::BadStatus, (16, 34), "services[0].health.status", "100 to 599");
    row("status upside down", change("scheduler: maglev", "health: {type: http, status: [200, 299-200]}"), Kind::BadStatus, (16, 40), "services[0].health.status[1]", "no range");
    row("status 600", change("scheduler: maglev", "health: {type: http, status: 200-600}"), Kind::BadStatus, (16, 34), "services[0].health.status", "100 to 599");
    row("bad regular expression", change("scheduler: maglev", "health: {type: http, body: \"(ok\"}"), Kind::BadRegex, (16, 32), "services[0].health.body", "unclosed group");
    row("huge regular expression", change("scheduler: maglev", "health: {type: http, body: \"(a{1000}){1000}\"}"), Kind::BadRegex, (16, 32), "services[0].health.body", "too large");
    row("too many regular expressions", text(&expressions(5_000)), Kind::TooManyRegexes, (34, 139), "services[32].health.body", "32 MiB");
    row("bad expectation", change("scheduler: maglev", "health: {type: udp, expect: \"*\"}"), Kind::BadRegex, (16, 33), "services[0].health.expect", "malformed");
    row("unknown version of HTTP", change("scheduler: maglev", "health: {type: http, version: 3}"), Kind::UnknownValue, (16, 35), "services[0].health.version", "1.1, 2");
    row("bad DNS name", change("scheduler: maglev", "health: {type: dns, name: a..b}"), Kind::BadDnsName, (16, 31), "services[0].health.name", "www.example.net");
    row("unknown record", change("scheduler: maglev", "health: {type: dns, record: B}"), Kind::UnknownValue, (16, 33), "services[0].health.record", "SOA");
    row("answer of a dns check", change("scheduler: maglev", "health: {type: dns, answer: 10.0.0.1}"), Kind::UnknownValue, (16, 33), "services[0].health.answer", "true or false");
    row("long datagram", change("scheduler: maglev", &format!("health: {{type: udp, send: {}}}", "x".repeat(3000))), Kind::TooLong, (16, 31), "services[0].health.send", "at most 1200");
    row("long name of a gRPC service", change("scheduler: maglev", &format!("health: {{type: grpc, service: {}}}", "x".repeat(3000))), Kind::TooLong, (16, 35), "services[0].health.service", "at most 256");
    row("no command", change("scheduler: maglev", "health: {type: exec}"), Kind::MissingKey, (16, 13), "services[0].health.command", "/usr/local/bin/check");
    row("relative command", change("scheduler: maglev", "health: {type: exec, command: check}"), Kind::BadCommand, (16, 35), "services[0].health.command", "no shell");
    row("relative command in a list", change("scheduler: maglev", "health: {type: exec, command: [bin/check, -q]}"), Kind::BadCommand, (16, 36), "services[0].health.command[0]", "no shell");
    row("empty command", change("scheduler: maglev", "health: {type: exec, command: []}"), Kind::EmptyList, (16, 35), "services[0].health.command", "absolute path");
    row("mapping for a command", change("scheduler: maglev", "health: {type: exec, command: {a: b}}"), Kind::WrongType, (16, 35), "services[0].health.command", "expected a program");
    row("zero byte in a command", change("scheduler: maglev", "health: {type: exec, command: [/bin/a, \"\\0\"]}"), Kind::BadCommand, (16, 44), "services[0].health.command[1]", "zero byte");
    row("root runs a check", change("scheduler: maglev", "health: {type: exec, command: /bin/true, user: root}"), Kind::BadAccount, (16, 52), "services[0].health.user", "never run as root");
    row("user 0 runs a check", change("scheduler: maglev", "health: {type: exec, command: /bin/true, user: 0}"), Kind::BadAccount, (16, 52), "services[0].health.user", "never run as root");
    row("bad user", change("scheduler: maglev", "health: {type: exec, command: /bin/true, user: a:b}"), Kind::BadAccount, (16, 52), "services[0].health.user", "letters");
    row("agent is a word", change("scheduler: maglev", "agent: http"), Kind::WrongType, (16, 12), "services[0].agent", "expected an agent");
    row("agent without a type", change("scheduler: maglev", "agent: {port: 1}"), Kind::MissingKey, (16, 12), "services[0].agent.type", "agent, http, exec");
    row("unknown agent", change("scheduler: maglev", "agent: {type: tcp}"), Kind::UnknownValue, (16, 19), "services[0].agent.type", "agent, http, exec");
    row("unknown key of an agent", change("scheduler: maglev", "agent: {type: agent, port: 1, smoothnig: 1%}"), Kind::UnknownKey, (16, 35), "services[0].agent.smoothnig", "did you mean smoothing?");
    row("key of another agent", change("scheduler: maglev", "agent: {type: agent, port: 1, path: /}"), Kind::MisplacedKey, (16, 35), "services[0].agent.path", "an agent of type agent");
    row("agent without a port", change("scheduler: maglev", "agent: {type: agent}"), Kind::MissingKey, (16, 12), "services[0].agent.port", "agent's own port");
    row("agent without a header", change("scheduler: maglev", "agent: {type: http}"), Kind::MissingKey, (16, 12), "services[0].agent.header", "header with the load");
    row("bad header of an agent", change("scheduler: maglev", "agent: {type: http, header: \"a b\"}"), Kind::BadHeader, (16, 33), "services[0].agent.header", "no name of a header");
    row("bad path of an agent", change("scheduler: maglev", "agent: {type: http, header: a, path: b}"), Kind::BadPath, (16, 42), "services[0].agent.path", "start with /");
    row("root runs an agent", change("scheduler: maglev", "agent: {type: exec, command: /bin/a, user: root}"), Kind::BadAccount, (16, 48), "services[0].agent.user", "never run as root");
    row("short interval of an agent", change("scheduler: maglev", "agent: {type: agent, port: 1, interval: 1ms}"), Kind::DurationOutOfRange, (16, 45), "services[0].agent.interval", "at least 100ms");
    row("long timeout of an agent", change("scheduler: maglev", "agent: {type: agent, port: 1, timeout: 6s}"), Kind::DurationOutOfRange, (16, 44), "services[0].agent.timeout", "interval of 5s");
    row("least share", change("scheduler: maglev", "agent: {type: agent, port: 1, min: 101%}"), Kind::PercentOutOfRange, (16, 40), "services[0].agent.min", "from 0% to 100%");
    row("no smoothing", change("scheduler: maglev", "agent: {type: agent, port: 1, smoothing: 0%}"), Kind::PercentOutOfRange, (16, 46), "services[0].agent.smoothing", "from 1% to 100%");
    row("no quorum", change("scheduler: maglev", "quorum: 0"), Kind::NumberOutOfRange, (16, 13), "services[0].quorum", "from 1 to");
    row("quorum is a word", change("scheduler: maglev", "quorum: most"), Kind::BadNumber, (16, 13), "services[0].quorum", "whole number");
    row("hysteresis of the quorum", change("scheduler: maglev", "hysteresis: 1"), Kind::NumberOutOfRange, (16, 17), "services[0].hysteresis", "less than the quorum of 1");
    row("negative hysteresis", change("scheduler: maglev", "hysteresis: -1"), Kind::BadNumber, (16, 17), "services[0].hysteresis", "whole number");
    row("unknown on_down", change("scheduler: maglev", "on_down: keeep"), Kind::UnknownValue, (16, 14), "services[0].on_down", "did you mean keep?");
    row("long slow start", change("scheduler: maglev", "slow_start: 2000d"), Kind::DurationOutOfRange, (16, 17), "services[0].slow_start", "at most 365d");
    row("panic at nothing", change("scheduler: maglev", "panic: 0%"), Kind::PercentOutOfRange, (16, 12), "services[0].panic", "from 1% to 100%");
    row("panic is a word", change("scheduler: maglev", "panic: always"), Kind::BadPercent, (16, 12), "services[0].panic", "50%");
    row("sorry is an address", change("scheduler: maglev", "sorry: 10.0.0.99"), Kind::WrongType, (16, 12), "services[0].sorry", "address: ...");
    row("sorry without an address", change("scheduler: maglev", "sorry: {mac: \"02:00:00:00:00:01\"}"), Kind::MissingKey, (16, 12), "services[0].sorry.address", "IP address");
    row("weight of the sorry backend", change("scheduler: maglev", "sorry: {address: 10.0.0.99, weight: 2}"), Kind::UnknownKey, (16, 33), "services[0].sorry.weight", "address, mac");
    row("port of the sorry backend", change("scheduler: maglev", "sorry: {address: 10.0.0.99, port: 80}"), Kind::UnsupportedKey, (16, 33), "services[0].sorry.port", "not supported yet");
    row("bad address of the sorry backend", change("scheduler: maglev", "sorry: {address: web}"), Kind::BadAddress, (16, 22), "services[0].sorry.address", "not looked up");
    row("bad MAC of the sorry backend", change("scheduler: maglev", "sorry: {address: 10.0.0.99, mac: x}"), Kind::BadMac, (16, 38), "services[0].sorry.mac", "six pairs");
    row("sorry backend is the VIP", change("scheduler: maglev", "sorry: {address: 192.0.2.10}"), Kind::BackendIsVip, (16, 22), "services[0].sorry.address", "line 12");
    row("sorry backend is among the backends", change("scheduler: maglev", "sorry: {address: 10.0.0.12}"), Kind::DuplicateBackend, (16, 22), "services[0].sorry.address", "line 23");
    row("any port, and a check that needs one", change("port: 443\n    scheduler: maglev", "port: any\n    health: {type: http}"), Kind::NoPort, (16, 13), "services[0].health", "an http check needs a port");
    row("any port, and a default check that needs one", text(&format!("defaults: {{health: {{type: tcp}}}}\nservices:\n- {}\n- {}\n", change_all(WEB, "443", "any"), change_all(&change_all(WEB, "web, address: 192.0.2.10", "web2, address: 192.0.2.11"), "443", "any, health: none"))), Kind::NoPort, (1, 20), "defaults.health", "needs a port");
    row("any port, and an agent that needs one", change("port: 443\n    scheduler: maglev", "port: any\n    agent: {type: http, header: load}"), Kind::NoPort, (16, 12), "services[0].agent", "write `port:`");
    row("error in the defaults' health", text(&format!("defaults: {{health: {{type: tcp, rise: 0}}}}\nservices:\n- {WEB}\n- {}\n", change_all(WEB, "web, address: 192.0.2.10", "web2, address: 192.0.2.11"))), Kind::NumberOutOfRange, (1, 38), "defaults.health.rise", "from 1");
    row("hysteresis of the defaults' quorum", text(&format!("defaults: {{quorum: 3}}\nservices:\n- {}\n", change_all(WEB, "port: 443", "port: 443, hysteresis: 3"))), Kind::NumberOutOfRange, (3, 74), "services[0].hysteresis", "quorum of 3");
    row("sorry backend of another family", text(&format!("services:\n- {}\n", change_all(WEB, "forward: tunnel", "forward: direct, sorry: {address: \"fd00::1\"}"))), Kind::FamilyMix, (2, 96), "services[0].sorry.address", "use forward: tunnel");
    row("no source for the sorry backend", text(&format!("tunnel: {{source: 198.51.100.1}}\nservices:\n- {}\n", change_all(WEB, "port: 443", "port: 443, sorry: {address: \"fd00::1\"}"))), Kind::NoTunnelSource, (1, 18), "tunnel.source", "fd00::1");
    // The API and the alarms.
    row("api is a word", change("hash_key: 6469726563746f722e686173686b6579", "api: /run/x"), Kind::WrongType, (10, 6), "api", "socket, group");
    row("unknown key of the API", change("hash_key: 6469726563746f722e686173686b6579", "api: {scoket: /run/x}"), Kind::UnknownKey, (10, 7), "api.scoket", "did you mean socket?");
    row("relative socket", change("hash_key: 6469726563746f722e686173686b6579", "api: {socket: run/x}"), Kind::BadSocket, (10, 15), "api.socket", "absolute path");
    row("long path of a socket", change("hash_key: 6469726563746f722e686173686b6579", &format!("api: {{socket: /{}}}", "x".repeat(3000))), Kind::TooLong, (10, 15), "api.socket", "at most 107");
    row("bad group", change("hash_key: 6469726563746f722e686173686b6579", "api: {group: a/b}"), Kind::BadAccount, (10, 14), "api.group", "name of a group");
    row("metrics at a name", change("hash_key: 6469726563746f722e686173686b6579", "api: {metrics: \"localhost:9815\"}"), Kind::BadSocket, (10, 16), "api.metrics", "127.0.0.1:9815");
    row("metrics without a port", change("hash_key: 6469726563746f722e686173686b6579", "api: {metrics: 127.0.0.1}"), Kind::BadSocket, (10, 16), "api.metrics", "a port");
    row("page at port 0", change("hash_key: 6469726563746f722e686173686b6579", "api: {page: \"127.0.0.1:0\"}"), Kind::BadSocket, (10, 13), "api.page", "a port");
    row("page at the address of the metrics", change("hash_key: 6469726563746f722e686173686b6579", "api: {metrics: \"[::1]:1\", page: \"[::1]:1\"}"), Kind::DuplicateListener, (10, 33), "api.page", "another port");
    row("alarms are a word", change("hash_key: 6469726563746f722e686173686b6579", "alarms: /bin/true"), Kind::WrongType, (10, 9), "alarms", "exec, user");
    row("unknown key of alarms", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {web-hook: a}"), Kind::UnknownKey, (10, 10), "alarms.web-hook", "did you mean webhook?");
    row("relative program of alarms", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {exec: notify}"), Kind::BadCommand, (10, 16), "alarms.exec", "absolute path");
    row("relative program in a list of alarms", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {exec: [[/bin/a, b], [notify]]}"), Kind::BadCommand, (10, 31), "alarms.exec[1][0]", "absolute path");
    row("a word among programs", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {exec: [[/bin/a, b], /bin/c]}"), Kind::WrongType, (10, 30), "alarms.exec[1]", "list of such lists");
    row("root runs alarms", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {exec: /bin/a, user: root}"), Kind::BadAccount, (10, 30), "alarms.user", "never run as root");
    row("webhook is no URL", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {webhook: alerts}"), Kind::BadUrl, (10, 19), "alarms.webhook", "https://");
    row("webhook of another scheme", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {webhooks: [\"http://a/\", \"ftp://b/\"]}"), Kind::BadUrl, (10, 34), "alarms.webhooks[1]", "http:// or https://");
    row("webhook with a password", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {webhook: \"https://a:b@c/\"}"), Kind::BadUrl, (10, 19), "alarms.webhook", "password");
    row("webhook with a fragment", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {webhook: \"https://c/#a\"}"), Kind::BadUrl, (10, 19), "alarms.webhook", "fragment");
    row("two keys for webhooks", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {webhooks: [], webhook: \"http://a/\"}"), Kind::DuplicateKey, (10, 33), "alarms.webhook", "two words for one key");
    row("mail is a word", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: a@example.net}"), Kind::WrongType, (10, 16), "alarms.mail", "server, starttls");
    row("mail without a server", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {from: a@example.net, to: a@example.net}}"), Kind::MissingKey, (10, 16), "alarms.mail.server", "mail.example.net:587");
    row("mail without a sender", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {server: \"a:25\", to: a@example.net}}"), Kind::MissingKey, (10, 16), "alarms.mail.from", "sender");
    row("mail without recipients", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {server: \"a:25\", from: a@example.net}}"), Kind::MissingKey, (10, 16), "alarms.mail.to", "list of addresses");
    row("mail to an empty list", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {server: \"a:25\", from: a@example.net, to: []}}"), Kind::EmptyList, (10, 58), "alarms.mail.to", "name the recipients");
    row("mail server without a port", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {server: mail.example.net, from: a@example.net, to: a@example.net}}"), Kind::BadHost, (10, 25), "alarms.mail.server", "587");
    row("bad sender", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {server: \"a:25\", from: \"A <a@b>\", to: a@example.net}}"), Kind::BadMailAddress, (10, 39), "alarms.mail.from", "ops@example.net");
    row("bad receiver", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {server: \"a:25\", from: a@example.net, to: [a@example.net, b]}}"), Kind::BadMailAddress, (10, 74), "alarms.mail.to[1]", "ops@example.net");
    row("starttls is a word", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {server: \"a:25\", starttls: maybe, from: a@example.net, to: a@example.net}}"), Kind::UnknownValue, (10, 43), "alarms.mail.starttls", "true or false");
    row("unknown key of mail", change("hash_key: 6469726563746f722e686173686b6579", "alarms: {mail: {server: \"a:25\", form: a, from: a@example.net, to: a@example.net}}"), Kind::UnknownKey, (10, 33), "alarms.mail.form", "did you mean from?");
    // Errors in defaults are reported once, where they are.
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

/// A few hundred bytes that expand to nine to the power of nine words.
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
    let wrong: Vec<String> = rows().iter().filter_map(|row| mismatch(row).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn mismatch(row: &Row) -> Result<(), String> {
    let name = row.name;
    let errors = row.given.load(name).err().ok_or(format!("{name}: no error"))?;
    let [error] = errors.errors.as_slice() else {
        return Err(format!("{name}: not one error:\n{errors}"));
    };
    let at = error.position.map_or((0, 0), |at| (at.line, at.column));
    let found = (error.kind, at, error.path.as_str());
    let expected = (row.kind, row.at, row.path);
    let text = format!("{}\n{}", error.message, error.hint);
    if found == expected
        && text.contains(row.contains)
        && !error.hint.is_empty()
        && errors.omitted == 0
    {
        return Ok(());
    }
    Err(format!("{name}: expected {expected:?}, and {:?} in\n{errors}", row.contains))
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
fn an_error_is_printed_with_its_line_and_serialized() {
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
fn control_characters_of_the_file_do_not_reach_the_terminal() {
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
    ("scheduler: maglev", "persistence: {timeout: 5m}", Kind::UnsupportedKey),
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
    let flows = (10..=26u32, seconds(), seconds(), 1000..100_000u64, any::<bool>()).prop_map(
        |(bits, tcp, tcp_closing, millis, clients)| Flows {
            size: 1 << bits,
            tcp,
            tcp_closing,
            udp: Duration::from_millis(millis),
            clients,
        },
    );
    let services = prop::collection::vec(a_service(), 0..6);
    let interfaces = prop::collection::vec(interface, 0..=MAX_INTERFACES);
    (interfaces, source, flows, any::<[u8; 16]>(), an_api(), some_alarms(), services).prop_map(
        |(mut interfaces, source, flows, key, api, alarms, mut services)| {
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
            Config { interfaces, tunnel, flows, hash_key: HashKey(key), api, alarms, services }
        },
    )
}

fn an_api() -> impl Strategy<Value = Api> {
    let listener = |port: u16| {
        prop::option::of(prop_oneof![
            Just(SocketAddr::from(([127, 0, 0, 1], port))),
            Just(SocketAddr::from(([0; 8], port))),
        ])
    };
    let socket = prop::option::of("/[a-z]{1,9}/[a-z]{1,9}".prop_map(PathBuf::from));
    let names = prop::collection::vec("[a-z]{1,9}(\\.[a-z]{2,3})?", 0..3);
    (names, socket, prop::option::of("[a-z0-9_]{1,9}"), listener(9815), listener(9816)).prop_map(
        |(names, socket, group, metrics, page)| Api { names, socket, group, metrics, page },
    )
}

fn some_alarms() -> impl Strategy<Value = Alarms> {
    let url = "https?://[a-z]{1,9}(:[1-9][0-9]{0,3})?/[a-z0-9/?=%]{0,9}";
    let address = || "[a-z]{1,9}@[a-z]{1,9}(\\.[a-z]{2,3})?";
    let mail = (
        "[a-z]{1,9}:[1-9][0-9]{0,3}",
        any::<bool>(),
        address(),
        prop::collection::vec(address(), 1..3),
    )
        .prop_map(|(server, starttls, from, to)| Mail { server, starttls, from, to });
    (
        prop::collection::vec(a_command(), 0..3),
        prop::option::of(a_user()),
        prop::collection::vec(url, 0..3),
        prop::option::of(mail),
    )
        .prop_map(|(exec, user, webhooks, mail)| Alarms { exec, user, webhooks, mail })
}

/// Without characters that JSON leaves unescaped and YAML rejects.
const ANY_TEXT: &str = "[ -~\t\näß€]{0,9}";

fn a_command() -> impl Strategy<Value = Vec<String>> {
    ("/[a-z/]{0,9}[a-z]", prop::collection::vec(ANY_TEXT, 0..3)).prop_map(|(program, arguments)| {
        [program].into_iter().chain(arguments).collect::<Vec<String>>()
    })
}

fn a_user() -> impl Strategy<Value = String> {
    "[a-z_0-9][a-z0-9_-]{0,9}"
        .prop_filter("root", |name| name != "root" && name.bytes().any(|byte| byte != b'0'))
}

fn an_exec() -> impl Strategy<Value = ExecProbe> {
    (a_command(), a_user()).prop_map(|(command, user)| ExecProbe { command, user })
}

fn a_port() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|port| NonZeroU16::new(port).unwrap())
}

fn an_http_probe(tls: bool) -> impl Strategy<Value = HttpProbe> {
    let status = (100..=599u16, 0..100u16).prop_map(|(from, n)| from..=(from + n).min(599));
    let headers =
        prop::collection::btree_map("x-[a-z0-9]{1,6}", "([!-~]([ -~]{0,9}[!-~])?)?", 0..3);
    let name = || prop::option::of("[a-z][a-z0-9]{0,9}(\\.[a-z][a-z0-9]{0,5}){0,2}");
    (
        prop::sample::select(vec!["GET", "HEAD", "POST", "PURGE"]),
        "/[a-z0-9/?=&%-]{0,12}",
        name(),
        headers,
        prop::collection::vec(status, 1..4),
        a_pattern(),
        prop::sample::select(HttpVersion::ALL),
        name(),
        any::<bool>(),
    )
        .prop_map(move |(method, path, host, headers, status, body, version, sni, verify)| {
            HttpProbe {
                method: method.to_owned(),
                path,
                host,
                headers: headers.into_iter().collect(),
                status,
                body,
                version,
                sni: sni.filter(|_| tls),
                verify: verify && tls,
            }
        })
}

fn a_pattern() -> impl Strategy<Value = Option<String>> {
    prop::option::of("\\^?[a-z0-9.\"'#: ]{0,9}(\\\\x00|\\(a\\|b\\)\\+|\\[0-9\\])?\\$?")
}

fn a_probe() -> impl Strategy<Value = Probe> {
    let record = prop::sample::select(vec!["A", "AAAA", "SOA", "TXT"]);
    let dns = (
        prop_oneof![Just(".".to_owned()), "[a-z]{1,9}(\\.[a-z_]{1,9}){0,3}\\.?"],
        record,
        any::<bool>(),
    )
        .prop_map(|(name, record, answer)| DnsProbe {
            name,
            record: record.to_owned(),
            answer,
        });
    let udp = (ANY_TEXT, a_pattern()).prop_map(|(send, expect)| UdpProbe { send, expect });
    prop_oneof![
        Just(Probe::Tcp),
        an_http_probe(false).prop_map(Probe::Http),
        an_http_probe(true).prop_map(Probe::Https),
        dns.prop_map(Probe::Dns),
        udp.prop_map(Probe::Udp),
        Just(Probe::Icmp),
        an_exec().prop_map(Probe::Exec),
        "[a-z.]{0,9}".prop_map(|service| Probe::Grpc(GrpcProbe { service })),
    ]
}

fn times() -> impl Strategy<Value = (Duration, Duration)> {
    (100..100_000u64, any::<prop::sample::Index>()).prop_map(|(interval, timeout)| {
        let timeout = 1 + timeout.index(usize::try_from(interval).unwrap()) as u64;
        (Duration::from_millis(interval), Duration::from_millis(timeout))
    })
}

fn a_check() -> impl Strategy<Value = HealthCheck> {
    (
        a_probe(),
        times(),
        (1..=u16::MAX, 1..=u16::MAX),
        0..=50u8,
        prop::sample::select(Start::ALL),
        prop::option::of(a_port()),
        prop::sample::select(Via::ALL),
    )
        .prop_map(|(probe, (interval, timeout), (rise, fall), jitter, start, port, via)| {
            let by_host = matches!(probe, Probe::Icmp | Probe::Exec(_));
            HealthCheck {
                port: port.filter(|_| probe != Probe::Icmp),
                via: if by_host { Via::Direct } else { via },
                probe,
                interval,
                timeout,
                rise,
                fall,
                jitter: Percent(jitter),
                start,
            }
        })
}

fn an_agent() -> impl Strategy<Value = Agent> {
    let source = prop_oneof![
        a_port().prop_map(|port| AgentSource::Agent { port }),
        (prop::option::of(a_port()), "/[a-z]{0,9}", "x-[a-z]{1,9}")
            .prop_map(|(port, path, header)| AgentSource::Http { port, path, header }),
        an_exec().prop_map(AgentSource::Exec),
    ];
    (source, times(), 0..=100u8, 1..=100u8).prop_map(
        |(source, (interval, timeout), min, smoothing)| Agent {
            source,
            interval,
            timeout,
            min: Percent(min),
            smoothing: Percent(smoothing),
        },
    )
}

/// For a service of any port; `fit_health` makes it one for a given service.
fn a_health() -> impl Strategy<Value = Health> {
    (
        prop::collection::vec(a_check(), 0..4),
        prop::option::of(an_agent()),
        (1..10_000u32, any::<prop::sample::Index>()),
        prop::sample::select(OnDown::ALL),
        0..86_400_000u64,
        1..=100u8,
    )
        .prop_map(|(checks, agent, (quorum, hysteresis), on_down, slow_start, panic)| Health {
            checks,
            agent,
            quorum,
            hysteresis: u32::try_from(hysteresis.index(quorum as usize)).unwrap(),
            on_down,
            slow_start: Duration::from_millis(slow_start),
            panic: Percent(panic),
        })
}

/// Gives checks a port where the service has none for them.
fn fit_health(mut health: Health, port: Port, protocol: Protocol) -> Health {
    for check in &mut health.checks {
        let is_udp = matches!(check.probe, Probe::Dns(_) | Probe::Udp(_));
        let fits = is_udp == (protocol == Protocol::Udp) || check.via == Via::Direct;
        let wants_port = !matches!(check.probe, Probe::Icmp | Probe::Exec(_));
        if wants_port && (port == Port::Any || !fits) {
            check.port = check.port.or(NonZeroU16::new(8080));
        }
    }
    if let Some(Agent { source: AgentSource::Http { port: of_agent, .. }, .. }) = &mut health.agent
        && port == Port::Any
    {
        *of_agent = of_agent.or(NonZeroU16::new(8080));
    }
    health
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
        (a_health(), prop::option::of(prop::option::of(any::<[u8; 5]>()))),
    )
        .prop_map(
            |(v4, tcp, direct, port, when_empty, drain_millis, backends, (health, sorry))| {
                Service {
                    name: "web".parse().unwrap(),
                    frontend: Frontend {
                        address: if v4 { [192, 0, 2, 0].into() } else { [0u16; 8].into() },
                        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                        port,
                    },
                    scheduler: Scheduler::Maglev,
                    forward: if direct { ForwardMode::Direct } else { ForwardMode::Tunnel },
                    when_empty,
                    drain_timeout: Duration::from_millis(drain_millis),
                    health: Arc::new(fit_health(
                        health,
                        port,
                        if tcp { Protocol::Tcp } else { Protocol::Udp },
                    )),
                    sorry: sorry.map(|mac| Backend {
                        address: if v4 {
                            [10, 0, 1, 1].into()
                        } else {
                            [0xfd00, 0, 0, 0, 0, 0, 2, 1].into()
                        },
                        weight: 1,
                        mac: mac.map(|[a, b, c, d, e]| MacAddr([2, a, b, c, d, e])),
                        availability: Availability::Available,
                    }),
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
                            availability: Availability::Available,
                        })
                        .collect(),
                }
            },
        )
}

fn exact(port: u16) -> Port {
    Port::Exact(NonZeroU16::new(port).unwrap())
}

#[test]
fn the_smallest_file_has_the_defaults() {
    let loaded = parse(MINIMAL);
    assert_eq!(loaded.warnings, []);
    let backend = Backend {
        address: [10, 0, 0, 11].into(),
        weight: 1,
        mac: None,
        availability: Availability::Available,
    };
    let service = Service {
        name: "web".parse().unwrap(),
        frontend: Frontend {
            address: [192, 0, 2, 10].into(),
            protocol: Protocol::Tcp,
            port: exact(443),
        },
        scheduler: Scheduler::Maglev,
        forward: ForwardMode::Tunnel,
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
            clients: false,
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
            clients: false,
        }
    );
    assert_eq!(config.hash_key, HashKey(std::array::from_fn(|i| u8::try_from(i).unwrap())));

    let [web, dns_tcp, dns_udp, rest] = config.services.as_slice() else {
        panic!("{:#?}", config.services)
    };
    // From `defaults`: forward and drain_timeout.
    assert_eq!((web.forward, web.drain_timeout), (ForwardMode::Tunnel, Duration::from_secs(600)));
    assert_eq!(web.when_empty, WhenEmpty::Reject);
    // One service per protocol, else the same.
    assert_eq!(dns_tcp.frontend.protocol, Protocol::Tcp);
    let mut as_udp = dns_tcp.clone();
    as_udp.frontend.protocol = Protocol::Udp;
    assert_eq!(*dns_udp, as_udp);
    assert_eq!((dns_tcp.forward, dns_tcp.drain_timeout), (ForwardMode::Direct, Duration::ZERO));
    assert_eq!(
        dns_tcp.backends,
        [
            Backend {
                address: "2001:db8::11".parse().unwrap(),
                weight: 0,
                mac: None,
                availability: Availability::Available
            },
            Backend {
                address: "2001:db8::12".parse().unwrap(),
                weight: 65535,
                mac: Some(MacAddr([2, 0, 0x5e, 0x10, 0, 1])),
                availability: Availability::Available,
            },
        ]
    );
    assert_eq!((rest.frontend.port, rest.when_empty), (Port::Any, WhenEmpty::Pass));
    // Everything of health, the API and the alarms.
    let words = |service: &Service| {
        service.health.checks.iter().map(|check| check.probe.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(words(web), ["tcp", "http", "https", "icmp", "exec", "grpc"]);
    assert_eq!((words(dns_udp), words(rest)), (vec!["dns", "udp"], vec![]));
    assert_eq!((web.health.quorum, web.health.hysteresis, web.health.panic), (2, 1, Percent(50)));
    assert_eq!(web.sorry.as_ref().map(|sorry| sorry.address), Some([10, 0, 0, 99].into()));
    assert!(matches!(
        dns_udp.health.agent,
        Some(Agent { source: AgentSource::Agent { .. }, smoothing: Percent(100), .. })
    ));
    assert_eq!(config.api.socket, Some(PathBuf::from("/run/director/director.sock")));
    assert_eq!(config.alarms.exec, [["/usr/local/bin/page-me", "--quiet"]]);
    assert_eq!(config.alarms.mail.as_ref().map(|mail| mail.to.len()), Some(2));
}

/// The health settings of a service with these keys.
fn health_of(keys: &str) -> Arc<Health> {
    Arc::clone(&parse(&change(BASE, "scheduler: maglev", keys)).config.services[0].health)
}

#[test]
fn every_key_of_a_check_has_its_default() {
    let check = |probe| HealthCheck {
        probe,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        jitter: Percent(10),
        start: Start::Up,
        port: None,
        via: Via::Direct,
    };
    let http = || HttpProbe {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: None,
        headers: vec![],
        status: vec![200..=299],
        body: None,
        version: HttpVersion::Http1,
        sni: None,
        verify: false,
    };
    let dns = |name: &str, record: &str| {
        Probe::Dns(DnsProbe { name: name.to_owned(), record: record.to_owned(), answer: false })
    };
    let command = vec!["/bin/check".to_owned()];
    for (keys, probe) in [
        ("type: tcp", Probe::Tcp),
        ("type: http", Probe::Http(http())),
        ("type: https", Probe::Https(http())),
        ("type: dns", dns(".", "SOA")),
        ("type: dns, name: .", dns(".", "SOA")),
        ("type: dns, name: a.example.net", dns("a.example.net", "A")),
        ("type: dns, record: ns", dns(".", "NS")),
        ("type: udp", Probe::Udp(UdpProbe { send: String::new(), expect: None })),
        ("type: icmp", Probe::Icmp),
        (
            "type: exec, command: /bin/check",
            Probe::Exec(ExecProbe { command, user: "nobody".to_owned() }),
        ),
        ("type: grpc", Probe::Grpc(GrpcProbe { service: String::new() })),
    ] {
        assert_eq!(health_of(&format!("health: {{{keys}}}")).checks, [check(probe)], "{keys}");
    }
    // A short interval has a short timeout.
    let quick = &health_of("health: {type: tcp, interval: 500ms}").checks[0];
    assert_eq!(quick.timeout, Duration::from_millis(500));
    // A list of one is the same as the one.
    assert_eq!(health_of("health: [{type: tcp}]"), health_of("health: {type: tcp}"));
    let agent = health_of("agent: {type: agent, port: 8081}").agent.clone();
    let expected = Agent {
        source: AgentSource::Agent { port: NonZeroU16::new(8081).unwrap() },
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        min: Percent(1),
        smoothing: Percent(80),
    };
    assert_eq!(agent, Some(expected));
    let health = health_of("panic: never\n    slow_start: 30s\n    quorum: 2\n    hysteresis: 1");
    let expected = Health {
        slow_start: Duration::from_secs(30),
        quorum: 2,
        hysteresis: 1,
        ..Health::default()
    };
    assert_eq!(*health, expected);
    assert_eq!(health_of("panic: 50%").panic, Percent(50));
}

#[test]
fn a_service_takes_the_defaults_health_or_its_own() {
    let services = |keys: &[&str]| {
        let mut text =
            "defaults: {health: {type: tcp}, on_down: keep, forward: tunnel, protocol: tcp}\nservices:\n"
                .to_owned();
        for (port, keys) in (1..).zip(keys) {
            text += &format!(
                "- {{name: s{port}, address: 192.0.2.1, port: {port}, backends: [{{address: 10.0.0.1}}]{keys}}}\n"
            );
        }
        parse(&text).config.services
    };
    let all = services(&[
        "",
        "",
        ", health: none",
        ", health: []",
        ", health: [{type: icmp}, {type: http}]",
        ", panic: 50%",
        ", agent: none",
    ]);
    let [first, second, none, empty, own, panic, agent] = all.as_slice() else {
        panic!("{all:#?}")
    };
    let words = |service: &Service| {
        service.health.checks.iter().map(|check| check.probe.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(words(first), ["tcp"]);
    assert!(Arc::ptr_eq(&first.health, &second.health), "kept twice");
    assert_eq!((words(none), words(empty)), (vec![], vec![]));
    assert_eq!(words(own), ["icmp", "http"]);
    assert_eq!((words(panic), panic.health.panic), (vec!["tcp"], Percent(50)));
    assert_eq!(agent.health, first.health);
    assert!(all.iter().all(|service| service.health.on_down == OnDown::Keep));
}

#[test]
fn alarms_have_short_forms() {
    let alarms = |text: &str| parse(&format!("alarms: {text}\n{BASE}")).config.alarms;
    let exec = |exec: &str| alarms(&format!("{{exec: {exec}}}")).exec;
    assert_eq!(exec("/bin/a"), [["/bin/a"]]);
    assert_eq!(exec("[/bin/a, b]"), [["/bin/a", "b"]]);
    assert_eq!(exec("[[/bin/a, b], [/bin/c]]"), [vec!["/bin/a", "b"], vec!["/bin/c"]]);
    assert!(exec("[]").is_empty());
    let url = "https://alerts.example.net/director";
    assert_eq!(alarms(&format!("{{webhook: \"{url}\"}}")).webhooks, [url]);
    assert_eq!(alarms(&format!("{{webhooks: [\"{url}\"]}}")).webhooks, [url]);
    let mail =
        alarms("{mail: {server: \"[2001:db8::25]:25\", from: a@example.net, to: b@example.net}}");
    let expected = Mail {
        server: "[2001:db8::25]:25".to_owned(),
        starttls: true,
        from: "a@example.net".to_owned(),
        to: vec!["b@example.net".to_owned()],
    };
    assert_eq!(mail.mail, Some(expected));
}

#[test]
fn unusual_files_that_are_valid() {
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
        // Checks of another protocol than the service's, with a port of their own.
        change(
            BASE,
            "scheduler: maglev",
            "health: [{type: icmp}, {type: udp, via: path, port: 9}]",
        ),
        // A check of the backend's own address may be of any protocol.
        change(BASE, "scheduler: maglev", "health: {type: dns}"),
        // A check that one of two protocols fits.
        change(BASE, "protocol: udp", "protocol: [tcp, udp]\n    health: {type: dns, via: path}"),
        // No port is needed, or one is there.
        change(
            BASE,
            "port: 443",
            "port: any\n    health: [{type: icmp}, {type: exec, command: /bin/a}, {type: tcp, port: 80}]",
        ),
        // A hash key that looks like a number.
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
        (
            WarningKind::QuorumTooHigh,
            change(BASE, "scheduler: maglev", "quorum: 3\n    hysteresis: 1"),
            (16, 13),
            "services[0].quorum",
        ),
        (
            WarningKind::NotLoopback,
            format!("api: {{metrics: \"127.0.0.2:9815\", page: \"[2001:db8::1]:9816\"}}\n{BASE}"),
            (1, 40),
            "api.page",
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
fn a_hundred_thousand_errors_are_reported_in_time() {
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
    // A few tenths of a second in release. The limit allows for busy machines, and catches what is
    // quadratic.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 5 });
    assert!(took < limit, "took {took:?}");
    println!("{} bytes in {took:?}", text.len());
}

#[test]
fn the_examples_in_the_docs_are_valid() {
    let blocks: Vec<&str> =
        DOCS.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        parse(block);
    }
}
