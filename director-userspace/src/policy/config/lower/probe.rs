//! The probe of a check: the keys that only some types of check have.

use std::{collections::HashSet, ops::RangeInclusive};

use hickory_proto::rr::Name;

use super::{
    mapping::{Mapping, entries, items, list, nearest},
    scalar, text,
};
use crate::policy::config::{
    error::ConfigErrorKind as Kind,
    model::{DnsProbe, ExecProbe, GrpcProbe, HttpProbe, HttpVersion, Probe, UdpProbe},
    raw::Value,
    report::{Item, Report, quote},
};

/// Longest datagram that is sent: one that is not fragmented, even inside a tunnel.
const MAX_DATAGRAM: usize = 1200;
/// The user that programs run as if the file names none.
const NOBODY: &str = "nobody";

/// Record types that can be queried.
const RECORDS: [&str; 15] = [
    "A", "AAAA", "CAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX", "NAPTR", "NS", "PTR", "SOA", "SRV",
    "SVCB", "TXT",
];

/// A type of check, the keys that it has beside those of all, and how its probe is read.
pub(super) struct Type {
    pub(super) word: &'static str,
    pub(super) keys: &'static [&'static str],
    /// Whether it probes a port.
    pub(super) has_port: bool,
    pub(super) read: fn(&Mapping<'_>, &mut Report<'_>) -> Option<Probe>,
}

/// Every type.
pub(super) const TYPES: &[Type] = &[
    Type { word: "tcp", keys: &[], has_port: true, read: |_, _| Some(Probe::Tcp) },
    Type {
        word: "http",
        keys: &["method", "path", "host", "headers", "status", "body", "version"],
        has_port: true,
        read: |mapping, report| http(mapping, report).map(Probe::Http),
    },
    Type {
        word: "https",
        keys: &["method", "path", "host", "headers", "status", "body", "version", "sni", "verify"],
        has_port: true,
        read: |mapping, report| http(mapping, report).map(Probe::Https),
    },
    Type {
        word: "dns",
        keys: &["name", "record", "answer"],
        has_port: true,
        read: |mapping, report| dns(mapping, report).map(Probe::Dns),
    },
    Type {
        word: "udp",
        keys: &["send", "expect"],
        has_port: true,
        read: |mapping, report| udp(mapping, report).map(Probe::Udp),
    },
    Type { word: "icmp", keys: &[], has_port: false, read: |_, _| Some(Probe::Icmp) },
    Type {
        word: "exec",
        keys: &["command", "user"],
        has_port: false,
        read: |mapping, report| exec(mapping, report).map(Probe::Exec),
    },
    Type {
        word: "grpc",
        keys: &["service"],
        has_port: true,
        read: |mapping, report| grpc(mapping, report).map(Probe::Grpc),
    },
];

/// The one of `types` that the key `type` names.
pub(super) fn type_of<'t, T>(
    mapping: &Mapping<'_>,
    types: &'t [T],
    word: impl Fn(&T) -> &'static str,
    report: &mut Report<'_>,
) -> Option<&'t T> {
    let words: Vec<&str> = types.iter().map(&word).collect();
    let expected = format!("one of {}", list(&words));
    let hint = format!("write `type:` and {expected}");
    let item = mapping.require("type", &hint, report)?;
    let text = scalar::scalar(&item, &expected, report)?;
    types.iter().find(|one| word(one) == text).or_else(|| {
        let hint = match nearest(text, words.iter().copied()) {
            Some(near) => format!("did you mean {near}? There are {}", list(&words)),
            None => format!("write {expected}"),
        };
        report.error(Kind::UnknownValue, &item, format!("{} does not exist", quote(text)), hint)
    })
}

fn http(mapping: &Mapping<'_>, report: &mut Report<'_>) -> Option<HttpProbe> {
    let method = mapping.optional("method", report, text::method);
    let path = mapping.optional("path", report, text::url_path);
    let host = mapping.optional("host", report, text::host);
    let headers = mapping.optional("headers", report, headers);
    let status = mapping.optional("status", report, statuses);
    let body = mapping.optional("body", report, text::regex);
    let version =
        mapping.optional("version", report, |item, report| scalar::word(item, &[], report));
    let sni = mapping.optional("sni", report, text::host_name);
    let verify = mapping.optional("verify", report, scalar::boolean);
    Some(HttpProbe {
        method: method?.unwrap_or_else(|| "GET".to_owned()),
        path: path?.unwrap_or_else(|| "/".to_owned()),
        host: host?,
        headers: headers?.unwrap_or_default(),
        status: status?.unwrap_or_else(|| vec![200..=299]),
        body: body?,
        version: version?.unwrap_or(HttpVersion::Http1),
        sni: sni?,
        verify: verify?.unwrap_or(false),
    })
}

fn headers(item: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    let mut seen = HashSet::new();
    let mut complete = true;
    for (name, value) in entries(item, "write `headers: {X-Check: director}`", report)? {
        let known = text::header_name(name, &value, report);
        let text = text::header_value(&value, report);
        let (Some(known), Some(text)) = (known, text) else {
            complete = false;
            continue;
        };
        if !seen.insert(known) {
            let message = format!("the header {} is here twice", quote(name));
            report.error::<()>(Kind::DuplicateKey, &value, message, "remove one of the two");
            complete = false;
        }
        headers.push((name.to_owned(), text));
    }
    complete.then_some(headers)
}

/// Status codes: one, a range, or a list of both.
fn statuses(item: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    if !matches!(item.node.value, Value::Seq(_)) {
        return status(item, report).map(|range| vec![range]);
    }
    let all: Vec<_> = items(item, "", report)?.map(|item| status(&item, report)).collect();
    if all.is_empty() {
        let hint = "write the accepted codes, such as 200-299";
        return report.error(Kind::EmptyList, item, "the list is empty", hint);
    }
    all.into_iter().collect()
}

fn status(item: &Item<'_>, report: &mut Report<'_>) -> Option<RangeInclusive<u16>> {
    let text = scalar::scalar(item, "a status code such as 200, or 200-299", report)?;
    let code = |text: &str| {
        let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_code.then(|| text.parse().ok()).flatten().filter(|code| (100..=599).contains(code))
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (code(from), code(to)) {
        (Some(from), Some(to)) if from <= to => Some(from..=to),
        _ => {
            let message =
                format!("{} is no status code of HTTP, and no range of them", quote(text));
            report.error(Kind::BadStatus, item, message, "100 to 599, such as 200 or 200-299")
        }
    }
}

fn dns(mapping: &Mapping<'_>, report: &mut Report<'_>) -> Option<DnsProbe> {
    let name = mapping.optional("name", report, dns_name);
    let record = mapping.optional("record", report, record);
    let answer = mapping.optional("answer", report, scalar::boolean);
    let name = name?;
    // Every zone has a SOA record, and the root no address.
    let usual = if name.as_deref().is_none_or(|name| name == ".") { "SOA" } else { "A" };
    Some(DnsProbe {
        name: name.unwrap_or_else(|| ".".to_owned()),
        record: record?.unwrap_or_else(|| usual.to_owned()),
        answer: answer?.unwrap_or(false),
    })
}

fn dns_name(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = scalar::scalar(item, "a DNS name", report)?;
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_plain && Name::from_ascii(text).is_ok() {
        return Some(text.to_owned());
    }
    let message = format!("{} is no DNS name", quote(text));
    report.error(Kind::BadDnsName, item, message, "write a name such as www.example.net")
}

fn record(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let expected = format!("one of {}", list(&RECORDS));
    let text = scalar::scalar(item, &expected, report)?;
    if let Some(record) = RECORDS.iter().find(|record| record.eq_ignore_ascii_case(text)) {
        return Some((*record).to_owned());
    }
    let message = format!("{} is no record type that a check can query", quote(text));
    report.error(Kind::UnknownValue, item, message, format!("write {expected}"))
}

fn udp(mapping: &Mapping<'_>, report: &mut Report<'_>) -> Option<UdpProbe> {
    let send = mapping.optional("send", report, |item, report| {
        text::short(item, "what to send", MAX_DATAGRAM, report).map(str::to_owned)
    });
    let expect = mapping.optional("expect", report, text::regex);
    Some(UdpProbe { send: send?.unwrap_or_default(), expect: expect? })
}

/// A program: for a check, or for an agent.
pub(super) fn exec(mapping: &Mapping<'_>, report: &mut Report<'_>) -> Option<ExecProbe> {
    let hint = "write `command:` and a list: [/usr/local/bin/check, -q]";
    let command =
        mapping.require("command", hint, report).and_then(|item| text::command(&item, report));
    let user = mapping.optional("user", report, text::user);
    Some(ExecProbe { command: command?, user: user?.unwrap_or_else(|| NOBODY.to_owned()) })
}

fn grpc(mapping: &Mapping<'_>, report: &mut Report<'_>) -> Option<GrpcProbe> {
    let service = mapping.optional("service", report, |item, report| {
        text::short(item, "a gRPC service's name", 256, report).map(str::to_owned)
    });
    Some(GrpcProbe { service: service?.unwrap_or_default() })
}
