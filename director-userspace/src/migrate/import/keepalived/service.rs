//! A `virtual_server` block.

use std::{collections::HashMap, time::Duration};

use super::{
    super::{
        error::{ImportError, ImportErrors},
        ipvsadm_mask,
        report::{Effect, Note},
        table::{Identity, LvsHealth, LvsService, LvsTable, Method, Persistence, Protocol, Sorry},
    },
    checker::{Context, is_one},
    group::Member,
    server::{self, Inherited},
    timing::Timers,
    tree::Node,
    value,
};

/// Schedulers' flags.
const FLAGS: [&str; 4] = ["sh-port", "sh-fallback", "mh-port", "mh-fallback"];
/// keepalived's default, which is not ipvsadm's.
const PERSISTENCE: Duration = Duration::from_secs(360);

/// The settings of a whole file, besides its services.
#[derive(Default)]
pub(super) struct File {
    pub(super) groups: HashMap<String, Vec<Member>>,
    pub(super) script_user: Option<String>,
}

/// Which service a block is about.
enum Head {
    One(Identity),
    Group(String),
}

/// Reads a block into services: one, or as many as its group has members.
pub(super) fn read(node: &Node, file: &File, table: &mut LvsTable, errors: &mut ImportErrors) {
    if let Err(error) = try_read(node, file, table, errors) {
        errors.push(error);
    }
}

fn try_read(
    node: &Node,
    file: &File,
    table: &mut LvsTable,
    errors: &mut ImportErrors,
) -> Result<(), ImportError> {
    let protocol = protocol(node)?;
    let head = head(node, protocol)?;
    let subject = match &head {
        Head::One(identity) => identity.to_string(),
        Head::Group(name) => format!("group {name}"),
    };
    let context = Context {
        timers: Timers::default(),
        virtualhost: None,
        script_user: file.script_user.as_deref(),
        subject: &subject,
    };
    let port = match head {
        Head::One(Identity::Address { port, .. }) => port,
        _ => 0,
    };
    let mut inherited = Inherited { context, method: Method::Nat, weight: 1, inhibit: false, port };
    // A group's identity is a placeholder here.
    let identity = match &head {
        Head::One(identity) => *identity,
        Head::Group(_) => Identity::Mark { mark: 0, is_v6: false },
    };
    let mut service = LvsService::new(node.place.clone(), identity);
    options(node, &mut service, &mut inherited, &mut table.notes)?;
    // Options that follow the servers apply to them too.
    for line in node.lines().iter().filter(|line| line.keyword() == "real_server") {
        match server::read(line, &inherited, &mut table.notes) {
            Ok(server) => service.servers.push(server),
            Err(error) => errors.push(error),
        }
    }
    match head {
        Head::One(_) => table.services.push(service),
        Head::Group(name) => {
            let Some(members) = file.groups.get(&name) else {
                let message = format!("there is no virtual_server_group {name}");
                return Err(ImportError::at(&node.place, message, "add it, or correct the name"));
            };
            for member in members {
                let (place, identity) = match member {
                    Member::Address(place, address, port) => {
                        let (address, port) = (*address, *port);
                        (place, Identity::Address { protocol, address, port })
                    }
                    Member::Mark(place, mark) => {
                        (place, Identity::Mark { mark: *mark, is_v6: false })
                    }
                };
                let mut service = service.clone();
                service.identity = identity;
                service.place = place.clone();
                service.name = Some(name.clone());
                if let Identity::Address { port, .. } = identity {
                    for server in service.servers.iter_mut().filter(|server| server.port == 0) {
                        server.port = port;
                    }
                }
                table.services.push(service);
            }
        }
    }
    Ok(())
}

fn protocol(node: &Node) -> Result<Protocol, ImportError> {
    let Some(line) = node.lines().iter().rev().find(|line| line.keyword() == "protocol") else {
        return Ok(Protocol::Tcp);
    };
    let word = line.word(1).unwrap_or_default();
    match word.to_ascii_uppercase().as_str() {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        _ => {
            let message = format!("protocol {word}: no protocol of LVS");
            Err(ImportError::at(&line.place, message, "write TCP, UDP or SCTP"))
        }
    }
}

/// `virtual_server 192.0.2.10 80`, `virtual_server fwmark 3`, `virtual_server group NAME`
fn head(node: &Node, protocol: Protocol) -> Result<Head, ImportError> {
    match (node.word(1), node.word(2)) {
        (Some("fwmark"), Some(mark)) => {
            let mark = mark.parse().map_err(|_| {
                let message = format!("fwmark {mark}: no firewall mark");
                ImportError::at(&node.place, message, "write a whole number above 0")
            })?;
            // The family is the servers'.
            let servers = node.lines().iter().filter(|line| line.keyword() == "real_server");
            let is_v6 = servers.filter_map(|line| line.word(1)).any(|word| word.contains(':'));
            Ok(Head::One(Identity::Mark { mark, is_v6 }))
        }
        (Some("group"), Some(name)) => Ok(Head::Group(name.to_owned())),
        _ => {
            let (address, port) = (value::address(node, 1)?, value::port(node, 2)?);
            Ok(Head::One(Identity::Address { protocol, address, port }))
        }
    }
}

/// The lines of a block except its servers.
fn options(
    node: &Node,
    service: &mut LvsService,
    inherited: &mut Inherited<'_>,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    let mut granularity = None;
    for line in node.lines() {
        if inherited.context.timers.take(line)? {
            continue;
        }
        let word = || line.word(1).unwrap_or_default();
        match line.keyword() {
            "real_server" | "protocol" => {}
            "lvs_sched" | "lb_algo" => word().clone_into(&mut service.scheduler),
            "lvs_method" | "lb_kind" => inherited.method = server::method(line)?,
            "persistence_timeout" => {
                let timeout = match line.word(1) {
                    Some(_) => Duration::from_secs(value::number::<u32>(line, "a timeout")?.into()),
                    None => PERSISTENCE,
                };
                let persistence = Persistence { timeout, prefix: None };
                service.persistence = Some(persistence).filter(|p| !p.timeout.is_zero());
            }
            "persistence_granularity" => {
                granularity = Some(ipvsadm_mask(word()).map_err(|message| {
                    ImportError::at(&line.place, message, "write a netmask or a prefix's length")
                })?);
            }
            "persistence_engine" => service.engine = Some(word().to_owned()),
            "ops" => service.ops = true,
            flag if FLAGS.contains(&flag) => service.scheduler_flags.push(flag.to_owned()),
            "quorum" => service.health.quorum = value::number(line, "the quorum")?,
            "hysteresis" => service.health.hysteresis = value::number(line, "the hysteresis")?,
            "sorry_server" => {
                let address = value::address(line, 1)?;
                let port = match value::port(line, 2)? {
                    0 => inherited.port,
                    port => port,
                };
                let place = line.place.clone();
                let sorry = Sorry { place, address, port, method: Method::Nat };
                service.health.sorry = Some(sorry);
            }
            "inhibit_on_failure" => inherited.inhibit = line.word(1) != Some("false"),
            "weight" => inherited.weight = value::number(line, "the weight")?,
            "virtualhost" => {
                inherited.context.virtualhost = line.word(1).map(ToOwned::to_owned);
            }
            "quorum_up" | "quorum_down" => notes.push(server::script(line, &inherited.context)),
            "smtp_alert" | "no_smtp_alert" => notes.push(server::mail(line, &inherited.context)),
            "omega" => notes.push(Note {
                place: line.place.clone(),
                subject: inherited.context.subject.to_owned(),
                what: "omega",
                effect: Effect::NotCarried,
                why: "forwarding continues when the daemon stops".into(),
                instead: "nothing; `director detach` ends forwarding".into(),
            }),
            "ha_suspend" => notes.push(Note {
                place: line.place.clone(),
                subject: inherited.context.subject.to_owned(),
                what: "ha-suspend",
                effect: Effect::NotCarried,
                why: "servers are checked on every director, whichever owns the address".into(),
                instead: "nothing: a standby balances packets that arrive there too".into(),
            }),
            // Old and without effect, or for display only.
            "nat_mask"
            | "net_mask"
            | "snmp_name"
            | "ip_family"
            | "sorry_server_inhibit"
            | "hashed" => {}
            "sorry_server_lvs_method" => {}
            keyword if is_one(keyword) => {
                let note = server::unknown(line, keyword, &inherited.context);
                notes.push(note);
            }
            keyword => notes.push(server::unknown(line, keyword, &inherited.context)),
        }
    }
    if let (Some(persistence), Some(prefix)) = (&mut service.persistence, granularity) {
        persistence.prefix = Some(prefix).filter(|length| ![32, 128].contains(length));
    }
    // The last forwarding method of the servers applies to the sorry server too.
    if let LvsHealth { sorry: Some(sorry), .. } = &mut service.health {
        let own = node.lines().iter().rev().find(|l| l.keyword() == "sorry_server_lvs_method");
        sorry.method = own.map_or(Ok(inherited.method), server::method)?;
    }
    Ok(())
}
