//! The configuration as text: readable, in the order of the source, with what could not be carried
//! over as comments.

use std::{fmt::Write as _, net::IpAddr};

use super::{
    Options,
    carry::{Carried, Entry},
    table::Identity,
};
use crate::policy::{
    config::{
        model::{HealthCheck, MAX_INTERFACES, Probe, Start},
        units::format_duration,
    },
    scheduler::Scheduler,
};

/// The whole file.
pub(super) fn document(
    kind: &str,
    source_name: &str,
    carried: &Carried,
    options: &Options,
) -> String {
    let mut out = String::new();
    line(&mut out, &format!("# Made by director import {kind} from {}", one_line(source_name)));
    line(&mut out, "# Review it, and what the command reported as not carried over.");
    out.push('\n');
    if options.interfaces.is_empty() {
        line(&mut out, "# Where packets arrive; `director attach` needs at least one.");
        line(&mut out, "# interfaces:");
        line(&mut out, "#   - name: eth0");
    } else {
        line(&mut out, "interfaces:");
        let mut names: Vec<&String> = Vec::new();
        for name in &options.interfaces {
            if !names.contains(&name) && names.len() < MAX_INTERFACES {
                names.push(name);
            }
        }
        for name in names {
            line(&mut out, &format!("  - name: {}", quoted(name)));
        }
    }
    out.push('\n');
    let timeouts = &carried.timeouts;
    let known =
        [("tcp", timeouts.tcp), ("tcp_closing", timeouts.tcp_closing), ("udp", timeouts.udp)];
    let known: Vec<String> = known
        .iter()
        .filter_map(|(key, time)| time.map(|time| format!("{key}: {}", format_duration(time))))
        .collect();
    if !known.is_empty() {
        line(&mut out, &format!("flows: {{{}}}", known.join(", ")));
        out.push('\n');
    }
    let is_empty = carried.services.iter().all(|entry| !entry.left_out.is_empty());
    line(&mut out, if is_empty { "services: []" } else { "services:" });
    for entry in &carried.services {
        out.push('\n');
        let text = service(entry);
        if entry.left_out.is_empty() {
            out.push_str(&text);
            continue;
        }
        line(&mut out, &format!("  # Left out: {}, {}", entry.identity, shown_place(entry)));
        for why in &entry.left_out {
            line(&mut out, &format!("  #   {}", one_line(why)));
        }
        for text in text.lines() {
            // After the comment sign, so that uncommenting in an editor restores the lines.
            let (indent, rest) = text.split_at(2.min(text.len()));
            line(&mut out, &format!("{indent}# {rest}"));
        }
    }
    out
}

/// A configuration of this service only.
pub(super) fn alone(entry: &Entry) -> String {
    format!("services:\n{}", service(entry))
}

fn shown_place(entry: &Entry) -> String {
    one_line(&entry.place.to_string())
}

fn service(entry: &Entry) -> String {
    let mut out = String::new();
    if entry.left_out.is_empty() {
        line(&mut out, &format!("  # {}", shown_place(entry)));
    }
    line(&mut out, &format!("  - name: {}", entry.name));
    match entry.identity {
        Identity::Mark { mark, .. } => {
            line(&mut out, &format!("    # address, protocol and port: what fwmark {mark} is for"));
        }
        Identity::Address { protocol, address, port } => {
            line(&mut out, &format!("    address: {}", shown(address)));
            line(&mut out, &format!("    protocol: {}", protocol.word()));
            let port = if port == 0 { "any".to_owned() } else { port.to_string() };
            line(&mut out, &format!("    port: {port}"));
        }
    }
    line(&mut out, &format!("    forward: {}", entry.forward));
    if entry.scheduler != Scheduler::DEFAULT {
        line(&mut out, &format!("    scheduler: {}", entry.scheduler));
    }
    if let Some(persistence) = &entry.persistence {
        let netmask = persistence.prefix.map(|n| format!(", netmask: {n}")).unwrap_or_default();
        let timeout = format_duration(persistence.timeout);
        line(&mut out, &format!("    persistence: {{timeout: {timeout}{netmask}}}"));
    }
    match &entry.checks[..] {
        [] => {}
        [one] => line(&mut out, &format!("    health: {}", check(one))),
        several => {
            line(&mut out, "    health:");
            for one in several {
                line(&mut out, &format!("      - {}", check(one)));
            }
        }
    }
    if entry.quorum != 1 {
        line(&mut out, &format!("    quorum: {}", entry.quorum));
    }
    if entry.hysteresis != 0 {
        line(&mut out, &format!("    hysteresis: {}", entry.hysteresis));
    }
    if entry.keeps && !entry.checks.is_empty() {
        line(&mut out, "    on_down: keep");
    }
    if let Some(sorry) = entry.sorry {
        line(&mut out, &format!("    sorry: {{address: {}}}", shown(sorry)));
    }
    if entry.backends.is_empty() {
        line(&mut out, "    backends: []");
        return out;
    }
    line(&mut out, "    backends:");
    for (address, weight) in &entry.backends {
        line(&mut out, &format!("      - {{address: {}, weight: {weight}}}", shown(*address)));
    }
    out
}

fn check(check: &HealthCheck) -> String {
    let mut out = format!("{{type: {}", check.probe.as_str());
    match &check.probe {
        Probe::Http(http) | Probe::Https(http) => {
            put(&mut out, "path", &quoted(&http.path));
            if let Some(host) = &http.host {
                put(&mut out, "host", &quoted(host));
            }
            let status: Vec<String> = http
                .status
                .iter()
                .map(|range| match (range.start(), range.end()) {
                    (low, high) if low == high => low.to_string(),
                    (low, high) => format!("\"{low}-{high}\""),
                })
                .collect();
            put(&mut out, "status", &format!("[{}]", status.join(", ")));
            if let Some(body) = &http.body {
                put(&mut out, "body", &quoted(body));
            }
            if let Some(sni) = &http.sni {
                put(&mut out, "sni", &quoted(sni));
            }
        }
        Probe::Dns(dns) => {
            put(&mut out, "name", &quoted(&dns.name));
            put(&mut out, "record", &quoted(&dns.record));
        }
        Probe::Udp(udp) => {
            put(&mut out, "send", &quoted(&udp.send));
            if let Some(expect) = &udp.expect {
                put(&mut out, "expect", &quoted(expect));
            }
        }
        Probe::Exec(exec) => {
            let words: Vec<String> = exec.command.iter().map(|word| quoted(word)).collect();
            put(&mut out, "command", &format!("[{}]", words.join(", ")));
            put(&mut out, "user", &quoted(&exec.user));
        }
        Probe::Tcp | Probe::Icmp | Probe::Grpc(_) => {}
    }
    if let Some(port) = check.port {
        put(&mut out, "port", &port.to_string());
    }
    put(&mut out, "interval", &format_duration(check.interval));
    put(&mut out, "timeout", &format_duration(check.timeout));
    put(&mut out, "rise", &check.rise.to_string());
    put(&mut out, "fall", &check.fall.to_string());
    if check.start == Start::Down {
        put(&mut out, "start", "down");
    }
    out.push('}');
    out
}

fn put(out: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = write!(out, ", {key}: {value}");
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

/// An address as a YAML scalar.
fn shown(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"{v6}\""),
    }
}

/// A text as a YAML scalar: JSON's strings are YAML's, except for characters YAML does not allow.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::new();
    for c in serde_json::to_string(text).unwrap_or_default().chars() {
        if is_unprintable(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A text without line breaks, for a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect()
}

/// Whether YAML treats it as the end of a line, or does not allow it.
fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}
