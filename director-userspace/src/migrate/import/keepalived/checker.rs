//! Checkers: health checks of keepalived, as checks of Director.

use std::{num::NonZeroU16, ops::RangeInclusive, time::Duration};

use super::{
    super::{
        error::ImportError,
        report::{Effect, Note},
        table::LvsServer,
    },
    timing::{Defaults, Timers},
    tree::Node,
    value,
};
use crate::policy::config::model::{
    DnsProbe, ExecProbe, HealthCheck, HttpProbe, HttpVersion, Percent, Probe, Start, UdpProbe, Via,
};

/// What a checker inherits.
#[derive(Debug, Clone)]
pub(super) struct Context<'a> {
    pub(super) timers: Timers,
    pub(super) virtualhost: Option<String>,
    /// The user that scripts run as, if it is given.
    pub(super) script_user: Option<&'a str>,
    /// The subject of notes.
    pub(super) subject: &'a str,
}

/// Whether a keyword begins a checker.
pub(super) fn is_one(keyword: &str) -> bool {
    keyword.ends_with("_CHECK") || matches!(keyword, "HTTP_GET" | "SSL_GET")
}

/// The options of a checker.
#[derive(Default)]
struct Checker<'a> {
    timers: Timers,
    port: Option<NonZeroU16>,
    virtualhost: Option<String>,
    urls: Vec<&'a Node>,
    sni: Option<String>,
    command: String,
    user: Option<String>,
    name: Option<String>,
    record: Option<String>,
    payload: Option<String>,
    reply: Option<String>,
    /// Another address than the server's is checked.
    is_other_address: bool,
    /// Lines that are not carried over.
    unsupported: Vec<&'a Node>,
}

/// Reads a checker into the server's checks.
pub(super) fn read(
    node: &Node,
    context: &Context<'_>,
    server: &mut LvsServer,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    let mut checker = Checker { timers: context.timers.clone(), ..Checker::default() };
    checker.virtualhost.clone_from(&context.virtualhost);
    checker.user = context.script_user.map(ToOwned::to_owned);
    for line in node.lines() {
        checker.line(line, server)?;
    }
    let note = |what, effect, why: String, instead: &str| Note {
        place: node.place.clone(),
        subject: format!("{}, server {}", context.subject, server.address),
        what,
        effect,
        why,
        instead: instead.to_owned(),
    };
    let kind = node.keyword();
    if checker.is_other_address {
        let why = format!("{kind} with connect_ip checks another address than the server's");
        let instead = "check the server itself, or write an exec check";
        notes.push(note("check", Effect::NotCarried, why, instead));
        return Ok(());
    }
    let n_before = server.checks.len();
    let second = Duration::from_secs(1);
    let (retry, pause) = match kind {
        "HTTP_GET" | "SSL_GET" => (1, Some(3 * second)),
        "DNS_CHECK" => (3, None),
        "MISC_CHECK" => (0, Some(second)),
        _ => (1, Some(second)),
    };
    let timing = checker.timers.timing(Defaults { retry, delay_before_retry: pause });
    let check = |probe| HealthCheck {
        probe,
        interval: timing.interval,
        timeout: timing.timeout,
        rise: 1,
        fall: timing.fall,
        jitter: Percent(0),
        start: if checker.timers.alpha { Start::Down } else { Start::Up },
        port: checker.port,
        via: Via::Direct,
    };
    let mut add = |probe| server.checks.push((node.place.clone(), check(probe)));
    match kind {
        "TCP_CHECK" => add(Probe::Tcp),
        "PING_CHECK" => add(Probe::Icmp),
        "HTTP_GET" | "SSL_GET" => {
            let mut dropped = Vec::new();
            for url in &checker.urls {
                let http = http(url, &checker, kind == "SSL_GET", &mut dropped)?;
                add(if kind == "SSL_GET" { Probe::Https(http) } else { Probe::Http(http) });
            }
            if checker.urls.is_empty() {
                // keepalived refuses such a checker; a connection is the least it can mean.
                add(Probe::Tcp);
            }
            for (what, why) in dropped {
                let instead = "write a `body:` regular expression, or let the page return \
                               another status when something is wrong";
                notes.push(note(what, Effect::NotCarried, why, instead));
            }
        }
        "SMTP_CHECK" => {
            add(Probe::Tcp);
            let why = "there is no SMTP dialogue: only a connection is opened".into();
            let instead = "an exec check can speak SMTP";
            notes.push(note("smtp-check", Effect::Changed, why, instead));
        }
        "DNS_CHECK" => add(Probe::Dns(DnsProbe {
            name: checker.name.clone().unwrap_or_else(|| ".".into()),
            record: checker.record.clone().unwrap_or_else(|| "SOA".into()).to_ascii_uppercase(),
            answer: false,
        })),
        "UDP_CHECK" => match udp(&checker) {
            Ok(probe) => add(Probe::Udp(probe)),
            Err(why) => {
                let instead = "an exec check can send any bytes";
                notes.push(note("udp-check", Effect::NotCarried, why, instead));
            }
        },
        "MISC_CHECK" => match exec(&checker, server.address) {
            Ok((probe, is_other_user)) => {
                server.checks.push((node.place.clone(), check(Probe::Exec(probe))));
                if is_other_user {
                    let why = "checks never run as root: the script runs as nobody".into();
                    let instead = "let that user do what the script does, or name another in user:";
                    notes.push(note("script-user", Effect::Changed, why, instead));
                }
            }
            Err(why) => {
                let instead = "give the script's absolute path";
                notes.push(note("misc-check", Effect::NotCarried, why, instead));
            }
        },
        _ => {
            let why = format!("Director has no {kind}");
            let instead = "an exec check can test anything; without one the server counts as up";
            notes.push(note("check", Effect::NotCarried, why, instead));
        }
    }
    if server.checks.len() == n_before {
        return Ok(());
    }
    for line in checker.unsupported {
        let why = format!("{} of {kind} is not supported", line.keyword());
        notes.push(Note {
            place: line.place.clone(),
            subject: format!("{}, server {}", context.subject, server.address),
            what: "check-option",
            effect: Effect::NotCarried,
            why,
            instead: "leave it out if the check works without, or write an exec check".into(),
        });
    }
    Ok(())
}

impl<'a> Checker<'a> {
    fn line(&mut self, line: &'a Node, server: &LvsServer) -> Result<(), ImportError> {
        if self.timers.take(line)? {
            return Ok(());
        }
        let word = || line.word(1).unwrap_or_default().to_owned();
        match line.keyword() {
            "connect_port" => self.port = NonZeroU16::new(value::port(line, 1)?),
            "connect_ip" => self.is_other_address = value::address(line, 1)? != server.address,
            "virtualhost" => self.virtualhost = Some(word()),
            "url" => self.urls.push(line),
            // Director sends the name by default.
            "enable_sni" => {}
            "sni_name" => self.sni = Some(word()),
            "misc_path" => self.command = value::rest(line),
            "user" => self.user = Some(word()),
            "name" => self.name = Some(word()),
            "type" => self.record = Some(word()),
            "payload" => self.payload = Some(value::rest(line)),
            "require_reply" => self.reply = Some(value::rest(line)),
            // HTTP/1.1 works for all of them; failures are always logged.
            "http_protocol" | "log_all_failures" | "tls_compliant" => {}
            // Of the SMTP dialogue, which there is not.
            "helo_name" => {}
            // Old SMTP_CHECKs give their address in a block.
            "host" => {
                for line in line.lines() {
                    self.line(line, server)?;
                }
            }
            _ => self.unsupported.push(line),
        }
        Ok(())
    }
}

/// A `url` block. What is not supported goes to `dropped`.
fn http(
    url: &Node,
    checker: &Checker<'_>,
    is_tls: bool,
    dropped: &mut Vec<(&'static str, String)>,
) -> Result<HttpProbe, ImportError> {
    let mut probe = HttpProbe {
        method: "GET".into(),
        path: "/".into(),
        host: checker.virtualhost.clone(),
        headers: Vec::new(),
        status: Vec::new(),
        body: None,
        version: HttpVersion::Http1,
        sni: checker.sni.clone().filter(|_| is_tls),
        verify: false,
    };
    let mut is_caseless = false;
    for line in url.lines() {
        match line.keyword() {
            "path" => {
                let path = line.word(1).unwrap_or_default();
                probe.path = if path.starts_with('/') { path.into() } else { format!("/{path}") };
            }
            "status_code" => {
                for word in &line.words[1..] {
                    probe.status.push(status(line, &word.text)?);
                }
            }
            "virtualhost" => probe.host = line.word(1).map(ToOwned::to_owned),
            "digest" => {
                let why = "bodies are not compared by their MD5 digest: the status decides";
                dropped.push(("digest", why.into()));
            }
            "regex" => {
                let text = value::rest(line);
                match regex::bytes::Regex::new(&text) {
                    Ok(_) => probe.body = Some(text),
                    Err(_) => {
                        dropped
                            .push(("regex", format!("{text:?} is valid in PCRE only: left out")));
                    }
                }
            }
            "regex_options" => {
                is_caseless = line.words[1..].iter().any(|word| word.text == "caseless");
            }
            "regex_no_match" => {
                probe.body = None;
                dropped.push(("regex", "a body that must not match is not supported".into()));
                break;
            }
            other => dropped.push(("url-option", format!("{other} of a url is unknown"))),
        }
    }
    if is_caseless {
        probe.body = probe.body.map(|body| format!("(?i){body}"));
    }
    if probe.status.is_empty() {
        probe.status.push(200..=299);
    }
    Ok(probe)
}

/// `200`, or `200-204`.
fn status(line: &Node, text: &str) -> Result<RangeInclusive<u16>, ImportError> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=999).contains(code));
    match (code(low), code(high)) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high.min(599).max(low)),
        _ => {
            let message = format!("status_code {text}: no status code");
            Err(ImportError::at(&line.place, message, "write codes such as 200 or 200-299"))
        }
    }
}

fn udp(checker: &Checker<'_>) -> Result<UdpProbe, String> {
    let send = match &checker.payload {
        None => String::new(),
        Some(hex) => {
            let bytes = bytes(hex).ok_or("the payload is no even number of hex digits")?;
            let text = String::from_utf8(bytes);
            let is_plain = |text: &String| !text.chars().any(char::is_control);
            text.ok()
                .filter(is_plain)
                .ok_or("the payload's bytes are no text, and only text is sent")?
        }
    };
    let expect = checker.reply.as_ref().map(|hex| {
        let text = bytes(hex).and_then(|bytes| String::from_utf8(bytes).ok());
        match text.filter(|text| !text.is_empty() && text.is_ascii()) {
            Some(text) => format!("^{}", regex::escape(&text)),
            // Any answer: bytes that are no text, or wildcards.
            None => "(?s)^.*".to_owned(),
        }
    });
    Ok(UdpProbe { send, expect })
}

/// Bytes of hex digits, with or without blanks.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> =
        hex.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).ok()).collect()
}

/// A script. Servers' scripts differ by the server's address, so that is taken from the
/// environment. Also returns whether it runs as another user than with keepalived.
fn exec(checker: &Checker<'_>, server: std::net::IpAddr) -> Result<(ExecProbe, bool), String> {
    let words: Vec<&str> = checker.command.split_whitespace().collect();
    let Some(program) = words.first().filter(|word| word.starts_with('/')) else {
        return Err(format!("{:?} is no absolute path of a program", checker.command));
    };
    let is_shell = checker.command.contains(|c: char| "|&;<>()$`\\\"'*?[]#~{}".contains(c));
    let address = server.to_string();
    let command = if is_shell {
        let text = checker.command.replace(&address, "$DIRECTOR_ADDRESS");
        vec!["/bin/sh".to_owned(), "-c".to_owned(), text]
    } else if words[1..].contains(&address.as_str()) {
        let arguments = words[1..]
            .iter()
            .map(|word| if *word == address { "\"$DIRECTOR_ADDRESS\"" } else { word });
        let text: Vec<&str> = ["exec", program].into_iter().chain(arguments).collect();
        vec!["/bin/sh".to_owned(), "-c".to_owned(), text.join(" ")]
    } else {
        words.iter().map(|word| (*word).to_owned()).collect()
    };
    let named = checker.user.clone().filter(|user| user != "root");
    let is_other = named.is_none();
    let user = named.unwrap_or_else(|| "nobody".to_owned());
    Ok((ExecProbe { command, user }, is_other))
}
