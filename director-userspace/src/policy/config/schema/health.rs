//! Checks, agents, and how their results are used.

use serde_json::{Value, json};

use super::{
    object, usually,
    values::{described, one_or_more, or, reference, whole, words},
};
use crate::policy::config::model::{HttpVersion, MAX_BACKENDS, OnDown, Start, Via};

/// The keys of a service that are about its backends' health.
pub(super) fn service_keys() -> Vec<(&'static str, Value)> {
    let max_quorum = u64::from(u16::MAX) * MAX_BACKENDS as u64;
    let none = || json!({"const": "none"});
    let checks =
        or([reference("check"), json!({"type": "array", "items": reference("check")}), none()]);
    vec![
        (
            "health",
            usually(
                "none",
                described(
                    "How backends are checked: a backend is up if every check passes.",
                    checks,
                ),
            ),
        ),
        (
            "agent",
            usually(
                "none",
                described("Where a backend's load is read from.", or([reference("agent"), none()])),
            ),
        ),
        (
            "quorum",
            usually(
                1,
                described(
                    "Least sum of the weights of backends that are up; below it the service is \
                     down.",
                    whole(1, max_quorum),
                ),
            ),
        ),
        (
            "hysteresis",
            usually(
                0,
                described(
                    "The quorum is lost below quorum - hysteresis and back at quorum + hysteresis.",
                    whole(0, max_quorum),
                ),
            ),
        ),
        (
            "on_down",
            usually(
                OnDown::Reschedule.as_str(),
                described(
                    "What happens to the known flows of a backend that is down.",
                    words(OnDown::ALL, OnDown::as_str),
                ),
            ),
        ),
        (
            "slow_start",
            usually(
                "0s",
                described(
                    "How long the weight of a backend that came up takes to grow.",
                    reference("duration"),
                ),
            ),
        ),
        (
            "panic",
            usually(
                "never",
                described(
                    "When more than this share of the backends is down at once, all are kept.",
                    or([json!({"const": "never"}), reference("percent")]),
                ),
            ),
        ),
    ]
}

/// The definitions of checks and agents: a general one, and one for each type.
pub(super) fn definitions() -> Vec<(String, Value)> {
    let mut definitions = Vec::new();
    by_type(&mut definitions, "check", "One check.", &check_types(), check_keys);
    by_type(
        &mut definitions,
        "agent",
        "Where a backend's load is read from.",
        &agent_types(),
        agent_keys,
    );
    definitions
}

/// A type, what it is, its own keys, and which of them it must have.
struct Type {
    word: &'static str,
    description: &'static str,
    keys: Vec<(&'static str, Value)>,
    required: &'static [&'static str],
}

fn by_type(
    definitions: &mut Vec<(String, Value)>,
    what: &str,
    description: &str,
    types: &[Type],
    common: fn(&str) -> Vec<(&'static str, Value)>,
) {
    let all: Vec<&str> = types.iter().map(|kind| kind.word).collect();
    let branches: Vec<Value> = types
        .iter()
        .map(|kind| {
            json!({
                "if": {"properties": {"type": {"const": kind.word}}},
                "then": reference(&format!("{what}_{}", kind.word)),
            })
        })
        .collect();
    definitions.push((
        what.to_owned(),
        json!({
            "description": description,
            "type": "object",
            "required": ["type"],
            "allOf": [{"properties": {"type": {"enum": all}}}],
        }),
    ));
    if let Some((_, general)) = definitions.last_mut()
        && let Some(all) = general["allOf"].as_array_mut()
    {
        all.extend(branches);
    }
    for kind in types {
        let mut keys = vec![("type", described(kind.description, json!({"const": kind.word})))];
        keys.extend(common(kind.word));
        keys.extend(kind.keys.iter().map(|(key, value)| (*key, value.clone())));
        let definition = object(kind.description, keys, kind.required);
        definitions.push((format!("{what}_{}", kind.word), definition));
    }
}

fn check_keys(word: &str) -> Vec<(&'static str, Value)> {
    let count = |default: u64, text| usually(default, described(text, whole(1, u16::MAX.into())));
    let mut keys = vec![
        (
            "interval",
            usually(
                "2s",
                described("From one probe to the next; at least 100ms.", reference("duration")),
            ),
        ),
        (
            "timeout",
            usually(
                "1s",
                described(
                    "How long until a probe has failed; at most the interval.",
                    reference("duration"),
                ),
            ),
        ),
        ("rise", count(2, "Successes in a row that bring a backend up.")),
        ("fall", count(3, "Failures in a row that take it down.")),
        (
            "jitter",
            usually(
                "10%",
                described(
                    "Each interval is longer or shorter by up to this; at most 50%.",
                    reference("percent"),
                ),
            ),
        ),
        (
            "start",
            usually(
                Start::Up.as_str(),
                described(
                    "A backend's state before its first probe.",
                    words(Start::ALL, Start::as_str),
                ),
            ),
        ),
        (
            "via",
            usually(
                Via::Direct.as_str(),
                described(
                    "direct: to the backend's own address. path: to the VIP, through the data \
                     path to this backend.",
                    words(Via::ALL, Via::as_str),
                ),
            ),
        ),
    ];
    if word != "icmp" {
        let text = "The port to probe; the service's if missing.";
        keys.push(("port", described(text, reference("port"))));
    }
    keys
}

fn check_types() -> Vec<Type> {
    let mut https = http_keys();
    https.extend([
        ("sni", described("The server name to send; host if missing.", reference("text"))),
        (
            "verify",
            usually(
                false,
                described("Whether the certificate must be valid.", reference("boolean")),
            ),
        ),
    ]);
    let plain =
        |word, description| Type { word, description, keys: Vec::new(), required: &["type"] };
    let with = |word, description, keys| Type { word, description, keys, required: &["type"] };
    vec![
        plain("tcp", "A connection can be opened."),
        with("http", "An HTTP request succeeds.", http_keys()),
        with("https", "The same over TLS.", https),
        with(
            "dns",
            "A DNS question over UDP is answered.",
            vec![
                ("name", usually(".", described("The name to query.", reference("text")))),
                (
                    "record",
                    described(
                        "The record type to query; SOA for the root, else A.",
                        json!({"type": "string", "pattern": "^[A-Za-z]+$"}),
                    ),
                ),
                (
                    "answer",
                    usually(
                        false,
                        described(
                            "Whether the answer must have a record of that type.",
                            reference("boolean"),
                        ),
                    ),
                ),
            ],
        ),
        with(
            "udp",
            "A datagram draws no ICMP error, and the expected reply if one is configured.",
            vec![
                ("send", usually("", described("What is sent.", reference("text")))),
                (
                    "expect",
                    described(
                        "A regular expression that the reply matches; without it, silence is fine.",
                        reference("text"),
                    ),
                ),
            ],
        ),
        plain("icmp", "An echo request is answered."),
        Type {
            word: "exec",
            description: "A program on this host exits with status 0.",
            keys: exec_keys(),
            required: &["type", "command"],
        },
        with(
            "grpc",
            "gRPC's health service reports SERVING.",
            vec![(
                "service",
                usually("", described("The service; empty: the whole server.", reference("text"))),
            )],
        ),
    ]
}

fn http_keys() -> Vec<(&'static str, Value)> {
    let status = or([
        json!({"type": "integer", "minimum": 100, "maximum": 599}),
        json!({"type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$"}),
    ]);
    let headers = json!({
        "type": "object",
        "propertyNames": {"pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$"},
        "additionalProperties": reference("text"),
    });
    let number = |version: HttpVersion| version.as_str().parse::<f64>().unwrap_or_default();
    let versions: Vec<f64> = HttpVersion::ALL.iter().map(|version| number(*version)).collect();
    let version = or([words(HttpVersion::ALL, HttpVersion::as_str), json!({"enum": versions})]);
    let method = json!({"type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$"});
    vec![
        ("method", usually("GET", described("The request's method.", method))),
        ("path", usually("/", described("The request's path.", reference("url_path")))),
        (
            "host",
            described("The Host header; the backend's address if missing.", reference("text")),
        ),
        ("headers", described("More headers of the request.", headers)),
        (
            "status",
            usually("200-299", described("Accepted status codes.", one_or_more(json!({}), status))),
        ),
        (
            "body",
            described(
                "A regular expression that must match in the first 64 KiB of the body.",
                reference("text"),
            ),
        ),
        ("version", usually("1.1", described("The HTTP version.", version))),
    ]
}

fn exec_keys() -> Vec<(&'static str, Value)> {
    vec![
        (
            "command",
            described("The program, by its absolute path, and arguments.", reference("command")),
        ),
        (
            "user",
            usually("nobody", described("The user it runs as; not root.", reference("account"))),
        ),
    ]
}

fn agent_keys(_: &str) -> Vec<(&'static str, Value)> {
    let percent = |default: &str, text| usually(default, described(text, reference("percent")));
    let duration = |default: &str, text| usually(default, described(text, reference("duration")));
    vec![
        ("interval", duration("5s", "How often it is queried; at least 100ms.")),
        ("timeout", duration("1s", "How long an answer may take; at most the interval.")),
        ("min", percent("1%", "The share of its weight that a backend never goes below.")),
        (
            "smoothing",
            percent("80%", "How far the share moves to the reported one at once; 1% to 100%."),
        ),
    ]
}

fn agent_types() -> Vec<Type> {
    let port = |text| ("port", described(text, reference("port")));
    vec![
        Type {
            word: "agent",
            description: "HAProxy's agent-check: connect, and read a line such as 75%.",
            keys: vec![port("The agent's port.")],
            required: &["type", "port"],
        },
        Type {
            word: "http",
            description: "The same text in a header of an HTTP response.",
            keys: vec![
                port("The port; the service's if missing."),
                ("path", usually("/", described("The request's path.", reference("url_path")))),
                (
                    "header",
                    described(
                        "The header's name.",
                        json!({"type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$"}),
                    ),
                ),
            ],
            required: &["type", "header"],
        },
        Type {
            word: "exec",
            description: "The same text on the standard output of a program on this host.",
            keys: exec_keys(),
            required: &["type", "command"],
        },
    ]
}
