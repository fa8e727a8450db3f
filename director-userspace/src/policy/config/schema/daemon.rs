//! The daemon's API and its alarms.

use serde_json::{Value, json};

use super::{
    object, usually,
    values::{described, one_or_more, or, reference},
};

/// The definitions of `api`, `alarms` and `mail`.
pub(super) fn definitions() -> Vec<(String, Value)> {
    [("api", api()), ("alarms", alarms()), ("mail", mail())]
        .map(|(name, definition)| (name.to_owned(), definition))
        .into()
}

fn api() -> Value {
    object(
        "The daemon's API and HTTP listeners.",
        vec![
            (
                "socket",
                described("The socket's path; the instance's own if missing.", reference("path")),
            ),
            (
                "group",
                described(
                    "The group that may use the socket besides root; director if missing.",
                    reference("account"),
                ),
            ),
            (
                "metrics",
                described("Where /metrics is served over HTTP.", reference("socket_address")),
            ),
            (
                "page",
                described(
                    "Where the status page is served over HTTP.",
                    reference("socket_address"),
                ),
            ),
            (
                "names",
                described(
                    "Names by which clients reach metrics and the page, besides addresses, \
                     localhost and the hostname.",
                    or([
                        json!({"type": "array", "maxItems": 0}),
                        one_or_more(json!({}), reference("text")),
                    ]),
                ),
            ),
        ],
        &[],
    )
}

fn alarms() -> Value {
    let several = json!({"type": "array", "items": {"type": "array"}});
    let mut several_commands = several.clone();
    several_commands["items"] = json!({"allOf": [several["items"], reference("command")]});
    let urls =
        || or([json!({"type": "array", "maxItems": 0}), one_or_more(json!({}), reference("url"))]);
    let mut alarms = object(
        "Where transitions are reported, besides the journal.",
        vec![
            (
                "exec",
                described(
                    "Programs that are run on a transition: one, or a list of lists.",
                    or([reference("command"), several_commands]),
                ),
            ),
            (
                "user",
                usually(
                    "nobody",
                    described("The user they run as; not root.", reference("account")),
                ),
            ),
            ("webhooks", described("URLs that get transitions as JSON.", urls())),
            ("webhook", described("The same, for one URL.", urls())),
            ("mail", reference("mail")),
        ],
        &[],
    );
    alarms["not"] = json!({"required": ["webhook", "webhooks"]});
    alarms
}

fn mail() -> Value {
    let address = json!({"type": "string", "pattern": "^.+@.+$", "maxLength": 254});
    object(
        "Mail by SMTP.",
        vec![
            (
                "server",
                described(
                    "host:port of the server.",
                    json!({"type": "string", "pattern": "^.+:[0-9]{1,5}$"}),
                ),
            ),
            (
                "starttls",
                usually(
                    true,
                    described(
                        "Whether the server must offer STARTTLS, with a valid certificate.",
                        reference("boolean"),
                    ),
                ),
            ),
            ("from", described("The sender's address.", address.clone())),
            ("to", described("The recipients.", one_or_more(json!({}), address))),
        ],
        &["server", "from", "to"],
    )
}
