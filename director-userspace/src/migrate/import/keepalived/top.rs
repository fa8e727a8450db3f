//! The blocks of a file.

use super::{
    super::{
        error::{ImportError, ImportErrors},
        report::{Effect, Note},
        table::LvsTable,
    },
    group,
    service::{self, File},
    tree::{Node, Tree},
};

/// Reads everything that concerns LVS; the rest becomes notes.
pub(super) fn read(tree: &Tree) -> Result<LvsTable, ImportErrors> {
    let mut table = LvsTable { notes: tree.notes.clone(), ..LvsTable::default() };
    let mut errors = ImportErrors::none();
    let mut file = File::default();
    // Groups and globals may follow the services.
    for node in &tree.nodes {
        match node.keyword() {
            "global_defs" => global(node, &mut file, &mut table, &mut errors),
            "virtual_server_group" => match (node.word(1), group::read(node)) {
                (Some(name), Ok(members)) => {
                    file.groups.entry(name.to_owned()).or_default().extend(members);
                }
                (None, _) => {
                    let message = "a virtual_server_group without a name";
                    errors.push(ImportError::at(&node.place, message, "write its name"));
                }
                (_, Err(error)) => errors.push(error),
            },
            _ => {}
        }
    }
    for node in &tree.nodes {
        match node.keyword() {
            "global_defs" | "virtual_server_group" => {}
            "virtual_server" => service::read(node, &file, &mut table, &mut errors),
            keyword => table.notes.push(other(node, keyword)),
        }
    }
    if errors.errors.is_empty() { Ok(table) } else { Err(errors) }
}

fn global(node: &Node, file: &mut File, table: &mut LvsTable, errors: &mut ImportErrors) {
    let mut rest: Vec<&str> = Vec::new();
    for line in node.lines() {
        let note = |what, why: &str, instead: &str| Note {
            place: line.place.clone(),
            subject: "global_defs".into(),
            what,
            effect: Effect::NotCarried,
            why: why.into(),
            instead: instead.into(),
        };
        match line.keyword() {
            "lvs_timeouts" => {
                for pair in line.words[1..].chunks(2) {
                    let number = pair.get(1).and_then(|word| word.text.parse::<u32>().ok());
                    let seconds = number.map(|n| std::time::Duration::from_secs(n.into()));
                    let timeouts = &mut table.timeouts;
                    let place = match pair[0].text.as_str() {
                        "tcp" => Some(&mut timeouts.tcp),
                        "tcpfin" => Some(&mut timeouts.tcp_closing),
                        "udp" => Some(&mut timeouts.udp),
                        _ => None,
                    };
                    match (place, seconds) {
                        (Some(place), Some(seconds)) => {
                            // 0 keeps the current value.
                            *place = Some(seconds).filter(|s| !s.is_zero()).or(*place);
                        }
                        _ => errors.push(ImportError::at(
                            &line.place,
                            format!("lvs_timeouts {}: no timeout", pair[0].text),
                            "write tcp, tcpfin or udp, each with seconds",
                        )),
                    }
                }
            }
            "script_user" => file.script_user = line.word(1).map(ToOwned::to_owned),
            "lvs_sync_daemon" => {
                table.notes.push(super::super::sync_daemon(line.place.clone()));
            }
            "notification_email" | "notification_email_from" | "smtp_server" => {
                table.notes.push(note(
                    "mail",
                    "mail is configured differently",
                    "alarms: {mail: {server, from, to}} sends every transition",
                ));
            }
            "enable_script_security" | "router_id" | "lvs_id" => {}
            keyword => rest.push(keyword),
        }
    }
    if !rest.is_empty() {
        table.notes.push(Note {
            place: node.place.clone(),
            subject: format!("global_defs: {}", rest.join(", ")),
            what: "global",
            effect: Effect::NotCarried,
            why: "these settings are keepalived's own".into(),
            instead: "nothing for those of VRRP, which stays with keepalived".into(),
        });
    }
}

/// A block that is not LVS's.
fn other(node: &Node, keyword: &str) -> Note {
    let name = node.word(1).unwrap_or_default();
    let (what, why, instead) = if keyword.starts_with("vrrp") {
        let instead = "leave VRRP to keepalived: remove only the virtual_server blocks from its \
                       file. Addresses that it moves to this host are Director's VIPs at once";
        ("vrrp", "Director does no VRRP", instead)
    } else if keyword == "bfd_instance" {
        ("bfd", "Director does no BFD", "leave it to keepalived")
    } else if keyword.starts_with("static_") || keyword == "track_group" {
        ("static", "Director sets no addresses and routes", "leave them to keepalived")
    } else if keyword == "track_file" {
        ("track-file", "no weight is read from a file", "an agent check of type exec can read it")
    } else {
        ("keyword", "this block is unknown", "nothing, if it does not concern LVS")
    };
    Note {
        place: node.place.clone(),
        subject: format!("{keyword} {name}").trim_end().to_owned(),
        what,
        effect: Effect::NotCarried,
        why: why.into(),
        instead: instead.into(),
    }
}
