//! A `real_server` block.

use super::{
    super::{
        error::ImportError,
        report::{Effect, Note},
        table::{LvsServer, Method},
    },
    checker::{self, Context},
    tree::Node,
    value,
};

/// What a server inherits.
pub(super) struct Inherited<'a> {
    pub(super) context: Context<'a>,
    pub(super) method: Method,
    pub(super) weight: u32,
    pub(super) inhibit: bool,
    /// The service's port.
    pub(super) port: u16,
}

/// Reads a server.
pub(super) fn read(
    node: &Node,
    inherited: &Inherited<'_>,
    notes: &mut Vec<Note>,
) -> Result<LvsServer, ImportError> {
    let address = value::address(node, 1)?;
    let port = match value::port(node, 2)? {
        0 => inherited.port,
        port => port,
    };
    let mut server = LvsServer::new(node.place.clone(), address, port);
    server.method = inherited.method;
    server.weight = inherited.weight;
    server.inhibit = inherited.inhibit;
    let mut context = inherited.context.clone();
    // What checkers inherit may follow them.
    for line in node.lines() {
        if context.timers.take(line)? {
            continue;
        }
        match line.keyword() {
            "weight" => server.weight = value::number(line, "the weight")?,
            "uthreshold" => server.upper = value::number(line, "the threshold")?,
            "lthreshold" => server.lower = value::number(line, "the threshold")?,
            "inhibit_on_failure" => server.inhibit = line.word(1) != Some("false"),
            "lvs_method" | "lb_kind" => server.method = method(line)?,
            "virtualhost" => context.virtualhost = line.word(1).map(ToOwned::to_owned),
            "notify_up" | "notify_down" => notes.push(script(line, &inherited.context)),
            "smtp_alert" | "no_smtp_alert" | "smtp_alert_up" => notes.push(mail(line, &context)),
            "snmp_name" | "log_all_failures" => {}
            keyword if checker::is_one(keyword) => {}
            keyword => notes.push(unknown(line, keyword, &inherited.context)),
        }
    }
    for line in node.lines().iter().filter(|line| checker::is_one(line.keyword())) {
        checker::read(line, &context, &mut server, notes)?;
    }
    Ok(server)
}

/// `lvs_method DR`, `lvs_method TUN type gue port 6080`
pub(super) fn method(line: &Node) -> Result<Method, ImportError> {
    let kind = line.word(1).unwrap_or_default();
    match kind.to_ascii_uppercase().as_str() {
        "NAT" => Ok(Method::Nat),
        "DR" => Ok(Method::Direct),
        "TUN" => {
            let at = line.words.iter().position(|word| word.text == "type");
            match at.and_then(|at| line.word(at + 1)) {
                None | Some("ipip") => Ok(Method::Ipip),
                Some("gue") => Ok(Method::Gue),
                Some("gre") => Ok(Method::Gre),
                Some(other) => {
                    let message = format!("{other}: no type of tunnel");
                    Err(ImportError::at(&line.place, message, "write ipip, gue or gre"))
                }
            }
        }
        _ => {
            let message = format!("{} {kind}: no forwarding method", line.keyword());
            Err(ImportError::at(&line.place, message, "write NAT, DR or TUN"))
        }
    }
}

pub(super) fn script(line: &Node, context: &Context<'_>) -> Note {
    Note {
        place: line.place.clone(),
        subject: context.subject.to_owned(),
        what: "notify",
        effect: Effect::NotCarried,
        why: "no script is run for one service or server".into(),
        instead: "alarms: {exec: [[/path]]} runs one program on every transition; it gets \
                  service and backend, and may call the old script"
            .into(),
    }
}

pub(super) fn mail(line: &Node, context: &Context<'_>) -> Note {
    Note {
        place: line.place.clone(),
        subject: context.subject.to_owned(),
        what: "mail",
        effect: Effect::NotCarried,
        why: "mail is not switched on and off for one service or server".into(),
        instead: "alarms: {mail: {server, from, to}} sends every transition".into(),
    }
}

pub(super) fn unknown(line: &Node, keyword: &str, context: &Context<'_>) -> Note {
    Note {
        place: line.place.clone(),
        subject: context.subject.to_owned(),
        what: "keyword",
        effect: Effect::NotCarried,
        why: format!("{keyword} is unknown"),
        instead: "nothing, if the service works without it; is it spelt right?".into(),
    }
}
