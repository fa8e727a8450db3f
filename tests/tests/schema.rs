//! The JSON Schema of the configuration agrees with the program that reads it: files that are valid
//! by one are valid by the other, and invalid values are refused by both.

use std::{
    fs,
    path::{Path, PathBuf},
};

use director_userspace::policy::config;
use jsonschema::Validator;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn validator() -> Validator {
    let schema = config::schema::schema();
    assert!(jsonschema::meta::is_valid(&schema), "invalid by the JSON Schema specification");
    jsonschema::draft202012::new(&schema).unwrap()
}

fn read(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// Schema errors of a document.
fn schema_errors(validator: &Validator, text: &str) -> Vec<String> {
    let document = read(text);
    let errors =
        validator.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path));
    errors.collect()
}

/// Every YAML file of the project, and every block of YAML in its documents.
fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> =
        ["docs", "director-userspace", "tests", "xtask"].map(|name| root().join(name)).into();
    let mut files = vec![root().join("README.md")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    for file in files {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("yaml") => found.push((name, fs::read_to_string(&file).unwrap())),
            Some("md") => {
                let text = fs::read_to_string(&file).unwrap();
                for (index, block) in text.split("\n```yaml\n").skip(1).enumerate() {
                    let (block, _) = block.split_once("\n```").expect("is closed");
                    found.push((format!("{name}, block {}", index + 1), format!("{block}\n")));
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn every_configuration_of_the_project_is_valid() {
    let validator = validator();
    let mut tried = 0;
    for (name, text) in documents() {
        // Not every example is a whole file.
        if config::parse(&name, &text).is_err() {
            continue;
        }
        let schema_errors = schema_errors(&validator, &text);
        assert!(schema_errors.is_empty(), "{name}: {schema_errors:#?}");
        tried += 1;
    }
    assert!(tried >= 10, "only {tried} files found");
}

const SERVICE: &str = "name: web, address: 192.0.2.10, protocol: tcp, port: 80, forward: tunnel, \
                       backends: [{address: 10.0.0.1}]";

/// A file with a service that has `more`.
fn service(more: &str) -> String {
    format!("services:\n  - {{{SERVICE}, {more}}}\n")
}

/// A file with a service, and `more` before it.
fn document(more: &str) -> String {
    format!("{more}\nservices:\n  - {{{SERVICE}}}\n")
}

/// A file with a service that is checked.
fn check(check: &str) -> String {
    service(&format!("health: {{{check}}}"))
}

#[test]
fn every_notation_of_a_value_is_valid() {
    let validator = validator();
    let mut texts = vec![
        "services: []".to_owned(),
        "defaults: {forward: direct, protocol: [tcp, udp], port: any, address: 192.0.2.1, \
         backends: []}\nservices: [{name: a}, {name: '007', protocol: tcp, port: '80'}]"
            .to_owned(),
    ];
    texts.extend(
        [
            "drain_timeout: 0",
            "drain_timeout: '0'",
            "drain_timeout: 1h30m",
            "quorum: '2', hysteresis: 1",
            "panic: never",
            "panic: 30%",
            "slow_start: 30s",
            "health: none, agent: none",
            "health: []",
            "health: [{type: tcp, rise: '3'}, {type: icmp}]",
            "agent: {type: http, header: X-Load, min: 0%}",
            "agent: {type: exec, command: /usr/local/bin/load}",
            "sorry: {address: 10.0.0.9, mac: '02:00:00:00:00:01'}",
        ]
        .map(service),
    );
    texts.extend(
        [
            "type: http, status: 200",
            "type: http, status: 200-399",
            "type: http, status: [200, 301-302], headers: {X-Check: 1, Accept: text/plain}",
            "type: https, version: 2, verify: yes-not, sni: www.example.net",
            "type: http, version: 1.1",
            "type: http, version: '2', method: HEAD, path: '/a?b=c', body: '^ok'",
            "type: dns, name: example.net, record: aaaa, answer: 'true'",
            "type: udp, send: ping, expect: pong, port: 7",
            "type: exec, command: [/bin/true, 1, two], user: 65534, timeout: 50ms",
            "type: grpc, service: a.b",
            "type: tcp, via: path, start: down, jitter: 0%",
        ]
        .map(|text| check(&text.replace("yes-not", "false"))),
    );
    texts.extend(
        [
            "tunnel: {source: [192.0.2.1, '2001:db8::1']}",
            "tunnel: {source: 192.0.2.1}",
            "flows: {size: 1024, udp: 30s}",
            "flows: {size: 64Ki}",
            "hash_key: 00000000000000000000000000000001",
            "interfaces: [{name: eth0.100, mode: generic, assign_vips: 'true', role: egress}]",
            "api: {metrics: '127.0.0.1:9815', page: '[::1]:80', socket: /run/d.sock, group: 4}",
            "alarms: {exec: /bin/true, webhook: 'http://a.example/x'}",
            "alarms: {exec: [[/bin/true, x], [/bin/false]], webhooks: []}",
            "alarms: {mail: {server: 'a:25', from: a@example.net, to: b@example.net}}",
        ]
        .map(document),
    );
    for text in texts {
        if let Err(errors) = config::parse("t.yaml", &text) {
            panic!("invalid:\n{text}\n{errors}");
        }
        let schema_errors = schema_errors(&validator, &text);
        assert!(schema_errors.is_empty(), "{text}\n{schema_errors:#?}");
    }
}

#[test]
fn invalid_values_are_refused() {
    let validator = validator();
    let mut texts = vec![
        "interfaces: []".to_owned(),
        "services: {}".to_owned(),
        "services: [{name: web}]".to_owned(),
        // `defaults` has all but one of the keys that a service needs.
        "defaults: {address: 192.0.2.1, protocol: tcp, forward: tunnel, backends: []}\nservices: \
         [{name: web}]"
            .to_owned(),
        document("defaults: {name: web}"),
        document("servics: []"),
    ];
    texts.extend(
        [
            "wieght: 1",
            "scheduler: fastest",
            "when_empty: sorry",
            "drain_timeout: 5",
            "drain_timeout: 5x",
            "drain_timeout: 5m2h",
            "drain_timeout: ''",
            "quorum: 0",
            "quorum: -1",
            "on_down: stay",
            "panic: 30",
            "panic: 101%",
            "slow_start: fast",
            "health: {interval: 2s}",
            "health: maybe",
            "agent: {type: agent}",
            "agent: {type: http}",
            "agent: {type: agent, port: 1, header: X-Load}",
            "sorry: {address: 10.0.0.9, weight: 1}",
            "sorry: 10.0.0.9",
        ]
        .map(service),
    );
    texts.extend(
        [
            "type: ftp",
            "type: tcp, path: /",
            "type: icmp, port: 1",
            "type: http, sni: a",
            "type: http, status: 99",
            "type: http, status: 2xx",
            "type: http, status: []",
            "type: http, version: 3",
            "type: http, headers: [a]",
            "type: http, path: healthz",
            "type: exec",
            "type: exec, command: check",
            "type: exec, command: []",
            "type: tcp, rise: 0",
            "type: tcp, jitter: 5",
            "type: tcp, start: maybe",
            "type: tcp, via: tunnel",
            "type: tcp, port: 0",
            "type: tcp, port: 70000",
            "type: dns, answer: maybe",
        ]
        .map(check),
    );
    texts.extend(
        [
            "interfaces: [{mode: native}]",
            "interfaces: [{name: a-name-of-more-than-15}]",
            "interfaces: [{name: eth0, mode: fast}]",
            "interfaces: [{name: eth0, assign_vips: maybe}]",
            "interfaces: eth0",
            "tunnel: {source: somewhere}",
            "tunnel: {source: []}",
            "tunnel: {encapsulation: gue}",
            "flows: {size: 1M}",
            "flows: {size: 12}",
            "hash_key: abc",
            "api: {metrics: 9815}",
            "api: {socket: run.sock}",
            "api: {port: 80}",
            "alarms: {webhooks: ['ftp://a.example/']}",
            "alarms: {webhook: 'http://a.example/', webhooks: []}",
            "alarms: {exec: page-me}",
            "alarms: {mail: {server: 'a:25', from: a@example.net}}",
            "alarms: {mail: {server: a, from: a@example.net, to: b@example.net}}",
        ]
        .map(document),
    );
    for (from, to) in [
        ("address: 192.0.2.10", "address: 192.0.2.256"),
        ("address: 192.0.2.10", "address: web.example.net"),
        ("address: 192.0.2.10", "address: 192.0.2.0/24"),
        ("protocol: tcp", "protocol: sctp"),
        ("protocol: tcp", "protocol: []"),
        ("protocol: tcp", "protocol: [tcp, tcp]"),
        ("port: 80", "port: 0"),
        ("port: 80", "port: 80-90"),
        ("forward: tunnel", "forward: nat"),
        ("name: web", "name: Web_1"),
        ("10.0.0.1}", "10.0.0.1, weight: 65536}"),
        ("10.0.0.1}", "10.0.0.1, mac: '01:00:00:00:00:01'}"),
        ("10.0.0.1}", "10.0.0.1, port: 81}"),
        ("{address: 10.0.0.1}", "{weight: 1}"),
        ("{address: 10.0.0.1}", "10.0.0.1"),
    ] {
        let text = service("quorum: 1");
        assert!(text.contains(from), "{from}");
        texts.push(text.replace(from, to));
    }
    for text in texts {
        assert!(config::parse("t.yaml", &text).is_err(), "the program accepts:\n{text}");
        assert!(!schema_errors(&validator, &text).is_empty(), "the schema accepts:\n{text}");
    }
}

/// A default that is written out changes nothing.
#[test]
fn defaults_are_those_of_the_program() {
    let schema = config::schema::schema();
    let parsed = |text: String| match config::parse("t.yaml", &text) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{text}{errors}"),
    };
    let mut compared = Vec::new();
    for (name, definition) in schema["$defs"].as_object().expect("definitions") {
        let within = |object: &serde_json::Map<String, Value>| {
            let object = Value::Object(object.clone());
            match name.split_once('_').map_or(name.as_str(), |(kind, _)| kind) {
                "agent" => Some(service(&format!("agent: {object}"))),
                "check" => Some(service(&format!("health: {object}"))),
                "flows" | "tunnel" => Some(document(&format!("{name}: {object}"))),
                _ => None,
            }
        };
        let Some(properties) = definition["properties"].as_object() else { continue };
        let mut least = serde_json::Map::new();
        if within(&least).is_none() {
            continue;
        }
        for required in definition["required"].as_array().into_iter().flatten() {
            let required = required.as_str().expect("a name");
            let value = match required {
                "type" => properties["type"]["const"].clone(),
                "port" => 8081.into(),
                "command" => serde_json::json!(["/bin/true"]),
                "header" => "load".into(),
                other => panic!("{name}: an example of {other}"),
            };
            least.insert(required.into(), value);
        }
        let plain = within(&least).map(parsed);
        for (property, of) in properties {
            if let Some(default) = of.get("default") {
                let mut explicit = least.clone();
                explicit.insert(property.clone(), default.clone());
                let written_out = within(&explicit).map(parsed);
                assert!(written_out == plain, "{name}: {property}: {default}");
                compared.push(property.as_str());
            }
        }
    }
    for property in ["smoothing", "fall", "udp", "source"] {
        assert!(compared.contains(&property), "{property} is not among {compared:?}");
    }
}
