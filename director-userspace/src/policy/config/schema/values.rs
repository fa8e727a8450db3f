//! The forms that values have. Quotes around a value change nothing, so a number may be a string.

use serde_json::{Value, json};

use crate::policy::config::units;

/// What the other definitions refer to.
pub(super) fn definitions() -> Vec<(String, Value)> {
    let pattern = |text: &str, pattern: &str| json!({"description": text, "type": "string", "pattern": pattern});
    let all = [
        ("boolean", or([json!({"type": "boolean"}), json!({"enum": ["true", "false"]})])),
        ("duration", duration()),
        ("percent", pattern("A share: 50%.", "^0*(100|[0-9]{1,2})%$")),
        ("port", whole(1, u16::MAX.into())),
        (
            "address",
            json!({
                "description": "A unicast IP address.",
                "type": "string",
                "anyOf": [{"pattern": IPV4}, {"pattern": IPV6}],
            }),
        ),
        (
            "mac",
            pattern("A unicast MAC address.", "^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$"),
        ),
        ("service_name", name("1 to 63 small letters, digits and -.", "^[a-z0-9-]{1,63}$")),
        ("interface_name", name("1 to 15 bytes.", r"^[^/:\s]{1,15}$")),
        (
            "hash_key",
            // YAML parsers read 32 hex digits that are all decimal as a number.
            or([
                json!({"type": "string", "pattern": "^[0-9a-fA-F]{32}$"}),
                json!({"type": "number", "minimum": 0}),
            ]),
        ),
        ("account", name("The name of a user or a group.", "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}$")),
        ("text", json!({"type": ["string", "number", "boolean"]})),
        ("path", pattern("An absolute path.", "^/(.*[^/])$")),
        ("url_path", pattern("The path of a URL.", "^/[!-\"$-~]*$")),
        ("url", pattern("An http:// or https:// URL.", "^[hH][tT][tT][pP][sS]?://[^#@]+$")),
        (
            "socket_address",
            pattern("address:port", r"^([0-9.]+|\[[0-9a-fA-F:.]+(%[0-9]+)?\]):[0-9]{1,5}$"),
        ),
        ("command", command()),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

const IPV4: &str = "^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\\.(25[0-5]|2[0-4][0-9]|\
                    1[0-9]{2}|[1-9]?[0-9])){3}$";
const IPV6: &str = "^[0-9a-fA-F:]*:[0-9a-fA-F:.]*$";

/// Whole numbers with units, the largest first.
fn duration() -> Value {
    let parts: String = units::DURATION_UNITS.map(|(unit, _)| format!("([0-9]+{unit})?")).concat();
    or([
        json!({
            "description": "Whole numbers with units, the largest first: 2h5m, 500ms.",
            "type": "string",
            "minLength": 1,
            "pattern": format!("^(0|{parts})$"),
        }),
        json!({"const": 0}),
    ])
}

/// A program, or a list of it and its arguments.
fn command() -> Value {
    or([
        reference("path"),
        json!({
            "type": "array",
            "minItems": 1,
            "prefixItems": [reference("path")],
            "items": reference("text"),
        }),
    ])
}

/// A name, which YAML may take for a number.
fn name(text: &str, pattern: &str) -> Value {
    let mut value =
        or([json!({"type": "string", "pattern": pattern}), json!({"type": ["number", "boolean"]})]);
    value["description"] = json!(text);
    value
}

/// A whole number within a range.
pub(super) fn whole(min: u64, max: u64) -> Value {
    or([
        json!({"type": "integer", "minimum": min, "maximum": max}),
        json!({"type": "string", "pattern": "^[0-9]+$"}),
    ])
}

/// One of several forms.
pub(super) fn or<const N: usize>(forms: [Value; N]) -> Value {
    json!({"anyOf": Vec::from(forms)})
}

/// A value or a list of at least one.
pub(super) fn one_or_more(limits: Value, value: Value) -> Value {
    let mut list = list_of(limits, value.clone());
    list["minItems"] = json!(1);
    or([value, list])
}

/// A list; `limits` has further keywords for it.
pub(super) fn list_of(limits: Value, value: Value) -> Value {
    let mut list = json!({"type": "array"});
    list["items"] = value;
    if let (Value::Object(list), Value::Object(limits)) = (&mut list, limits) {
        list.extend(limits);
    }
    list
}

/// One of an enum's words.
pub(super) fn words<W: Copy>(all: &[W], word: impl Fn(W) -> &'static str) -> Value {
    let words: Vec<&str> = all.iter().map(|value| word(*value)).collect();
    json!({"enum": words})
}

/// A reference to the definition `name`.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// A value with a description.
pub(super) fn described(text: &str, mut value: Value) -> Value {
    value["description"] = json!(text);
    value
}
