//! Single values with a syntax of their own: HTTP, DNS, commands, the kernel.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use hyper::{
    Method, Uri,
    header::{HeaderName, HeaderValue},
};

use super::{
    mapping::{describe, items, untagged},
    scalar::scalar,
};
use crate::policy::config::{
    error::ConfigErrorKind as Kind,
    pattern::{BadPattern, MAX_COMPILED_IN_ALL},
    raw::Value,
    report::{Item, Report, quote},
};

/// Longest path of a Unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// A scalar of at most `max` bytes.
pub(super) fn short<'a>(
    item: &Item<'a>,
    expected: &str,
    max: usize,
    report: &mut Report<'_>,
) -> Option<&'a str> {
    let text = scalar(item, expected, report)?;
    if text.len() <= max {
        return Some(text);
    }
    let message = format!("{} is {} bytes long", quote(text), text.len());
    report.error(Kind::TooLong, item, message, format!("at most {max} bytes"))
}

/// A regular expression that compiles.
pub(super) fn regex(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = scalar(item, "a regular expression", report)?;
    let error = match report.patterns.check(text) {
        Ok(()) => return Some(text.to_owned()),
        Err(BadPattern::Itself(error)) => error,
        Err(BadPattern::TooManyInAll) => {
            let most = MAX_COMPILED_IN_ALL >> 20;
            let message = format!(
                "the regular expressions up to {} take more than {most} MiB once compiled",
                quote(text)
            );
            let hint = "the limit holds for all that differ together: use fewer, or smaller ones, \
                        such as [0-9a-z] or (?-u:\\w) in place of \\w";
            return report.error_once(Kind::TooManyRegexes, item, message, hint);
        }
    };
    let message = format!("the regular expression {} {error}", quote(text));
    let hint = "the syntax is that of https://docs.rs/regex; single quotes keep backslashes";
    report.error(Kind::BadRegex, item, message, hint)
}

/// `GET`, `HEAD`, ...
pub(super) fn method(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = short(item, "an HTTP method", 32, report)?;
    if Method::from_bytes(text.as_bytes()).is_ok() && text != "CONNECT" {
        return Some(text.to_owned());
    }
    let message = format!("{} is no HTTP method that a check could use", quote(text));
    report.error(Kind::BadMethod, item, message, "write GET, HEAD, OPTIONS or POST")
}

/// The path of a URL, with its query.
pub(super) fn url_path(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = short(item, "a path such as /healthz", 2048, report)?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if text.starts_with('/') && is_plain && text.parse::<Uri>().is_ok() {
        return Some(text.to_owned());
    }
    let message = format!("{} is no path of a URL", quote(text));
    let hint = "start with /, and write other than plain characters as %20";
    report.error(Kind::BadPath, item, message, hint)
}

/// A host name or an address, optionally with a port: the value of a Host header.
pub(super) fn host(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = short(item, "a host name", 261, report)?;
    if is_host(text.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(text, |(h, _)| h)) {
        return Some(text.to_owned());
    }
    let message = format!("{} is no host", quote(text));
    report.error(Kind::BadHost, item, message, "write a name such as www.example.net")
}

/// A host name alone.
pub(super) fn host_name(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = short(item, "a host name", 253, report)?;
    if is_host_name(text) && text.parse::<IpAddr>().is_err() {
        return Some(text.to_owned());
    }
    let message = format!("{} is no host name", quote(text));
    report.error(
        Kind::BadHost,
        item,
        message,
        "write a name such as www.example.net, not an address",
    )
}

/// `host:port`
pub(super) fn server(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = short(item, "a server such as mail.example.net:587", 261, report)?;
    if text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port)) {
        return Some(text.to_owned());
    }
    let message = format!("{} is not host:port", quote(text));
    let hint = "write name and port, such as mail.example.net:587; an IPv6 address in brackets";
    report.error(Kind::BadHost, item, message, hint)
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(text),
    }
}

fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= 253 && name.split('.').all(is_label)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse().is_ok_and(|port: u16| port != 0)
}

/// A header's name.
pub(super) fn header_name(
    text: &str,
    item: &Item<'_>,
    report: &mut Report<'_>,
) -> Option<HeaderName> {
    /// Headers that the HTTP client sets itself, or that would change the message's length.
    const REFUSED: [&str; 5] =
        ["connection", "content-length", "host", "transfer-encoding", "upgrade"];
    let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| text.len() <= 256);
    match name {
        Some(name) if !REFUSED.contains(&name.as_str()) => Some(name),
        Some(name) if name == "host" => {
            let message = "the Host header has a key of its own";
            report.error(Kind::BadHeader, item, message, "write `host:` beside `headers:`")
        }
        Some(name) => {
            let message = format!("a check cannot set {name}");
            report.error(Kind::BadHeader, item, message, "remove it; it is sent where needed")
        }
        None => {
            let message = format!("{} is no name of a header", quote(text));
            let hint = "letters, digits and -, such as X-Check";
            report.error(Kind::BadHeader, item, message, hint)
        }
    }
}

/// A header's value.
pub(super) fn header_value(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = short(item, "a header's value", 4096, report)?;
    // Servers differ in how they decode anything but ASCII.
    if HeaderValue::from_str(text).is_ok() && text.is_ascii() && text.trim() == text {
        return Some(text.to_owned());
    }
    let message = format!("{} is no value of a header", quote(text));
    let hint = "printable ASCII, without line breaks, and without spaces around it";
    report.error(Kind::BadHeader, item, message, hint)
}

/// `http://` or `https://`, with a host.
pub(super) fn url(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = short(item, "a URL", 2048, report)?;
    let problem = match text.parse::<Uri>() {
        Err(_) => "is no URL",
        Ok(_) if text.contains('#') => "has a fragment (#...), which is never sent",
        Ok(url) if !matches!(url.scheme_str(), Some("http" | "https")) => {
            "is no http:// or https:// URL"
        }
        Ok(url) => match url.authority() {
            Some(authority) if authority.as_str().contains('@') => "has a name or a password in it",
            Some(authority) if is_host(authority.host()) && authority.port_u16() != Some(0) => {
                return Some(text.to_owned());
            }
            _ => "names no host",
        },
    };
    let hint = "write the full URL, such as https://alerts.example.net/director";
    report.error(Kind::BadUrl, item, format!("{} {problem}", quote(text)), hint)
}

/// A mail address, without a name.
pub(super) fn mail_address(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = short(item, "a mail address", 254, report)?;
    if text.parse::<lettre::Address>().is_ok() {
        return Some(text.to_owned());
    }
    let message = format!("{} is no mail address", quote(text));
    let hint = "write the address alone, such as ops@example.net";
    report.error(Kind::BadMailAddress, item, message, hint)
}

/// A user or a group: a name, or a number. `what` says which. Its existence is not checked.
pub(super) fn account(item: &Item<'_>, what: &str, report: &mut Report<'_>) -> Option<String> {
    let text = scalar(item, &format!("a {what}"), report)?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=32).contains(&text.len()) && text.chars().all(is_name) && !text.starts_with('-') {
        return Some(text.to_owned());
    }
    let message = format!("{} cannot be the name of a {what}", quote(text));
    report.error(Kind::BadAccount, item, message, "1 to 32 letters, digits, _, - and .")
}

/// The user that a program runs as: any but root.
pub(super) fn user(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let name = account(item, "user", report)?;
    if name != "root" && !name.bytes().all(|byte| byte == b'0') {
        return Some(name);
    }
    let message = "programs are never run as root";
    report.error(Kind::BadAccount, item, message, "name an unprivileged user, such as nobody")
}

/// A program and its arguments: a list, or the program alone.
pub(super) fn command(item: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<String>> {
    const HINT: &str = "write the program's absolute path, or a list: [/usr/local/bin/check, -q]";
    let words: Vec<Item<'_>> = match untagged(item, report) {
        Value::Seq(_) => items(item, HINT, report)?.collect(),
        Value::Scalar(_) => vec![*item],
        _ => {
            let message = format!("expected a program, found {}", describe(item.node));
            return report.error(Kind::WrongType, item, message, HINT);
        }
    };
    let Some(program) = words.first() else {
        return report.error(Kind::EmptyList, item, "the list is empty", HINT);
    };
    let mut command = Vec::with_capacity(words.len());
    let mut complete = true;
    for word in &words {
        match short(word, "a word of a command", 4096, report) {
            Some(text) if text.contains('\0') => {
                let message = format!("{} has a zero byte in it", quote(text));
                report.error::<()>(Kind::BadCommand, word, message, "remove it");
                complete = false;
            }
            Some(text) => command.push(text.to_owned()),
            None => complete = false,
        }
    }
    if !complete {
        return None;
    }
    if command[0].starts_with('/') && !command[0].ends_with('/') {
        return Some(command);
    }
    let message = format!("{} is no absolute path of a program", quote(&command[0]));
    let hint = "no shell looks it up: write /usr/local/bin/check, and arguments as further words";
    report.error(Kind::BadCommand, program, message, hint)
}

/// The absolute path of a Unix socket.
pub(super) fn socket_path(item: &Item<'_>, report: &mut Report<'_>) -> Option<PathBuf> {
    let text = short(item, "a path", MAX_SOCKET_PATH, report)?;
    if text.starts_with('/') && !text.ends_with('/') && !text.contains('\0') {
        return Some(PathBuf::from(text));
    }
    let message = format!("{} is no absolute path of a socket", quote(text));
    report.error(Kind::BadSocket, item, message, "write one such as /run/director/director.sock")
}

/// `address:port`
pub(super) fn socket_address(item: &Item<'_>, report: &mut Report<'_>) -> Option<SocketAddr> {
    let text = scalar(item, "address:port", report)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            let message = format!("{} is not address:port", quote(text));
            let hint = "write an IP address and a port: \"127.0.0.1:9815\", \"[::1]:9815\"";
            report.error(Kind::BadSocket, item, message, hint)
        }
    }
}
