//! The JSON Schema (2020-12) of the configuration file, for editors and for other programs.
//!
//! It says of every value by itself what `lower` would say, and leaves to `lower` what depends on
//! other values or on more than a pattern can tell. A test holds its keys against `lower`'s.

mod daemon;
mod health;
mod values;

use serde_json::{Map, Value, json};

use self::values::{described, list_of, one_or_more, or, reference, words};
use super::{
    model::{
        AttachMode, Encapsulation, Flows, ForwardMode, HashKey, MAX_BACKENDS, MAX_FLOWS,
        MAX_INTERFACES, MAX_SERVICES, MIN_FLOWS, Protocol, Role, Scheduler, WhenEmpty,
    },
    units::{format_duration, format_size},
};

/// The keys of a service that it, or else `defaults`, must have.
const NEEDED: [&str; 5] = ["address", "protocol", "port", "forward", "backends"];

/// The schema.
pub fn schema() -> Value {
    let mut schema = document();
    schema["$defs"] = Value::Object(definitions());
    schema
}

fn definitions() -> Map<String, Value> {
    let service = service_keys();
    let name = described("What people call it.", reference("service_name"));
    let mut named = vec![("name", name)];
    named.extend(service.iter().map(|(key, value)| (*key, value.clone())));
    let mut definitions = Map::new();
    for (name, definition) in [
        ("interface", interface()),
        ("tunnel", tunnel()),
        ("flows", flows()),
        ("defaults", object("What counts for services that do not say it.", service, &[])),
        ("service", object("Something that is balanced.", named, &["name"])),
        ("backend", backend()),
        ("sorry", sorry()),
    ] {
        definitions.insert(name.to_owned(), definition);
    }
    for (name, definition) in
        health::definitions().into_iter().chain(daemon::definitions()).chain(values::definitions())
    {
        definitions.insert(name, definition);
    }
    definitions
}

/// A mapping with these keys and no other.
fn object(description: &str, keys: Vec<(&str, Value)>, required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut object = json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

/// A value with its default.
fn usually(default: impl Into<Value>, mut value: Value) -> Value {
    value["default"] = default.into();
    value
}

fn document() -> Value {
    let interfaces = list_of(json!({"maxItems": MAX_INTERFACES}), reference("interface"));
    let services = list_of(json!({"maxItems": MAX_SERVICES}), reference("service"));
    let mut document = object(
        "What Director balances, and how.",
        vec![
            ("interfaces", described("Where Director attaches its program.", interfaces)),
            ("tunnel", reference("tunnel")),
            ("flows", reference("flows")),
            (
                "hash_key",
                usually(
                    HashKey::default().to_string(),
                    described(
                        "Key of the hash that picks a backend: the same on directors that share \
                         services.",
                        reference("hash_key"),
                    ),
                ),
            ),
            ("api", reference("api")),
            ("alarms", reference("alarms")),
            ("defaults", reference("defaults")),
            ("services", described("What is balanced; may be empty.", services)),
        ],
        &["services"],
    );
    document["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    document["title"] = json!("Director's configuration");
    // What `defaults` does not have, each service must.
    let needed = NEEDED.map(|key| {
        json!({
            "if": {
                "required": ["defaults"],
                "properties": {"defaults": {"required": [key]}},
            },
            "else": {"properties": {"services": {"items": {"required": [key]}}}},
        })
    });
    document["allOf"] = Value::Array(needed.into());
    document
}

fn interface() -> Value {
    object(
        "A network interface that Director attaches its program to.",
        vec![
            ("name", described("The kernel's name.", reference("interface_name"))),
            (
                "mode",
                usually(
                    AttachMode::Native.as_str(),
                    described(
                        "native: in the driver. generic: in the kernel's generic hook, any driver, \
                         slower.",
                        words(AttachMode::ALL, AttachMode::as_str),
                    ),
                ),
            ),
            (
                "role",
                usually(
                    Role::Both.as_str(),
                    described(
                        "both: packets for VIPs arrive here, and packets leave here. egress: \
                         packets only leave here.",
                        words(Role::ALL, Role::as_str),
                    ),
                ),
            ),
            (
                "assign_vips",
                usually(
                    false,
                    described(
                        "Whether Director adds the VIPs to this interface.",
                        reference("boolean"),
                    ),
                ),
            ),
        ],
        &["name"],
    )
}

fn tunnel() -> Value {
    let addresses = one_or_more(json!({"maxItems": 2}), reference("address"));
    let source = or([json!({"const": "auto"}), addresses]);
    object(
        "How packets travel to backends that are reached by tunnel.",
        vec![
            (
                "source",
                usually(
                    "auto",
                    described(
                        "Source of the outer header. auto: what the kernel would choose, per \
                         family. Else an address, or one of each family.",
                        source,
                    ),
                ),
            ),
            (
                "encapsulation",
                usually(
                    Encapsulation::Ipip.as_str(),
                    described(
                        "What is put around a packet.",
                        words(Encapsulation::ALL, Encapsulation::as_str),
                    ),
                ),
            ),
        ],
        &[],
    )
}

fn flows() -> Value {
    let default = Flows::default();
    let size = or([
        json!({"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi)?$"}),
        json!({"type": "integer", "minimum": MIN_FLOWS, "maximum": MAX_FLOWS}),
    ]);
    let text = format!(
        "Flows that the table is made for: a power of two from {} to {}; 64 bytes each.",
        format_size(MIN_FLOWS.into()),
        format_size(MAX_FLOWS.into())
    );
    let timeout =
        |text, default| usually(format_duration(default), described(text, reference("duration")));
    object(
        "The table of known flows.",
        vec![
            ("size", usually(format_size(default.size.into()), described(&text, size))),
            ("tcp", timeout("How long an idle TCP connection is remembered.", default.tcp)),
            (
                "tcp_closing",
                timeout(
                    "How long a TCP connection is remembered after FIN or RST.",
                    default.tcp_closing,
                ),
            ),
            ("udp", timeout("How long an idle UDP flow is remembered.", default.udp)),
            (
                "clients",
                usually(
                    false,
                    described("Whether the clients of flows are tracked.", reference("boolean")),
                ),
            ),
        ],
        &[],
    )
}

/// The keys that services and `defaults` have.
fn service_keys() -> Vec<(&'static str, Value)> {
    let protocols =
        one_or_more(json!({"uniqueItems": true}), words(Protocol::ALL, Protocol::as_str));
    let port = or([json!({"const": "any"}), reference("port")]);
    let backends = list_of(json!({"maxItems": MAX_BACKENDS}), reference("backend"));
    let mut keys = vec![
        ("address", described("The VIP.", reference("address"))),
        ("protocol", described("tcp, udp, or a list of both.", protocols)),
        ("port", described("1 to 65535, or any: what no other service names.", port)),
        (
            "scheduler",
            usually(Scheduler::DEFAULT.as_str(), described(&schedulers(), scheduler_words())),
        ),
        (
            "forward",
            described(
                "How packets travel to the backends. tunnel: inside another IP packet. direct: \
                 with the backend's MAC address, on the link.",
                words(ForwardMode::ALL, ForwardMode::as_str),
            ),
        ),
        (
            "when_empty",
            usually(
                WhenEmpty::Reject.as_str(),
                described(
                    "What happens to a new flow when no backend can take it.",
                    words(WhenEmpty::ALL, WhenEmpty::as_str),
                ),
            ),
        ),
        (
            "drain_timeout",
            usually(
                "5m",
                described(
                    "How long the known flows of a removed backend stay with it.",
                    reference("duration"),
                ),
            ),
        ),
    ];
    keys.extend(health::service_keys());
    keys.push((
        "sorry",
        described("The backend that gets new flows while no other can.", reference("sorry")),
    ));
    keys.push(("backends", described("The real servers; may be empty.", backends)));
    keys
}

fn backend() -> Value {
    let weight = described(
        "Share of the new flows, relative to the service's other weights; 0 takes none.",
        values::whole(0, u16::MAX.into()),
    );
    let mut keys = backend_keys();
    keys.insert(1, ("weight", usually(1, weight)));
    object("A real server.", keys, &["address"])
}

fn sorry() -> Value {
    object("A backend that gets new flows while no other can.", backend_keys(), &["address"])
}

fn backend_keys() -> Vec<(&'static str, Value)> {
    let mac = "The next hop's MAC address; found out if missing.";
    vec![
        ("address", described("Where packets go.", reference("address"))),
        ("mac", described(mac, reference("mac"))),
    ]
}

/// What each scheduler does.
fn schedulers() -> String {
    let one = |scheduler: &Scheduler| format!("{scheduler}: {}", scheduler.description().help);
    let all: Vec<String> = Scheduler::ALL.iter().map(one).collect();
    format!("How a new flow gets its backend. {}.", all.join("; "))
}

/// Every word for a scheduler.
fn scheduler_words() -> Value {
    let words = Scheduler::ALL.iter().flat_map(|scheduler| {
        let described = scheduler.description();
        std::iter::once(described.name).chain(described.aliases.iter().copied())
    });
    json!({"enum": words.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::lower, *};

    /// The keys of the definition `name`, or of the document.
    fn keys(schema: &Value, name: &str) -> BTreeSet<String> {
        let object = if name.is_empty() { schema } else { &schema["$defs"][name] };
        assert_eq!(object["additionalProperties"], json!(false), "{name}");
        let properties = object["properties"].as_object().unwrap_or_else(|| panic!("no {name}"));
        properties.keys().cloned().collect()
    }

    #[test]
    fn it_has_the_keys_that_are_read_and_no_other() {
        let schema = schema();
        let tables = lower::tables();
        for (name, known) in &tables {
            let known: BTreeSet<String> = known.iter().map(ToString::to_string).collect();
            assert_eq!(keys(&schema, name), known, "{name:?}");
        }
        let objects = schema["$defs"].as_object().expect("has definitions").iter();
        let objects = objects.filter(|(_, definition)| definition["properties"].is_object());
        let described: BTreeSet<&str> = objects.map(|(name, _)| name.as_str()).collect();
        let read: BTreeSet<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
        assert!(described.is_subset(&read), "not read: {:?}", described.difference(&read));
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_key_is_described() {
        fn walk(schema: &Value, node: &Value, used: &mut BTreeSet<String>) {
            match node {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        let name = target.strip_prefix("#/$defs/").expect("a definition");
                        assert!(schema["$defs"].get(name).is_some(), "{target}");
                        used.insert(name.to_owned());
                    }
                    if let Some(Value::Object(properties)) = map.get("properties")
                        && map.contains_key("additionalProperties")
                    {
                        for (key, value) in properties {
                            let own = value.get("description").is_some();
                            assert!(own || value.get("$ref").is_some(), "{key} is not described");
                        }
                    }
                    map.values().for_each(|value| walk(schema, value, used));
                }
                Value::Array(values) => values.iter().for_each(|v| walk(schema, v, used)),
                _ => {}
            }
        }
        let schema = schema();
        let mut used = BTreeSet::new();
        walk(&schema, &schema, &mut used);
        let defined: BTreeSet<String> =
            schema["$defs"].as_object().expect("has definitions").keys().cloned().collect();
        assert_eq!(used, defined);
    }
}
