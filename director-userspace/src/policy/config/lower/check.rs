//! One check, and one agent: type, timing, and the keys of each type.

use std::time::Duration;

use super::{
    mapping::{Keys, Mapping},
    probe::{self, TYPES, Type},
    scalar, text,
};
use crate::policy::config::{
    error::ConfigErrorKind as Kind,
    model::{Agent, AgentSource, HealthCheck, Percent, Start, Via},
    report::{Item, Report},
    units,
};

/// Keys of every type of check; `port` only for types that probe one or pass one to a program.
const CHECK_COMMON: [&str; 9] =
    ["type", "interval", "timeout", "rise", "fall", "jitter", "start", "port", "via"];

/// Keys of all types of check together.
const CHECK: Keys = Keys {
    known: &[
        "type", "interval", "timeout", "rise", "fall", "jitter", "start", "port", "via", "method",
        "path", "host", "headers", "status", "body", "version", "sni", "verify", "name", "record",
        "answer", "send", "expect", "command", "user", "service",
    ],
    unsupported: &[],
};

/// Keys of all types of agent together.
const AGENT: Keys = Keys {
    known: &[
        "type",
        "interval",
        "timeout",
        "min",
        "smoothing",
        "port",
        "path",
        "header",
        "command",
        "user",
    ],
    unsupported: &[],
};

const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Beyond this, an interval would mean little.
const MAX_JITTER: u8 = 50;

/// One check of a service.
pub(super) fn check(item: &Item<'_>, report: &mut Report<'_>) -> Option<HealthCheck> {
    let mapping = Mapping::open(item, "a check", &CHECK, report)?;
    let kind = probe::type_of(&mapping, TYPES, |kind| kind.word, report);
    if let Some(kind) = kind {
        mapping.check_allowed(&a_check(kind.word), &CHECK, &keys_of(kind), report);
    }
    let probe = kind.and_then(|kind| (kind.read)(&mapping, report));
    let times = times(&mapping, Duration::from_secs(2), report);
    let count = |key, report: &mut Report<'_>| {
        mapping.optional(key, report, |item, report| scalar::whole(item, key, 1..=u16::MAX, report))
    };
    let (rise, fall) = (count("rise", report), count("fall", report));
    let jitter = mapping
        .optional("jitter", report, |item, report| scalar::percent(item, 0..=MAX_JITTER, report));
    let start = mapping.optional("start", report, |item, report| scalar::word(item, &[], report));
    let port = mapping.optional("port", report, scalar::exact_port);
    let via = mapping.optional("via", report, |item, report| {
        let via = scalar::word(item, &[], report)?;
        let Some(kind) = kind.filter(|kind| via == Via::Path && !kind.has_port) else {
            return Some(via);
        };
        let message = format!("{} cannot go through the data path", a_check(kind.word));
        let hint = "write via: direct, or a check of TCP or UDP";
        report.error(Kind::PathCheck, item, message, hint)
    });
    let (interval, timeout) = times?;
    Some(HealthCheck {
        probe: probe?,
        interval,
        timeout,
        rise: rise?.unwrap_or(2),
        fall: fall?.unwrap_or(3),
        jitter: jitter?.unwrap_or(Percent(10)),
        start: start?.unwrap_or(Start::Up),
        port: port?,
        via: via?.unwrap_or(Via::Direct),
    })
}

/// The keys that a check of this type has.
fn keys_of(kind: &Type) -> Vec<&'static str> {
    let takes_port = kind.has_port || kind.word == "exec";
    let common = CHECK_COMMON.iter().filter(|key| takes_port || **key != "port");
    common.chain(kind.keys).copied().collect()
}

/// `an icmp check`
pub(super) fn a_check(word: &str) -> String {
    // By pronunciation: http is spelled out.
    let article = if word.starts_with(['a', 'e', 'h', 'i']) { "an" } else { "a" };
    format!("{article} {word} check")
}

/// A type of agent, and the keys that it has beside those of all.
struct AgentType {
    word: &'static str,
    keys: &'static [&'static str],
    read: fn(&Mapping<'_>, &mut Report<'_>) -> Option<AgentSource>,
}

const AGENT_COMMON: [&str; 5] = ["type", "interval", "timeout", "min", "smoothing"];

const AGENT_TYPES: &[AgentType] = &[
    AgentType {
        word: "agent",
        keys: &["port"],
        read: |mapping, report| {
            let item = mapping.require("port", "write `port:` and the agent's own port", report)?;
            Some(AgentSource::Agent { port: scalar::exact_port(&item, report)? })
        },
    },
    AgentType {
        word: "http",
        keys: &["port", "path", "header"],
        read: |mapping, report| {
            let port = mapping.optional("port", report, scalar::exact_port);
            let path = mapping.optional("path", report, text::url_path);
            let hint = "write `header:` and the name of the header with the load";
            let header = mapping.require("header", hint, report).and_then(|item| {
                let name = text::short(&item, "a header's name", 256, report)?;
                text::header_name(name, &item, report).map(|_| name.to_owned())
            });
            let path = path?.unwrap_or_else(|| "/".to_owned());
            Some(AgentSource::Http { port: port?, path, header: header? })
        },
    },
    AgentType {
        word: "exec",
        keys: &["command", "user"],
        read: |mapping, report| probe::exec(mapping, report).map(AgentSource::Exec),
    },
];

fn agent_keys_of(kind: &AgentType) -> Vec<&'static str> {
    AGENT_COMMON.iter().chain(kind.keys).copied().collect()
}

/// Every type of check and of agent, with its keys.
#[cfg(test)]
pub(super) fn tables() -> impl Iterator<Item = (String, Vec<&'static str>)> {
    let checks = TYPES.iter().map(|kind| (format!("check_{}", kind.word), keys_of(kind)));
    let agents =
        AGENT_TYPES.iter().map(|kind| (format!("agent_{}", kind.word), agent_keys_of(kind)));
    checks.chain(agents)
}

/// A service's agent.
pub(super) fn agent(item: &Item<'_>, report: &mut Report<'_>) -> Option<Agent> {
    let mapping = Mapping::open(item, "an agent", &AGENT, report)?;
    let kind = probe::type_of(&mapping, AGENT_TYPES, |kind| kind.word, report);
    if let Some(kind) = kind {
        let allowed = agent_keys_of(kind);
        let what = format!("an agent of type {}", kind.word);
        mapping.check_allowed(&what, &AGENT, &allowed, report);
    }
    let source = kind.and_then(|kind| (kind.read)(&mapping, report));
    let times = times(&mapping, Duration::from_secs(5), report);
    let min =
        mapping.optional("min", report, |item, report| scalar::percent(item, 0..=100, report));
    let smoothing = mapping
        .optional("smoothing", report, |item, report| scalar::percent(item, 1..=100, report));
    let (interval, timeout) = times?;
    Some(Agent {
        source: source?,
        interval,
        timeout,
        min: min?.unwrap_or(Percent(1)),
        // Two equal reports bring the share to their value.
        smoothing: smoothing?.unwrap_or(Percent(80)),
    })
}

/// Interval and timeout; the timeout is at most the interval.
fn times(
    mapping: &Mapping<'_>,
    usual_interval: Duration,
    report: &mut Report<'_>,
) -> Option<(Duration, Duration)> {
    let duration = |key, min, report: &mut Report<'_>| {
        mapping.optional(key, report, |item, report| scalar::duration(item, min, report))
    };
    let interval = duration("interval", MIN_INTERVAL, report);
    let timeout = duration("timeout", MIN_TIMEOUT, report);
    let interval = interval?.unwrap_or(usual_interval);
    let timeout = timeout?.unwrap_or(DEFAULT_TIMEOUT.min(interval));
    let item = mapping.get("timeout").filter(|_| timeout > interval);
    if let Some(item) = item {
        let [timeout, interval] = [timeout, interval].map(units::format_duration);
        let message = format!("a timeout of {timeout} is longer than the interval of {interval}");
        let hint = format!("at most {interval}, or a longer interval");
        return report.error(Kind::DurationOutOfRange, &item, message, hint);
    }
    Some((interval, timeout))
}
