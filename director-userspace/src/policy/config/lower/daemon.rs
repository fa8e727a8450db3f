//! Settings of the daemon alone: its API and its alarms.

use std::net::SocketAddr;

use super::{
    mapping::{Keys, Mapping, describe, items, untagged},
    scalar, text,
};
use crate::policy::config::{
    error::{ConfigErrorKind as Kind, WarningKind},
    model::{Alarms, Api, Mail},
    raw::Value,
    report::{Item, Report},
};

pub(super) const API: Keys =
    Keys { known: &["socket", "group", "metrics", "page", "names"], unsupported: &[] };

pub(super) const ALARMS: Keys =
    Keys { known: &["exec", "user", "webhooks", "webhook", "mail"], unsupported: &[] };

pub(super) const MAIL: Keys =
    Keys { known: &["server", "starttls", "from", "to"], unsupported: &[] };

/// The document's `api`.
pub(super) fn api(item: &Item<'_>, report: &mut Report<'_>) -> Option<Api> {
    let mapping = Mapping::open(item, "api", &API, report)?;
    let socket = mapping.optional("socket", report, text::socket_path);
    let group =
        mapping.optional("group", report, |item, report| text::account(item, "group", report));
    let metrics = mapping.optional("metrics", report, listener);
    let page = mapping.optional("page", report, listener);
    let names = mapping.optional("names", report, |item, report| {
        some_of(item, report, |item, report| {
            Some(text::host_name(item, report)?.trim_end_matches('.').to_ascii_lowercase())
        })
    });
    if let (Some(Some(metrics)), Some(Some(page))) = (metrics, page)
        && metrics == page
        && let Some(item) = mapping.get("page")
    {
        let message = format!("{page} serves the metrics already");
        let hint = "give the page another port";
        return report.error(Kind::DuplicateListener, &item, message, hint);
    }
    Some(Api {
        names: names?.unwrap_or_default(),
        socket: socket?,
        group: group?,
        metrics: metrics?,
        page: page?,
    })
}

/// The address of a listener that serves any client.
fn listener(item: &Item<'_>, report: &mut Report<'_>) -> Option<SocketAddr> {
    let address = text::socket_address(item, report)?;
    if !address.ip().to_canonical().is_loopback() {
        let message = format!("{address} is open to other hosts");
        let hint = "any host that reaches it can read Director's state; use 127.0.0.1 for this one";
        report.warning(WarningKind::NotLoopback, item, message, hint);
    }
    Some(address)
}

/// The document's `alarms`.
pub(super) fn alarms(item: &Item<'_>, report: &mut Report<'_>) -> Option<Alarms> {
    let mapping = Mapping::open(item, "alarms", &ALARMS, report)?;
    let exec = mapping.optional("exec", report, commands);
    let user = mapping.optional("user", report, text::user);
    let webhooks =
        mapping.optional("webhooks", report, |item, report| some_of(item, report, text::url));
    let webhook =
        mapping.optional("webhook", report, |item, report| some_of(item, report, text::url));
    if let (Some(_), Some(item)) = (mapping.get("webhooks"), mapping.get("webhook")) {
        let message = "webhook and webhooks are two words for one key";
        return report.error(Kind::DuplicateKey, &item, message, "put all URLs into `webhooks:`");
    }
    let mail = mapping.optional("mail", report, mail);
    Some(Alarms {
        exec: exec?.unwrap_or_default(),
        user: user?,
        webhooks: webhooks?.or(webhook?).unwrap_or_default(),
        mail: mail?,
    })
}

/// Programs: a list of lists of words, or one such list, or one word.
fn commands(item: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<Vec<String>>> {
    let Value::Seq(nodes) = untagged(item, report) else {
        return text::command(item, report).map(|command| vec![command]);
    };
    if nodes.is_empty() {
        return Some(Vec::new());
    }
    if !nodes.iter().any(|node| matches!(node.value, Value::Seq(_))) {
        return text::command(item, report).map(|command| vec![command]);
    }
    let mut commands = Vec::new();
    let mut complete = true;
    for item in items(item, "", report)? {
        if matches!(item.node.value, Value::Seq(_)) {
            match text::command(&item, report) {
                Some(command) => commands.push(command),
                None => complete = false,
            }
        } else {
            let message = format!("expected a list of words, found {}", describe(item.node));
            let hint = "one program is a list of words, several are a list of such lists";
            report.error::<()>(Kind::WrongType, &item, message, hint);
            complete = false;
        }
    }
    complete.then_some(commands)
}

fn mail(item: &Item<'_>, report: &mut Report<'_>) -> Option<Mail> {
    let mapping = Mapping::open(item, "mail", &MAIL, report)?;
    let server = mapping
        .require("server", "write `server: mail.example.net:587`", report)
        .and_then(|item| text::server(&item, report));
    let starttls = mapping.optional("starttls", report, scalar::boolean);
    let from = mapping
        .require("from", "write `from:` and the sender's address", report)
        .and_then(|item| text::mail_address(&item, report));
    let to =
        mapping.require("to", "write `to:` and a list of addresses", report).and_then(|item| {
            let to = some_of(&item, report, text::mail_address)?;
            if to.is_empty() {
                let hint = "name the recipients, or remove `mail:`";
                return report.error(Kind::EmptyList, &item, "the list is empty", hint);
            }
            Some(to)
        });
    Some(Mail { server: server?, starttls: starttls?.unwrap_or(true), from: from?, to: to? })
}

/// One value, or a list of them.
fn some_of<T>(
    item: &Item<'_>,
    report: &mut Report<'_>,
    one: impl Fn(&Item<'_>, &mut Report<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    if !matches!(item.node.value, Value::Seq(_)) {
        return one(item, report).map(|one| vec![one]);
    }
    let all: Vec<Option<T>> = items(item, "", report)?.map(|item| one(&item, report)).collect();
    all.into_iter().collect()
}
